"""The paper's tables with the columns of ours, so that they can stand beside each other."""

import pandas as pd

from headimpact.evaluation.metrics import METRICS as OURS
from headimpact.report.paper import METRICS, Tables, cell
from headimpact.report.paper import rows as records
from headimpact.report.paper.contradictions import table2_columns

Rows = list[dict[str, str]]


def same_model(source: str | None, tables: Tables) -> str | None:
    """The paper's name of the model that was loaded from ``source``, or None: it is not one of the paper's."""
    return next((row["model"] for row in records(tables["table1"]) if row["checkpoint"] == source), None)


def same_family(model: str, tables: Tables) -> str | None:
    """The paper's model whose name is part of the name ``model``, as in tiny-smolvlm, or None."""
    return next((name for name in tables["table1"]["model"] if name.lower() in model.lower()), None)


def rows(table: str, name: str, tables: Tables) -> Rows:
    """What ``table`` prints of the paper's model ``name``, in the columns that ours has.

    Args:
        table: table1 to table5.
        name: the model's name in the paper.
        tables: as :func:`headimpact.report.paper.read` gives them.
    """
    match table:
        case "table1":
            return _table1(name, tables)
        case "table2":
            return _table2(name, tables)
        case "table4":
            return _table4(name, tables)
        case "table5":
            return _table5(name, tables)
        case _:
            return _of(tables[table], name)


def _table1(name: str, tables: Tables) -> Rows:
    """The parameters are those of table 5, exact: total less trainable."""
    (row,), (counts,) = _of(tables["table1"], name), _of(tables["table5"], name)
    base = int(counts["total"]) - int(counts["trainable"])
    return [{"source": row["checkpoint"], "parameters": f"{base:,}", "layers": row["layers"], "heads": row["heads"]}]


def _table2(name: str, tables: Tables) -> Rows:
    """The tests that are the model's by their degrees of freedom, with the name that they are printed under."""
    tests = []
    for column in records(table2_columns(tables)):
        if column["model"] == name:
            printed = column["printed under"]
            for test in records(tables["table2"][tables["table2"]["column_as_printed"] == printed]):
                df = {"groups": test["groups"], "df": str(column[f"df of {test['groups']}"])}
                tests.append(df | {key: test[key] for key in ("statistic", "p_value")} | {"printed under": printed})
    return tests


def _table4(name: str, tables: Tables) -> Rows:
    printed = _of(tables["table4"], name)
    return [{"metric": OURS[metric].arrow} | {row["setup"]: cell(row, metric) for row in printed} for metric in METRICS]


def _table5(name: str, tables: Tables) -> Rows:
    """The counts are the same for every setup of four layers; the paper gives none for full."""
    (row,) = _of(tables["table5"], name)
    return [
        {"setup": "four layers"}
        | {key: f"{int(row[key]):,}" for key in ("total", "trainable")}
        | {"percent": row["percent"]}
    ]


def _of(table: pd.DataFrame, name: str) -> Rows:
    return [{key: row[key] for key in row if key != "model"} for row in records(table[table["model"] == name])]
