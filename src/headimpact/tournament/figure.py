"""The figure of a tournament: gain against forgetting."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from headimpact.evaluation.metrics import Metric, gain_first
from headimpact.selection.rules import GROUPS, RULES
from headimpact.tournament.names import layers_of

# A colour that the colour-blind can tell from those of the groups of rules, and a shape.
_CHAMPION = ("#d55e00", "*")


def draw(changes: pd.DataFrame, champion: str = "top") -> Figure:
    """Gain against forgetting, every rule a point with the confidence intervals of its two changes.

    A column a K; for each model a row with every metric of forgetting (against every metric of gain). The limits follow
    the points: an interval far wider than the points lie apart leaves the panel. Rules that took the same layers are
    one point.

    Args:
        changes: columns model, rule, k, metric, value, low, high: adapter minus original.
        champion: the rule that stands out.
    """
    models, ks = list(dict.fromkeys(changes["model"])), sorted(set(changes["k"]))
    metrics = [metric for metric in gain_first().values() if metric.name in set(changes["metric"])]
    gains = [metric for metric in metrics if metric.aspect == "gain"]
    kept = [metric for metric in metrics if metric.aspect == "forgetting"]
    # Without questions nothing is known of forgetting: gain stands against itself.
    rows = list(product(models, gains, kept or gains))
    figure = Figure(figsize=(6.2 * len(ks), 4.2 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(ks), squeeze=False)
    for line, (model, across, up) in zip(grid, rows, strict=True):
        for axes, k in zip(line, ks, strict=True):
            panel = changes[(changes["model"] == model) & (changes["k"] == k)]
            axes.set_title(f"{model}, K = {k}")
            _gain_and_forgetting(axes, panel.set_index(["rule", "metric"]), across, up, champion)
    styles = {f"{champion} by HI": _CHAMPION} | {group.label: (group.colour, group.marker) for group in GROUPS}
    figure.legend(
        handles=[
            Line2D([], [], color=color, marker=marker, linestyle="", label=name, markersize=8)
            for name, (color, marker) in styles.items()
        ],
        loc="outside upper center",
        ncols=len(styles),
    )
    return figure


def _gain_and_forgetting(axes: Axes, changes: pd.DataFrame, across: Metric, up: Metric, champion: str) -> None:
    """One panel: ``changes`` of one model and K, by rule and metric."""
    axes.set_xlabel(_axis_label(across))
    axes.set_ylabel(_axis_label(up))
    names: dict[tuple[float, ...], list[str]] = {}
    for rule in changes.index.unique("rule"):
        x, y = changes.loc[(rule, across.name)], changes.loc[(rule, up.name)]
        names.setdefault((x["value"], x["low"], x["high"], y["value"], y["low"], y["high"]), []).append(str(rule))
    if not names:
        axes.set_axis_off()
        return
    points = np.array(list(names))
    _follow(axes, points)
    for zero in (axes.axhline, axes.axvline):
        zero(0, color="tab:gray", linestyle="--", linewidth=0.8, zorder=1)
    for point, rules in zip(points, names.values(), strict=True):
        x, y = point[[0, 3]]
        color, marker = _style(rules, champion)
        top = champion in rules
        axes.errorbar(
            x,
            y,
            xerr=[[x - point[1]], [point[2] - x]],
            yerr=[[y - point[4]], [point[5] - y]],
            fmt=marker,
            color=color,
            ecolor=(color, 0.9 if top else 0.3),
            elinewidth=1.6 if top else 0.8,
            markersize=15 if top else 7,
            markeredgecolor="white",
            zorder=4 if top else 3,
        )
    _label(axes, points[:, [0, 3]], [" = ".join(rules) for rules in names.values()], champion)


def _axis_label(metric: Metric) -> str:
    better = "better \N{RIGHTWARDS ARROW}" if metric.higher_is_better else "\N{LEFTWARDS ARROW} better"
    return f"{metric.label}, adapter minus original ({better})"


def _style(rules: list[str], champion: str) -> tuple[str, str]:
    if champion in rules:
        return _CHAMPION
    rule = RULES[layers_of(rules[0])]
    return rule.colour, rule.marker


def _follow(axes: Axes, points: np.ndarray) -> None:
    """Limits with room for labels beside the points, and for intervals no wider than the points lie apart."""
    for value, low, set_limits, room in ((0, 1, axes.set_xlim, 0.55), (3, 4, axes.set_ylim, 0.1)):
        values, half = points[:, value], points[:, value] - points[:, low]
        apart = np.ptp(values) or half.max() or 1e-3
        margin = room * apart + min(half.max(), 0.5 * apart)
        set_limits(values.min() - margin, values.max() + margin)


def _label(axes: Axes, points: np.ndarray, labels: list[str], champion: str) -> None:
    """Names at the sides, each with a line to its point: those of the left half at the left."""
    low, high = axes.get_ylim()
    by_place = np.argsort(points[:, 0], kind="stable")
    half = (len(points) + 1) // 2
    for chosen, place, align in ((by_place[:half], 0.015, "left"), (by_place[half:], 0.985, "right")):
        upwards = chosen[np.argsort(points[chosen, 1], kind="stable")]
        heights = _spread((points[upwards, 1] - low) / (high - low), gap=0.065)
        for index, height in zip(upwards, heights, strict=True):
            strong = champion in labels[index].split(" = ")
            axes.annotate(
                labels[index],
                (points[index, 0], points[index, 1]),
                (place, height),
                textcoords="axes fraction",
                fontsize=9,
                fontweight="bold" if strong else "normal",
                ha=align,
                va="center",
                arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": "tab:gray", "shrinkB": 3},
                zorder=5,
            )


def _spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Ascending places between 0 and 1, at least ``gap`` apart where there is room, as wanted where that is kept."""
    gap = min(gap, 1 / max(len(wanted), 1))
    places = wanted.copy()
    for i in range(len(places)):
        places[i] = max(places[i], places[i - 1] + gap if i else gap / 2)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], places[i + 1] - gap if i + 1 < len(places) else 1 - gap / 2)
    return places
