"""Tables 1 to 5 as data: what the CSV files hold."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from headimpact.evaluation.beside_original import same_objects
from headimpact.evaluation.metrics import COMPARED
from headimpact.report.outputs import ORIGINAL, Outputs, Pair
from headimpact.report.rows import records
from headimpact.statistics import Difference


def table1(outputs: Outputs) -> pd.DataFrame:
    """The models: source, parameters of the base, layers, heads."""
    rows = []
    for model in outputs.models:
        summary = outputs.summaries.get(model, {})
        results = next((results for (name, _), results in outputs.results.items() if name == model), {})
        counts = results.get("parameters")
        rows.append(
            {
                "model": model,
                "source": outputs.source(model),
                "parameters": counts["total"] - counts["trainable"] if counts else None,
                "layers": summary.get("layers"),
                "heads": summary.get("heads"),
            }
        )
    return _frame(rows, ("model", "source", "parameters", "layers", "heads"), ("parameters", "layers", "heads"))


def table2(outputs: Outputs) -> pd.DataFrame:
    """Kruskal-Wallis tests of Head Impact across layers and across heads: df, statistic, p-value."""
    columns = ("df", "statistic", "p_value")
    rows = []
    for model in outputs.models:
        tests = outputs.summaries.get(model, {}).get("kruskal_wallis", {})
        for groups in ("layers", "heads"):
            test = tests.get(groups, {})
            rows.append({"model": model, "groups": groups} | {name: test.get(name) for name in columns})
    return _frame(rows, ("model", "groups", *columns), ("df",))


def table3(outputs: Outputs) -> pd.DataFrame:
    """The adapted layers of every setup, as in ``6 8 9 11``."""
    rows = []
    for model, setup in outputs.trained:
        layers = outputs.selections.get((model, setup), {}).get("layers")
        rows.append({"model": model, "setup": setup, "layers": None if layers is None else " ".join(map(str, layers))})
    return _frame(rows, ("model", "setup", "layers"))


def table4(outputs: Outputs) -> pd.DataFrame:
    """Metrics of every setup with standard errors, and paired differences against the original.

    The differences are computed here, from the objects of both. One whose objects are not there, are not those of the
    original, or were written before there was the metric, is not known.

    Columns for each compared metric: ``<metric>``, ``<metric>_se``, ``<metric>_n``, ``<metric>_difference`` with its
    confidence interval ``_low``, ``_high`` and ``_p_value``, and ``<metric>_largest``: the largest absolute
    difference of the model.
    """
    rows = [{"model": pair[0], "setup": pair[1]} | _metrics(outputs, pair) for pair in outputs.pairs]
    counts = [f"{metric}_n" for metric in COMPARED]
    values = [
        f"{metric}{ending}"
        for metric in COMPARED
        for ending in ("", "_se", "_n", "_difference", "_low", "_high", "_p_value")
    ]
    table = _frame(rows, ("model", "setup", *values), counts)
    table = table.astype(dict.fromkeys([name for name in values if name not in counts], float))
    for metric in COMPARED:
        size = table[f"{metric}_difference"].abs()
        largest = size.groupby(table["model"]).transform("max")
        table[f"{metric}_largest"] = (size == largest) & (size > 0)
    return table


def _metrics(outputs: Outputs, pair: Pair) -> dict[str, float | None]:
    estimates = outputs.results.get(pair, {}).get("metrics", {})
    changes = differences(outputs, pair)
    columns: dict[str, float | None] = {}
    for metric in COMPARED:
        estimate, change = estimates.get(metric, {}), changes.get(metric)
        columns |= {metric: estimate.get("value"), f"{metric}_se": estimate.get("se")}
        columns[f"{metric}_n"] = estimate.get("n")
        columns[f"{metric}_difference"] = change.value if change else None
        columns |= {f"{metric}_{name}": getattr(change, name, None) for name in ("low", "high", "p_value")}
    return columns


def differences(outputs: Outputs, pair: Pair) -> dict[str, Difference]:
    """The paired difference of every compared metric against the original, as far as the objects of both have it."""
    objects, original = outputs.objects.get(pair), outputs.objects.get((pair[0], ORIGINAL))
    if pair[1] == ORIGINAL or objects is None or original is None or not same_objects(objects, original):
        return {}
    columns = set(objects) & set(original)
    return {
        name: metric.difference(objects, original)
        for name, metric in COMPARED.items()
        if columns.issuperset(metric.columns) and metric.is_measured(objects)
    }


def table5(outputs: Outputs) -> pd.DataFrame:
    """Total and trainable parameters of every setup that trains."""
    names = ("total", "trainable", "percent")
    rows = []
    for model, setup in outputs.trained:
        counts = outputs.results.get((model, setup), {}).get("parameters", {})
        rows.append({"model": model, "setup": setup} | {name: counts.get(name) for name in names})
    return _frame(rows, ("model", "setup", *names), names[:2])


def tables(outputs: Outputs) -> dict[str, pd.DataFrame]:
    """All five tables, by name."""
    return {table.__name__: table(outputs) for table in (table1, table2, table3, table4, table5)}


def _frame(rows: list[dict[str, Any]], columns: Iterable[str], whole: Iterable[str] = ()) -> pd.DataFrame:
    """The rows as a frame; the columns ``whole`` are whole numbers also where one is missing."""
    return pd.DataFrame(rows, columns=list(columns)).astype(dict.fromkeys(whole, "Int64"))


def by_setup(table: pd.DataFrame) -> Mapping[str, dict[str, dict[str, Any]]]:
    """By model, the rows of table 4 by setup, both in the order of the table."""
    return {
        str(model): {row["setup"]: row for row in records(rows)} for model, rows in table.groupby("model", sort=False)
    }
