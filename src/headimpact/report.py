"""Tables 1 to 5, figures 4 and 5 and what they say, from the steps' files alone."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd

from headimpact import layout, plots
from headimpact.errors import InputError
from headimpact.files import atomic_folder, read_json

METRICS = {"accuracy": "accuracy ↑", "ans_prob": "AnsProb ↑", "perplexity": "perplexity ↓"}
MISSING = "missing"
_TITLES = {
    "table1": "Table 1. Models",
    "table2": "Table 2. Kruskal-Wallis test on Head Impact",
    "table3": "Table 3. Adapted layers",
    "table4": "Table 4. Results on the test part",
    "table5": "Table 5. Parameters",
}
_ABOUT_TABLE4 = (
    "Value ± standard error, and below it the paired difference against the original with its confidence "
    "interval. The largest absolute difference of a model is **bold**."
)
_ABOUT_VERDICTS = (
    "A setup's movement is the absolute value of its paired difference in table 4, its confidence interval "
    "folded at zero. More or less is claimed only where the intervals do not overlap."
)


@dataclass(frozen=True)
class Outputs:
    """What the steps have written for some models and setups; ``missing`` names the files not there."""

    models: tuple[str, ...]
    setups: tuple[str, ...]
    summaries: Mapping[str, Mapping[str, Any]]
    impacts: Mapping[str, pd.DataFrame]
    selections: Mapping[tuple[str, str], Mapping[str, Any]]
    results: Mapping[tuple[str, str], Mapping[str, Any]]
    headers: Mapping[tuple[str, str], Mapping[str, Any]]
    missing: tuple[Path, ...]

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Every model with every setup."""
        return [(model, setup) for model in self.models for setup in self.setups]


def collect(models: Sequence[str], setups: Sequence[str], root: Path = Path()) -> Outputs:
    """Read what exists of ``models`` x ``setups``. A model that has no file at all is left out of the tables.

    Raises:
        InputError: a file is there but broken.
    """
    cells = [(model, setup) for model in models for setup in setups]
    trained = [cell for cell in cells if cell[1] != "original"]
    paths = {
        "summaries": {model: layout.impact_summary(model) for model in models},
        "impacts": {model: layout.impact_table(model) for model in models},
        "selections": {cell: layout.selection(*cell) for cell in trained},
        "results": {cell: layout.results(*cell) for cell in cells},
        "headers": {cell: layout.adapter(*cell) / "header.json" for cell in trained},
    }
    read: dict[str, dict[Any, Any]] = {
        kind: {key: _read(root / path) for key, path in files.items() if (root / path).is_file()}
        for kind, files in paths.items()
    }
    missing = [path for kind, files in paths.items() for key, path in files.items() if key not in read[kind]]
    run = {key if isinstance(key, str) else key[0] for found in read.values() for key in found}
    return Outputs(
        models=tuple(model for model in models if model in run),
        setups=tuple(setups),
        missing=tuple(missing),
        **read,
    )


def _read(path: Path) -> Any:
    return pd.read_csv(path) if path.suffix == ".csv" else read_json(path)


def table1(outputs: Outputs) -> pd.DataFrame:
    """The models: source, parameters of the base, layers, heads."""
    rows = []
    for model in outputs.models:
        summary = outputs.summaries.get(model, {})
        header = _first(outputs.headers, model)
        counts = _first(outputs.results, model).get("parameters", {})
        rows.append(
            {
                "model": model,
                "source": header.get("source"),
                "parameters": counts["total"] - counts["trainable"] if counts else None,
                "layers": summary.get("layers"),
                "heads": summary.get("heads"),
            }
        )
    return _frame(rows, ("parameters", "layers", "heads"))


def _first(found: Mapping[tuple[str, str], Mapping[str, Any]], model: str) -> Mapping[str, Any]:
    return next((value for key, value in found.items() if key[0] == model), {})


def table2(outputs: Outputs) -> pd.DataFrame:
    """Kruskal-Wallis tests of Head Impact across layers and across heads: df, statistic, p-value."""
    rows = []
    for model in outputs.models:
        tests = outputs.summaries.get(model, {}).get("kruskal_wallis", {})
        for groups in ("layers", "heads"):
            test = tests.get(groups, {})
            rows.append(
                {"model": model, "groups": groups} | {key: test.get(key) for key in ("df", "statistic", "p_value")}
            )
    return _frame(rows, ("df",))


def table3(outputs: Outputs) -> pd.DataFrame:
    """The adapted layers of every setup, as in ``6 8 9 11``."""
    rows = []
    for model, setup in outputs.cells:
        if setup != "original":
            layers = outputs.selections.get((model, setup), {}).get("layers")
            told = None if layers is None else " ".join(map(str, layers))
            rows.append({"model": model, "setup": setup, "layers": told})
    return _frame(rows)


def table4(outputs: Outputs) -> pd.DataFrame:
    """Metrics of every setup with standard errors, and paired differences against the original.

    Columns for each metric: ``<metric>``, ``<metric>_se``, ``<metric>_n``, ``<metric>_difference`` with its
    confidence interval ``_low``, ``_high`` and ``_p_value``, and ``<metric>_largest``: the largest absolute
    difference of the model.
    """
    rows = [
        {"model": model, "setup": setup} | _metrics(outputs.results.get((model, setup), {}))
        for model, setup in outputs.cells
    ]
    counts = [f"{metric}_n" for metric in METRICS]
    table = _frame(rows, counts)
    figures = table.columns.difference(["model", "setup", *counts])
    table = table.astype(dict.fromkeys(figures, float))
    for metric in METRICS:
        size = table[f"{metric}_difference"].abs()
        largest = size.groupby(table["model"]).transform("max")
        table[f"{metric}_largest"] = (size == largest) & (size > 0)
    return table


def _metrics(results: Mapping[str, Any]) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for metric in METRICS:
        estimate = results.get("metrics", {}).get(metric, {})
        difference = results.get("against_original", {}).get(metric, {})
        columns |= {metric: estimate.get("value"), f"{metric}_se": estimate.get("se")}
        columns[f"{metric}_n"] = estimate.get("n")
        columns[f"{metric}_difference"] = difference.get("value")
        columns |= {f"{metric}_{name}": difference.get(name) for name in ("low", "high", "p_value")}
    return columns


def table5(outputs: Outputs) -> pd.DataFrame:
    """Total and trainable parameters of every setup that trains."""
    names = ("total", "trainable", "percent")
    rows = []
    for model, setup in outputs.cells:
        if setup != "original":
            counts = outputs.results.get((model, setup), {}).get("parameters", {})
            rows.append({"model": model, "setup": setup} | {name: counts.get(name) for name in names})
    return _frame(rows, names[:2])


def tables(outputs: Outputs) -> dict[str, pd.DataFrame]:
    """All five tables, by name."""
    return {table.__name__: table(outputs) for table in (table1, table2, table3, table4, table5)}


def _frame(rows: list[dict[str, Any]], whole: Iterable[str] = ()) -> pd.DataFrame:
    """The rows as a frame; the columns ``whole`` are whole numbers also where one is missing."""
    return pd.DataFrame(rows).astype(dict.fromkeys(whole, "Int64"))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], table.to_dict("records"))


def verdicts(table: pd.DataFrame) -> list[str]:
    """Did top-K move more than bottom-K and random-K? One sentence a model, K and metric, from table 4 alone.

    A setup's movement is the absolute paired difference against the original; its interval is that of the
    difference, folded at zero. Overlapping intervals decide nothing.
    """
    sentences = []
    for model, rows in table.groupby("model", sort=False):
        by_setup = {row["setup"]: row for row in _records(rows)}
        for top in by_setup:
            if found := re.fullmatch(r"top-(\d+)", top):
                rivals = [f"bottom-{found[1]}", f"random-{found[1]}"]
                sentences += [f"{model}, {_verdict(by_setup, top, rivals, metric)}" for metric in METRICS]
    return sentences


@dataclass(frozen=True)
class Movement:
    """How far a setup moved from the original, with its interval, all from 0."""

    size: float
    low: float
    high: float

    def __str__(self) -> str:
        """As in ``0.120 (0.100 to 0.140)``."""
        return f"{self.size:.3f} ({self.low:.3f} to {self.high:.3f})"


def movement(value: float, low: float, high: float) -> Movement:
    """The absolute difference: an interval that holds zero reaches down to zero."""
    ends = sorted((abs(low), abs(high)))
    return Movement(abs(value), 0.0 if low <= 0 <= high else ends[0], ends[1])


def _verdict(by_setup: Mapping[str, Any], top: str, rivals: Sequence[str], metric: str) -> str:
    moved = {setup: _movement(by_setup.get(setup, {}), metric) for setup in (top, *rivals)}
    known = {setup: found for setup, found in moved.items() if found is not None}
    if absent := [setup for setup in moved if setup not in known]:
        return f"{metric}: not known. There is no difference against the original for {_and(absent)}."
    more = [rival for rival in rivals if known[top].low > known[rival].high]
    less = [rival for rival in rivals if known[top].high < known[rival].low]
    open_ = [rival for rival in rivals if rival not in more and rival not in less]
    answer = "yes" if more == rivals else "no" if less else "it cannot be claimed"
    told = [f"moved more than {_and(more)}"] if more else []
    told += [f"moved less than {_and(less)}"] if less else []
    told += [f"cannot be told from {_and(open_)} (the intervals overlap)"] if open_ else []
    sizes = ", ".join(f"{setup} {found}" for setup, found in known.items())
    return f"{metric}: {answer}. {top} {', '.join(told)}. Absolute change against the original: {sizes}."


def _movement(row: Mapping[str, Any], metric: str) -> Movement | None:
    value, low, high = (row.get(f"{metric}_{name}", math.nan) for name in ("difference", "low", "high"))
    return None if math.isnan(value) else movement(value, low, high)


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; a cell without a value says so."""
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    lines = [list(table.columns), ["---"] * len(table.columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if pd.isna(value):
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def paper_table4(table: pd.DataFrame) -> pd.DataFrame:
    """Table 4 laid out as in the paper: a row a model and metric, a column a setup, cells as text."""
    rows = []
    for model, group in table.groupby("model", sort=False):
        for metric, name in METRICS.items():
            cells = {row["setup"]: _result(row, metric) for row in _records(group)}
            rows.append({"model": model, "metric": name} | cells)
    return pd.DataFrame(rows)


def _result(row: Mapping[str, Any], metric: str) -> str | None:
    if pd.isna(row[metric]):
        return None
    told = f"{row[metric]:.3f} ± {row[f'{metric}_se']:.3f}"
    told = f"**{told}**" if row[f"{metric}_largest"] else told
    if pd.isna(row[f"{metric}_difference"]):
        return told
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return f"{told}<br>{row[f'{metric}_difference']:+.3f} ({low:+.3f} to {high:+.3f})"


def write(models: Sequence[str], setups: Sequence[str], root: Path = Path()) -> Outputs:
    """Write ``reports/``: the tables as CSV and Markdown, figures 4 and 5, and report.md. All or nothing.

    Args:
        models: models to report, in order; those that were never run are only listed as missing.
        setups: setups to report, in order, with the original.
        root: the project root.

    Returns:
        What was found.

    Raises:
        InputError: no model has been run, or an output is there but broken.
    """
    outputs = collect(models, setups, root)
    if not outputs.models:
        raise InputError(f"There is nothing to report of {_and(models)}: run dvc repro first.")
    made = tables(outputs)
    with atomic_folder(root / layout.REPORTS) as folder:
        for name, table in made.items():
            table.to_csv(folder / f"{name}.csv", index=False)
            shown = paper_table4(table) if name == "table4" else table
            (folder / f"{name}.md").write_text(markdown(shown), encoding="utf-8")
        for model, impact in outputs.impacts.items():
            plots.save(plots.heatmap(impact, model), folder / f"figure4_{model}.png")
            plots.save(plots.profiles(impact, model), folder / f"figure5_{model}.png")
        (folder / "report.md").write_text(_report(outputs, made), encoding="utf-8")
    return outputs


def _report(outputs: Outputs, made: Mapping[str, pd.DataFrame]) -> str:
    parts = ["# Head Impact: report"]
    for name, table in made.items():
        shown = paper_table4(table) if name == "table4" else table
        parts += [f"## {_TITLES[name]}", *([_ABOUT_TABLE4] if name == "table4" else []), markdown(shown)]
    parts += ["## Did the top layers move more?", _ABOUT_VERDICTS]
    parts += [_list(verdicts(made["table4"]), "No setup top-K was run.")]
    parts += ["## Figure 4. Head Impact of every head", *_pictures("figure4", outputs.impacts)]
    parts += ["## Figure 5. Mean Head Impact by layer and by head", *_pictures("figure5", outputs.impacts)]
    parts += ["## Missing", _list([path.as_posix() for path in outputs.missing], "Nothing.")]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _pictures(name: str, models: Iterable[str]) -> list[str]:
    return [f"![{model}]({name}_{model}.png)" for model in models]


def _list(items: Sequence[str], otherwise: str) -> str:
    return "\n".join(f"- {item}" for item in items) or otherwise
