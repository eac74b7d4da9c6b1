"""Figures: no pyplot, no global state, the same bytes for the same data."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from headimpact.files import atomic_file
from headimpact.impact.head_impact import head_grid

_HI = "Head Impact"


def heatmap(table: pd.DataFrame, title: str = "") -> Figure:
    """Head Impact of every head, layers down, heads across (paper, figure 4); a layer that has no attention is hatched.

    Args:
        table: the HI table, columns layer, head, hi (0..1).
        title: what was scored.

    Raises:
        InputError: the table does not hold every layer x head once, in order.
    """
    grid = head_grid(table)
    layers, heads = grid.shape
    figure = Figure(figsize=(2.4 + 0.22 * heads, 1.4 + 0.22 * layers), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="head", ylabel="layer")
    image = axes.imshow(grid, cmap="viridis", aspect="auto")
    for layer in np.flatnonzero(np.isnan(grid).all(axis=1)):
        axes.axhspan(layer - 0.5, layer + 0.5, facecolor="0.9", edgecolor="0.6", hatch="////", linewidth=0)
    if np.isnan(grid).any():
        axes.set_xlabel("head (hatched: layers without attention)")
    _whole_ticks(axes)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, label=_HI)
    return figure


def layer_profile(table: pd.DataFrame, title: str = "") -> Figure:
    """Head Impact averaged over each layer's heads, with its chance level (paper, figure 5, top).

    Args:
        table: the HI table, columns layer, head, hi, chance (0..1).
        title: what was scored.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    _profile(figure.add_subplot(title=title), table, "layer", chance=True)
    return figure


def head_profile(table: pd.DataFrame, title: str = "") -> Figure:
    """Head Impact averaged over the layers at each head position (paper, figure 5, bottom).

    Args:
        table: the HI table, columns layer, head, hi (0..1).
        title: what was scored.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    _profile(figure.add_subplot(title=title), table, "head")
    return figure


def profiles(table: pd.DataFrame, title: str = "") -> Figure:
    """Both profiles, layers above heads (paper, figure 5). Arguments as for :func:`layer_profile`."""
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    above, below = figure.subplots(2)
    above.set_title(title)
    _profile(above, table, "layer", chance=True)
    _profile(below, table, "head")
    return figure


def history(history: pd.DataFrame, title: str = "") -> Figure:
    """Training loss and validation perplexity by step.

    Args:
        history: columns step, metric (train/loss and val/perplexity are drawn), value.
        title: what was trained.
    """
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.set_title(title)
    for axes, metric, style in ((above, "train/loss", "-"), (below, "val/perplexity", "o-")):
        rows = history[history["metric"] == metric].sort_values("step", kind="stable")
        axes.plot(rows["step"].to_numpy(), rows["value"].to_numpy(), style, markersize=4)
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
    below.set_xlabel("step")
    _whole_ticks(below)
    return figure


def learning_curve(curve: pd.DataFrame, title: str = "") -> Figure:
    """The phases of a pretraining side by side: loss above, held-out measures below.

    Args:
        curve: columns phase, step, metric, value.
        title: what was trained.
    """
    phases = list(dict.fromkeys(curve["phase"]))
    figure = Figure(figsize=(3.2 * len(phases), 4.8), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(2, len(phases), sharex="col", squeeze=False)
    for column, phase in enumerate(phases):
        rows = curve[curve["phase"] == phase]
        above, below = grid[0, column], grid[1, column]
        above.set_title(phase)
        loss = rows[rows["metric"] == "loss"]
        above.plot(loss["step"].to_numpy(), loss["value"].to_numpy(), linewidth=0.7)
        for metric, points in rows[~rows["metric"].isin(["loss", "perplexity"])].groupby("metric"):
            below.plot(points["step"].to_numpy(), points["value"].to_numpy(), ".-", label=str(metric))
        below.set_ylim(0, 1)
        below.set_xlabel("step")
        if below.lines:
            below.legend(fontsize="small")
    grid[0, 0].set_ylabel("loss")
    grid[1, 0].set_ylabel("share right, held out")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG that holds the picture alone: no time, no software version; whole or not at all."""
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=120, metadata={"Software": None})


def _profile(axes: Axes, table: pd.DataFrame, by: str, chance: bool = False) -> None:
    """Mean with dots, its standard error over what is averaged as a band, regression line dashed."""
    grouped = table.groupby(by, sort=True)
    mean = grouped["hi"].mean()
    x, y = mean.index.to_numpy(), mean.to_numpy()
    error = grouped["hi"].sem().fillna(0.0).to_numpy()
    axes.fill_between(x, y - error, y + error, alpha=0.25, linewidth=0, label="standard error")
    axes.plot(x, y, "o-", markersize=4, label=_HI)
    if len(x) > 1:
        axes.plot(x, np.polyval(np.polyfit(x, y, 1), x), "--", color="tab:gray", label="regression")
    if chance:
        axes.plot(x, grouped["chance"].mean().to_numpy(), ":", color="tab:red", label="chance level")
    axes.set_xlabel(by)
    axes.set_ylabel(f"mean {_HI}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    _whole_ticks(axes)


def _whole_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def stability(curve: pd.DataFrame, title: str = "") -> Figure:
    """How many of the top-K layers two sets of n images have in common, one K below the other.

    Args:
        curve: columns way, k, n, overlap, low, high, expected (:func:`stability.curve`).
        title: what was scored.
    """
    by_k = list(curve.groupby("k"))
    figure = Figure(figsize=(6.4, 1.0 + 2.4 * len(by_k)), layout="constrained")
    figure.suptitle(title)
    for axes, (k, rows) in zip(figure.subplots(len(by_k), sharex=True, squeeze=False)[:, 0], by_k, strict=True):
        for (way, points), style in zip(rows.groupby("way", sort=False), ("o-", "s--"), strict=False):
            n = points["n"].to_numpy()
            (line,) = axes.plot(n, points["overlap"].to_numpy(), style, markersize=4, label=str(way))
            axes.fill_between(
                n, points["low"].to_numpy(), points["high"].to_numpy(), alpha=0.12, linewidth=0, color=line.get_color()
            )
        axes.axhline(rows["expected"].iloc[0], linestyle=":", color="tab:red", label="chance level")
        axes.set(xscale="log", ylim=(0, None), ylabel=f"of top-{k} in common")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xlabel("images in each of two sets")
    return figure
