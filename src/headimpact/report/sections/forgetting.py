"""Gain without forgetting: adapters that were scaled down, from the curves that their scales were chosen on."""

from pathlib import Path

from headimpact.report.outputs import Outputs
from headimpact.report.page import Block, Items, Picture, Text
from headimpact.report.prose import forgetting as prose
from headimpact.report.scales_figure import Panel
from headimpact.selection.grammar import trained

FIGURE = "forgetting.png"


def forgetting(outputs: Outputs, folder: Path) -> list[Block]:
    """The section, where an adapter was softened; ``folder`` has the figure of :func:`panels`."""
    lines = []
    for model, setup in outputs.scales:
        if header := outputs.headers.get((model, setup)):
            words = prose.CHOSEN if header["scale"] else prose.NONE
            lines.append(words.format(**{**header, "model": model, "trained": trained(setup), "setup": setup}))
    return [Text(prose.ABOUT), Items(lines), Picture(folder / FIGURE, prose.FIGURE, wide=True)]


def panels(outputs: Outputs) -> dict[str, Panel]:
    """What the figure shows, by title."""
    shown = {}
    for (model, setup), scales in outputs.scales.items():
        header = outputs.headers.get((model, setup), {})
        shown[f"{model} {trained(setup)}"] = Panel(scales, header.get("bound"), header.get("scale"))
    return shown
