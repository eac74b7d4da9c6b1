"""Tables 1 to 5 with the paper's beside them, and where the paper's contradict themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from headimpact.evaluation.metrics import COMPARED, Metric
from headimpact.evaluation.questions import QUESTIONS
from headimpact.report import paper
from headimpact.report.cells import MISSING, Row, estimate_cell, rows_of, table_of
from headimpact.report.outputs import Outputs
from headimpact.report.page import Block, Cell, Heading, Items, Text
from headimpact.report.paper import beside, contradictions
from headimpact.report.prose import results as prose
from headimpact.report.tables import by_setup
from headimpact.text import listed


def rows(name: str, table: pd.DataFrame) -> list[Row]:
    """The rows of one of the five tables as they are shown: table 4 as in the paper, a row a model and metric."""
    if name != "table4":
        return rows_of(table)
    return [
        {"model": Cell(model), "metric": Cell(metric.arrow)}
        | {setup: _result(row, metric) for setup, row in setups.items()}
        for model, setups in by_setup(table).items()
        for metric in COMPARED.values()
    ]


def _result(row: Mapping[str, Any], metric: Metric) -> Cell:
    value, error = row[metric.name], row[f"{metric.name}_se"]
    if pd.isna(value):
        return Cell(MISSING)
    difference, low, high = (row[f"{metric.name}_{name}"] for name in ("difference", "low", "high"))
    change = None if pd.isna(difference) else (difference, low, high)
    return estimate_cell(value, error, change, strong=bool(row[f"{metric.name}_largest"]))


def beside_paper(outputs: Outputs, name: str, table: pd.DataFrame, printed: paper.Tables) -> list[Block]:
    """A table with the paper's rows: among ours for the paper's own models, apart for models of the same family.

    Args:
        outputs: what the steps have written.
        name: table1 to table5.
        table: ours.
        printed: the paper's, as :func:`headimpact.report.paper.read` gives them.
    """
    sources = {model: outputs.source(model) for model in outputs.models}
    same = {model: beside.same_model(source, printed) for model, source in sources.items()}
    family = {model: beside.same_family(model, printed) for model in outputs.models if same[model] is None}
    blocks: list[Block] = [Text(prose.ABOUT[name])] if name in prose.ABOUT else []
    if _is_empty(table):
        blocks = [Text(prose.ABSENT[name].format(model=outputs.models[0]))]
    else:
        ours = rows(name, table)
        if any(same.values()):
            ours = _interleaved(ours, {model: _printed(name, twin, printed) for model, twin in same.items() if twin})
        blocks.append(table_of(ours))
        blocks += _questions(outputs) if name == "table4" else []
    apart = list(dict.fromkeys(filter(None, family.values())))
    if apart:
        blocks.append(Heading(prose.PAPER.format(table=name.replace("table", "table "))))
        if name == "table1":
            pairs = [(model, twin) for model, twin in family.items() if twin]
            blocks.append(Items([_other_model(model, twin, sources[model], printed) for model, twin in pairs]))
        blocks.append(
            table_of([{"model": Cell(twin)} | row for twin in apart for row in _printed(name, twin, printed)])
        )
    if (apart or any(same.values())) and name in prose.ABOUT_PAPER:
        blocks.append(Text(prose.ABOUT_PAPER[name]))
    return [*blocks, Text(_datasets(outputs))] if name == "table1" else blocks


def _questions(outputs: Outputs) -> list[Block]:
    """What questions there were, of every model where not every object had one of four options."""
    told = {
        model: results[QUESTIONS]["told"] for (model, _), results in outputs.results.items() if QUESTIONS in results
    }
    return [Text(prose.QUESTIONS), Items([f"{model}: {words}." for model, words in told.items()])] if told else []


def _is_empty(table: pd.DataFrame) -> bool:
    """Whether a table says nothing but the names of models and setups."""
    values = table.drop(columns=["model", "setup", "groups"], errors="ignore").select_dtypes(exclude="bool")
    return bool(values.isna().all(axis=None))


def _printed(name: str, twin: str, printed: paper.Tables) -> list[Row]:
    return [{column: Cell(text) for column, text in row.items()} for row in beside.rows(name, twin, printed)]


def _interleaved(ours: Sequence[Row], theirs: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Our rows of each model, then the paper's of the same model."""
    both = []
    for model in dict.fromkeys(row["model"].text for row in ours):
        of_model = [row for row in ours if row["model"].text == model]
        for origin, group in (("this run", of_model), ("paper", theirs.get(model, []))):
            both += [{"model": Cell(model), "from": Cell(origin)} | row for row in group]
    return both


def _datasets(outputs: Outputs) -> str:
    names = dict.fromkeys(summary["dataset"] for summary in outputs.summaries.values() if "dataset" in summary)
    return prose.DATASETS.format(datasets=listed(list(names))) if names else prose.DATASET_NOT_KNOWN


def _other_model(model: str, twin: str, source: str | None, printed: paper.Tables) -> str:
    checkpoint = printed["table1"].set_index("model").loc[twin, "checkpoint"]
    loaded = prose.LOADED.format(source=source) if source else prose.SOURCE_NOT_KNOWN
    return prose.OTHER_MODEL.format(model=model, loaded=loaded, name=twin, checkpoint=checkpoint)


def contradictions_found(printed: paper.Tables) -> list[Block]:
    """Every contradiction that was looked for in the paper's tables, with the rows that show it."""
    blocks: list[Block] = [Text(prose.CONTRADICTIONS)]
    for check in contradictions.checks(printed):
        verdict = "Found." if check.found else "Not found."
        blocks += [Heading(check.title), Text(f"{verdict} {check.words}")]
        blocks += [table_of(rows_of(check.table))] if len(check.table) else []
    return blocks
