"""What a tournament says, from its files alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from headimpact.evaluation.metrics import Metric, gain_first
from headimpact.report.outputs import TournamentFiles
from headimpact.report.page import Block, Cell, Heading, Items, Picture, Table, Text
from headimpact.report.prose import tournament as prose
from headimpact.selection.rules import CHAMPION
from headimpact.text import listed
from headimpact.tournament.standings import headlines


def tournament(files: TournamentFiles | None) -> list[Block]:
    """The section: verdicts first, then figure and tables; how to hold one where there was none."""
    if files is None:
        return [Text(prose.ABSENT)]
    metrics = _metrics(files)
    gain, forgetting = ([metric for metric in metrics if metric.aspect == name] for name in ("gain", "forgetting"))
    labels = [listed([metric.label for metric in group]) for group in (gain, forgetting)]
    losses = [_direction(metric, better=False) for metric in forgetting]
    verdicts = [block for model, sentences in files.verdicts.items() for block in (Heading(model), Items(sentences))]
    return [
        *([Text(prose.ELSEWHERE)] if files.elsewhere else []),
        Text(prose.ABOUT),
        *verdicts,
        Heading("Gain against forgetting"),
        Picture(files.figure, prose.FIGURE.format(gain=labels[0], forgetting=labels[1]), wide=True),
        Heading("Every rule against the original"),
        Text(prose.CHANGES.format(gain=" or ".join(map(_direction, gain)), forgetting=" or ".join(losses))),
        _changes(files, metrics),
        Heading("Top by HI against every rival"),
        Text(prose.COMPARISONS.format(better=", ".join(map(_direction, metrics)))),
        _comparisons(files.comparisons, metrics),
        Heading("How many test images it would take"),
        Text(prose.IMAGES),
        _images(files.comparisons, metrics),
    ]


def against_rivals(files: TournamentFiles) -> list[Block]:
    """For the summary: what can be claimed of top by HI, a line a model and K."""
    lines = [f"{model}, {CHAMPION}-{k}: {line}." for (model, k), line in headlines(files.comparisons).items()]
    better = listed(list(map(_direction, _metrics(files))))
    return [Heading("Against every other rule"), Text(prose.RIVALS.format(better=better)), Items(lines)]


def _metrics(files: TournamentFiles) -> list[Metric]:
    """The metrics that the tournament has, gain first."""
    names = set(files.changes["metric"])
    return [metric for name, metric in gain_first().items() if name in names]


def _direction(metric: Metric, better: bool = True) -> str:
    """Which way is better, or worse: as in ``less perplexity``."""
    return f"{'more' if metric.higher_is_better == better else 'less'} {metric.label}"


def _changes(files: TournamentFiles, metrics: Sequence[Metric]) -> Table:
    columns = ["model", "rule", "K", "layers", "rank", "trainable parameters", "runs"]
    rows = []
    for (model, rule, k), changes in files.changes.groupby(["model", "rule", "k"], sort=False):
        cells = files.cells
        runs = cells[(cells["model"] == model) & (cells["rule"] == rule) & (cells["k"] == k)]
        by_metric = changes.set_index("metric")
        row = [Cell(str(model)), Cell(str(rule), strong=rule == CHAMPION), Cell(str(k)), _layers(runs["layers"])]
        row += [_layers(runs["rank"]), _span(runs["trainable"]), Cell(str(changes["runs"].iloc[0]))]
        rows.append([*row, *(_interval(by_metric.loc[metric.name], "value") for metric in metrics)])
    return Table([*columns, *(metric.label for metric in metrics)], rows)


def _layers(layers: pd.Series) -> Cell:
    sets = [text.replace(",", " ") for text in dict.fromkeys(layers)]
    return Cell(sets[0]) if len(sets) == 1 else Cell(f"{len(sets)} sets", "; ".join(sets))


def _span(counts: pd.Series) -> Cell:
    """The number that all runs have, or the least and the most."""
    return Cell(" to ".join(f"{count:,}" for count in sorted({int(counts.min()), int(counts.max())})))


def _interval(row: Any, value: str, strong: bool = False) -> Cell:
    return Cell(f"{row[value]:+.4f}", f"{row['low']:+.4f} to {row['high']:+.4f}", strong)


def _comparisons(comparisons: pd.DataFrame, metrics: Sequence[Metric]) -> Table:
    rows = []
    for rival, by_metric in _rivals(comparisons):
        if rival.same:
            cells = [Cell(prose.SAME_LAYERS)] * len(metrics)
        else:
            compared = [by_metric.loc[metric.name] for metric in metrics]
            cells = [_interval(row, "advantage", bool(row["low"] > 0 or row["high"] < 0)) for row in compared]
        rows.append([*rival.cells, *cells])
    return Table(["model", "K", "rival", *(f"{metric.label}: better by" for metric in metrics)], rows)


def _images(comparisons: pd.DataFrame, metrics: Sequence[Metric]) -> Table:
    wanted = comparisons.groupby("metric")["difference"].first()
    columns = [f"to see {wanted[metric.name]:g} {metric.label}" for metric in metrics]
    rows = []
    for rival, by_metric in _rivals(comparisons):
        if not rival.same:
            rows.append([*rival.cells, *(_needed(by_metric.loc[metric.name]) for metric in metrics)])
    return Table(["model", "K", "rival", *columns], rows)


def _needed(row: Any) -> Cell:
    images = row["images_needed"]
    seen = prose.SEEN_NOW.format(difference=row["visible"])
    return Cell(f"{images:,.0f}" if np.isfinite(images) else prose.MORE_RUNS, seen)


@dataclass(frozen=True)
class _Rival:
    """Rules that took the same layers; ``same``: the same as the champion's."""

    cells: list[Cell]
    same: bool


def _rivals(comparisons: pd.DataFrame) -> Iterator[tuple[_Rival, pd.DataFrame]]:
    """Every rival, those with the same layers together; its comparisons by metric."""
    seen = set()
    for (model, k, name), rows in comparisons.groupby(["model", "k", "rival"], sort=False):
        first = cast(dict[str, Any], rows.iloc[0].to_dict())
        twins = [twin for twin in first["twins"].split(", ") if twin]
        rules = sorted([str(name), *twins])
        if (model, k, *rules) in seen:
            continue
        seen.add((model, k, *rules))
        rival = _Rival([Cell(str(model)), Cell(str(k)), Cell(" = ".join(rules))], first["rule"] in twins)
        yield rival, rows.set_index("metric")
