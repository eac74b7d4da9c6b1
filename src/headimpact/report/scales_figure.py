"""Gain against forgetting of adapters at every scale: a curve an adapter, from the original to what was trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headimpact.evaluation.metrics import METRICS

_GAIN, _FORGETTING = METRICS["perplexity"], METRICS["accuracy"]
_SCALED, _TRAINED, _BOUND = "#0072b2", "#d55e00", "tab:gray"


@dataclass(frozen=True)
class Panel:
    """One trained adapter.

    Attributes:
        scales: its gain and forgetting by scale (:func:`headimpact.adapters.softening.curve`).
        bound: of forgetting, from 0; None: none.
        chosen: the scale that was chosen; None: none was.
        trained: by the weight of KL in training, a row of the same columns at scale 1 each; empty where there is none.
    """

    scales: pd.DataFrame
    bound: float | None = None
    chosen: float | None = None
    trained: Mapping[float, pd.Series] = field(default_factory=dict)


def draw(panels: Mapping[str, Panel]) -> Figure:
    """A panel an adapter, by title: forgetting across, gain up, against the original; better to the upper right."""
    figure = Figure(figsize=(0.6 + 4.6 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for place, (title, panel) in zip(axes, panels.items(), strict=True):
        _draw_panel(place, title, panel)
    axes[0].set_ylabel(f"{_GAIN.label}, adapter minus original (up is better)")
    axes[0].legend(loc="lower left", fontsize=8)
    return figure


def _draw_panel(axes: Axes, title: str, panel: Panel) -> None:
    axes.set_title(title)
    axes.set_xlabel(f"{_FORGETTING.label}, adapter minus original")
    axes.invert_yaxis()
    if panel.bound is not None:
        axes.axvline(-panel.bound, color=_BOUND, linestyle="--", linewidth=1, label=f"bound {panel.bound:g}")
    _curve(axes, panel.scales, _SCALED, "o", "scaled, 0 to 1")
    for row in panel.scales.itertuples():
        if row.scale in (0.0, 1.0, panel.chosen):
            _note(axes, row, f"{row.scale:g}", _SCALED)
    if panel.chosen is not None:
        of_chosen = panel.scales[panel.scales["scale"] == panel.chosen]
        x, y = of_chosen[f"{_FORGETTING.name}_difference"], of_chosen[f"{_GAIN.name}_difference"]
        axes.plot(x, y, "o", markersize=13, fillstyle="none", color=_SCALED, label="chosen", zorder=4)
    if panel.trained:
        rows = pd.DataFrame([row for _, row in sorted(panel.trained.items())])
        _curve(axes, rows, _TRAINED, "s", "trained with train.kl")
        for weight, row in panel.trained.items():
            if weight:  # that of no weight is the adapter at scale 1
                _note(axes, row, f"kl {weight:g}", _TRAINED)


def _curve(axes: Axes, rows: pd.DataFrame, colour: str, marker: str, label: str) -> None:
    across, up = _FORGETTING.name, _GAIN.name
    x, y = rows[f"{across}_difference"], rows[f"{up}_difference"]
    axes.errorbar(
        x,
        y,
        xerr=[x - rows[f"{across}_low"], rows[f"{across}_high"] - x],
        yerr=[y - rows[f"{up}_low"], rows[f"{up}_high"] - y],
        fmt=f"-{marker}",
        color=colour,
        ecolor=(colour, 0.3),
        elinewidth=1,
        markersize=4,
        label=label,
    )


def _note(axes: Axes, row, text: str, colour: str) -> None:
    at = getattr(row, f"{_FORGETTING.name}_difference"), getattr(row, f"{_GAIN.name}_difference")
    axes.annotate(text, at, (5, 5), textcoords="offset points", fontsize=8, color=colour)
