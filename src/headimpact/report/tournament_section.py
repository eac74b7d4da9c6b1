"""What a tournament found, as a section of the report, from the tournament's files alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from headimpact.evaluation.metrics import gain_first
from headimpact.report.page import Block, Cell, Heading, Items, Picture, Table, Text

_ABSENT = (
    "No tournament has been run. To set the rules of selection against each other, run mlflow run . -e tournament "
    "(or dvc repro tournament), then the report again."
)
_ABOUT = (
    "Every rule of selection at the same number of trainable parameters (full: at ranks that add up to it), trained "
    "with several seeds (draws of random layers: one seed each) and measured on the same test objects as the original. "
    "Every interval covers both other test images and other runs; n says how many there are."
)
_ABOUT_CHANGES = (
    "Mean over the runs of a rule, adapter minus original, and below it the 95 % confidence interval of this change "
    "alone. Less perplexity is gain; less accuracy or AnsProb is forgetting."
)
_ABOUT_COMPARISONS = (
    "How much better (below 0: worse) top by HI does than each rival: less perplexity, more accuracy, more AnsProb. "
    "Below it the interval; all intervals of one model hold the truth at once with 95 % confidence (Bonferroni, half "
    "of it for the random draws), provided that seeds move the rules of one K about alike. Where those of top vary "
    "five times as much as the others', one of ten simulated tournaments without any difference made a claim: then "
    "take more seeds. What can be claimed stands out. Rules joined by = took the same layers and have the same runs."
)
_ABOUT_IMAGES = (
    "Test images with which a true difference of that size would be claimed with probability 0.8, with as many runs as "
    "now; below it the smallest difference that the present number of test images shows so. Where the runs alone vary "
    "too much, only more seeds or draws help. An order of size: the spread is estimated from few runs."
)
_SAME = "the same layers"
_MORE_RUNS = "more runs"


@dataclass(frozen=True)
class Found:
    """The files of a tournament: see :class:`standings.Standings`; ``cells`` has one row a run, and a digest, by which
    MLflow knows the tournament.

    Columns of ``cells``: model, rule, k, seed, draw, layers as in ``0,3``, rank as in ``8`` or ``2 to 3``, trainable.
    """

    changes: pd.DataFrame
    comparisons: pd.DataFrame
    cells: pd.DataFrame
    cells_digest: str
    verdicts: Mapping[str, Sequence[str]]
    figure: Path


def blocks(found: Found | None, figure: Path) -> list[Block]:
    """The section: verdicts first, then figure and tables; how to get one where there was no tournament.

    Args:
        found: what :func:`read` gave.
        figure: where the report keeps its copy of the figure.
    """
    if found is None:
        return [Text(_ABSENT)]
    told = [block for model, sentences in found.verdicts.items() for block in (Heading(model), Items(sentences))]
    return [
        Text(_ABOUT),
        *told,
        Heading("Gain against forgetting"),
        Picture(figure, "test perplexity against accuracy and AnsProb, adapter minus original", wide=True),
        Heading("Every rule against the original"),
        Text(_ABOUT_CHANGES),
        _changes(found),
        Heading("Top by HI against every rival"),
        Text(_ABOUT_COMPARISONS),
        _comparisons(found.comparisons),
        Heading("How many test images it would take"),
        Text(_ABOUT_IMAGES),
        _images(found.comparisons),
    ]


def _changes(found: Found) -> Table:
    columns = ["model", "rule", "K", "layers", "rank", "trainable parameters", "runs"]
    metrics = gain_first()
    names = [metric.label for metric in metrics.values()]
    rows = []
    for (model, rule, k), own in found.changes.groupby(["model", "rule", "k"], sort=False):
        cells = found.cells
        runs = cells[(cells["model"] == model) & (cells["rule"] == rule) & (cells["k"] == k)]
        by_metric = own.set_index("metric")
        what = [Cell(str(model)), Cell(str(rule), strong=rule == "top"), Cell(str(k)), _layers(runs["layers"])]
        what += [_layers(runs["rank"]), _same(runs["trainable"]), Cell(str(own["runs"].iloc[0]))]
        rows.append([*what, *(_interval(by_metric.loc[name], "value") for name in metrics)])
    return Table([*columns, *names], rows)


def _layers(layers: pd.Series) -> Cell:
    taken = [text.replace(",", " ") for text in dict.fromkeys(layers)]
    return Cell(taken[0]) if len(taken) == 1 else Cell(f"{len(taken)} sets", "; ".join(taken))


def _same(counts: pd.Series) -> Cell:
    """The number that all runs have."""
    return Cell(" to ".join(f"{count:,}" for count in sorted({int(counts.min()), int(counts.max())})))


def _interval(row: Any, value: str, strong: bool = False) -> Cell:
    return Cell(f"{row[value]:+.4f}", f"{row['low']:+.4f} to {row['high']:+.4f}", strong)


def _comparisons(comparisons: pd.DataFrame) -> Table:
    metrics = gain_first()
    names = [f"{metric.label}: better by" for metric in metrics.values()]
    rows = []
    for what, by_metric in _rivals(comparisons):
        if what.same:
            cells = [Cell(_SAME)] * len(names)
        else:
            found = [by_metric.loc[name] for name in metrics]
            cells = [_interval(row, "advantage", bool(row["low"] > 0 or row["high"] < 0)) for row in found]
        rows.append([*what.cells, *cells])
    return Table(["model", "K", "rival", *names], rows)


def _images(comparisons: pd.DataFrame) -> Table:
    metrics = gain_first()
    wanted = comparisons.groupby("metric")["difference"].first()
    names = [f"to see {wanted[name]:g} {metric.label}" for name, metric in metrics.items()]
    rows = []
    for what, by_metric in _rivals(comparisons):
        if not what.same:
            rows.append([*what.cells, *(_needed(by_metric.loc[name]) for name in metrics)])
    return Table(["model", "K", "rival", *names], rows)


def _needed(row: Any) -> Cell:
    images = row["images_needed"]
    return Cell(f"{images:,.0f}" if np.isfinite(images) else _MORE_RUNS, f"{row['visible']:.3g} is seen now")


@dataclass(frozen=True)
class _Rival:
    cells: list[Cell]
    same: bool


def _rivals(comparisons: pd.DataFrame) -> Iterator[tuple[_Rival, pd.DataFrame]]:
    """Every rival, those with the same layers together; its comparisons by metric."""
    seen = set()
    for (model, k, rival), own in comparisons.groupby(["model", "k", "rival"], sort=False):
        first = cast(dict[str, Any], own.iloc[0].to_dict())
        twins = [name for name in first["twins"].split(", ") if name]
        rules = sorted([str(rival), *twins])
        if (model, k, *rules) in seen:
            continue
        seen.add((model, k, *rules))
        same = first["rule"] in twins
        yield _Rival([Cell(str(model)), Cell(str(k)), Cell(" = ".join(rules))], same), own.set_index("metric")
