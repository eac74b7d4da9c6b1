"""The contact sheet: images with their objects, and beside them the visual tokens that see the objects."""

import textwrap
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from matplotlib import colors, font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from headimpact.data.samples import KeyObject, Sample
from headimpact.vlm.base import Vlm
from headimpact.vlm.tokengrid import TokenGrid, planes, token_mask

COLOURS = (
    *("#e6194b", "#1f9d3a", "#4363d8", "#f58231", "#911eb4"),
    *("#00b8d4", "#f032e6", "#9acd00", "#e0b400", "#8a4b16"),
)

# Inches, and points of the texts.
_PANEL = 2.3
_PHRASES = 2.0
_GAP = 0.14
_TITLE = 0.24
_MARGIN = 0.2
_LOWEST = 1.3
_LINE = 0.145
_CAPTION = 0.16
_SMALL, _LARGE = 7.5, 10.0

_CHARACTERS = 32
_LINES_A_PHRASE = 3
_DRAWN_SIDE = 480  # pixels: more are not seen in a panel


@dataclass(frozen=True)
class _Panel:
    """A block of visual tokens, or all crops put together.

    Attributes:
        crops: rows and columns of crops.
        grey: mean of what each token sees, 0 to 1.
        masks: the tokens of each object.
        box: as of :class:`TokenGrid`.
    """

    crops: tuple[int, int]
    grey: Float[np.ndarray, "rows cols"]
    masks: Bool[np.ndarray, "objects rows cols"]
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


def arrange(grid: TokenGrid, values: Num[Tensor, "tokens"] | Bool[Tensor, "tokens"]) -> list[np.ndarray]:
    """A value a token as it lies on the image: ``rows x cols``.

    Where the image was cut into crops, these come first, put together
    (``crop_rows * rows x crop_cols * cols``), and then the tokens of the whole image.
    """
    return [plane[0] for plane in planes(values.numpy()[None], grid)]


def _panels(vlm: Vlm, sample: Sample, threshold: float) -> list[_Panel]:
    grid = vlm.grid(sample.width, sample.height)
    grey = np.asarray(sample.image()).mean(axis=2) / 255
    greys = arrange(grid, torch.from_numpy(vlm.geometry(sample.width, sample.height).means(grey)).clamp(0, 1))
    covered = vlm.coverages([obj.mask() for obj in sample.objects]) if sample.objects else torch.empty(0, 0)
    masks = [arrange(grid, token_mask(coverage, threshold)) for coverage in covered]
    # The borders of a mosaic's crops do not lie at equal distances.
    cut = (1, 1) if grid.mosaic else (grid.crop_rows, grid.crop_cols)
    crops = [(1, 1)] if len(greys) == 1 else [cut, (1, 1)]
    return [
        _Panel(crops[i], grey, np.array([parts[i] for parts in masks], dtype=bool).reshape(-1, *grey.shape), grid.box)
        for i, grey in enumerate(greys)
    ]


def contact_sheet(samples: Sequence[Sample], vlms: Mapping[str, Vlm], threshold: float) -> Figure:
    """Images below each other with outlines and phrases of their objects, and the objects' tokens in each model.

    A panel shows what each visual token sees (its mean, in grey), drawn where it lies on the image, with the tokens
    of each object in the object's colour. A model that cuts the image into crops has two panels: the crops put
    together, and the whole image. (What no token sees, at most 2 % at a crop's edge, is not drawn.)

    Args:
        samples: at least one.
        vlms: by name; their weights are not used.
        threshold: coverage from which a token belongs to an object.

    Raises:
        InputError: an image cannot be read.
    """
    rows = [{name: _panels(vlm, sample, threshold) for name, vlm in vlms.items()} for sample in samples]
    columns = [(name, back) for name in vlms for back in range(-max(len(row[name]) for row in rows), 0)]
    heights = [min(max(_PANEL * s.height / s.width, _LOWEST), _PANEL) for s in samples]
    width = 2 * _MARGIN + _PANEL + _GAP + _PHRASES + len(columns) * (_PANEL + _GAP)
    height = 2 * _MARGIN + _TITLE + sum(heights) + len(heights) * (_TITLE + _GAP)
    sheet = _Sheet(Figure(figsize=(width, height)), height - _MARGIN)
    for column, (name, back) in enumerate(columns):
        whole = back == -1 and (name, -2) in columns
        sheet.text(_left(column), 0.0, f"{name}, whole image" if whole else name, _LARGE, weight="bold")
    sheet.top -= _TITLE
    for sample, row, row_height in zip(samples, rows, heights, strict=True):
        sheet.top -= _TITLE
        _draw_row(sheet, sample, row_height, [(row[name], back) for name, back in columns])
        sheet.top -= row_height + _GAP
    return sheet.figure


def _left(column: int) -> float:
    """Where a column of panels begins, in inches."""
    return _MARGIN + _PANEL + _GAP + _PHRASES + column * (_PANEL + _GAP) + _GAP


class _Sheet:
    """A figure that is filled from the top, in inches."""

    def __init__(self, figure: Figure, top: float):
        self.figure = figure
        self.top = top

    def axes(self, left: float, width: float, height: float) -> Axes:
        """Axes for a picture that hangs at the top."""
        full_width, full_height = self.figure.get_size_inches()
        box = (left / full_width, (self.top - height) / full_height, width / full_width, height / full_height)
        return self.figure.add_axes(box, anchor="NW", xticks=[], yticks=[])

    def text(self, left: float, down: float, text: str, size: float, **style: Any) -> None:
        """A line of text, its upper edge ``down`` below the top."""
        width, height = self.figure.get_size_inches()
        x, y = left / width, (self.top - down) / height
        self.figure.text(x, y, text, fontsize=size, va="top", parse_math=False, **style)

    def square(self, left: float, down: float, side: float, colour: str) -> None:
        """A small filled square."""
        width, height = self.figure.get_size_inches()
        corner = (left / width, (self.top - down - side) / height)
        self.figure.add_artist(Rectangle(corner, side / width, side / height, color=colour, linewidth=0))


def _draw_row(sheet: _Sheet, sample: Sample, height: float, panels: Sequence[tuple[list[_Panel], int]]) -> None:
    image, masks = _shrunk(sample)
    axes = sheet.axes(_MARGIN, _PANEL, height)
    axes.imshow(image, extent=(0, sample.width, sample.height, 0))
    _outline(axes, sample, masks, halo=True)
    sheet.text(_MARGIN, -_CAPTION, f"image {sample.id}: {sample.width} x {sample.height}", _SMALL)
    _draw_phrases(sheet, sample.objects, height)
    for column, (model_panels, back) in enumerate(panels):
        if len(model_panels) < -back:
            sheet.text(_left(column), -_CAPTION, "not cut into crops", _SMALL, color="gray")
            continue
        axes = sheet.axes(_left(column), _PANEL, height)
        _draw_panel(axes, model_panels[back], sample)
        _outline(axes, sample, masks, halo=False)
        sheet.text(_left(column), -_CAPTION, _size(model_panels[back]), _SMALL)


def _size(panel: _Panel) -> str:
    rows, cols = panel.grey.shape
    crops = f", crops {panel.crops[0]} x {panel.crops[1]}" if panel.crops != (1, 1) else ""
    return f"tokens {rows} x {cols}{crops}"


def _shrunk(sample: Sample) -> tuple[Image.Image, list[Bool[np.ndarray, "rows cols"]]]:
    image = sample.image()
    image.thumbnail((_DRAWN_SIDE, _DRAWN_SIDE))
    masks = [Image.fromarray(obj.mask()).resize(image.size, Image.Resampling.NEAREST) for obj in sample.objects]
    return image, [np.asarray(mask) for mask in masks]


def _outline(axes: Axes, sample: Sample, masks: Sequence[Bool[np.ndarray, "rows cols"]], halo: bool) -> None:
    """Draw the edges of the masks, on white so that they show on any ground."""
    for index, mask in enumerate(masks):
        if not mask.any():
            continue
        # A frame of nothing closes outlines at the image's edge.
        framed = np.pad(mask, 1).astype(float)
        x, y = ((np.arange(n + 2) - 0.5) / n for n in mask.shape[::-1])
        for width, colour in ((3.0, "white"), (1.5, _colour(index))) if halo else ((0.9, _colour(index)),):
            axes.contour(x * sample.width, y * sample.height, framed, levels=[0.5], colors=[colour], linewidths=width)
    axes.set(xlim=(0, sample.width), ylim=(sample.height, 0))


def _draw_panel(axes: Axes, panel: _Panel, sample: Sample) -> None:
    sides = (sample.height, sample.width) * 2
    top, left, bottom, right = (share * side for share, side in zip(panel.box, sides, strict=True))
    axes.imshow(_coloured(panel), extent=(left, right, bottom, top), interpolation="nearest")
    for (rows, cols), width, colour in ((panel.grey.shape, 0.25, "white"), (panel.crops, 1.0, "black")):
        axes.hlines(np.linspace(top, bottom, rows + 1)[1:-1], left, right, colors=colour, linewidths=width)
        axes.vlines(np.linspace(left, right, cols + 1)[1:-1], top, bottom, colors=colour, linewidths=width)


def _coloured(panel: _Panel) -> Float[np.ndarray, "rows cols 3"]:
    """Pale grey, and over it the mean colour of the objects that a token belongs to."""
    ground = np.repeat(0.2 + 0.8 * panel.grey[..., None], 3, axis=2)
    paints = np.array([colors.to_rgb(_colour(index)) for index in range(len(panel.masks))]).reshape(-1, 3)
    objects = panel.masks.sum(axis=0)[..., None]
    paint = np.tensordot(panel.masks.astype(float), paints, axes=(0, 0)) / np.maximum(objects, 1)
    return np.where(objects > 0, 0.35 * ground + 0.65 * paint, ground)


def _draw_phrases(sheet: _Sheet, objects: Sequence[KeyObject], height: float) -> None:
    """The phrases from the top, each with its colour; those that find no room are counted."""
    left, line = _MARGIN + _PANEL + _GAP, 0
    room = int(height / _LINE)
    for index, obj in enumerate(objects):
        lines = _wrapped(obj.phrase)
        rest = len(objects) - index
        if line + len(lines) > room - (rest > 1):
            sheet.text(left, line * _LINE, f"and {rest} more", _SMALL, color="gray")
            return
        sheet.square(left, line * _LINE + 0.01, 0.09, _colour(index))
        for text in lines:
            sheet.text(left + 0.15, line * _LINE, text, _SMALL)
            line += 1


def _wrapped(phrase: str) -> list[str]:
    drawable = "".join(character if ord(character) in _glyphs() else "\N{WHITE SQUARE}" for character in phrase)
    return textwrap.wrap(drawable, _CHARACTERS, max_lines=_LINES_A_PHRASE, placeholder=" ...")


@cache
def _glyphs() -> frozenset[int]:
    """What the font of the figures can draw: matplotlib warns of anything else."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def histograms(samples: Iterable[Sample], title: str = "") -> Figure:
    """How many objects the images have, what share of them the masks cover, and the masks' confidence.

    Args:
        samples: at least one of them with an object.
        title: what they are.
    """
    counts, shares, scores = array("i"), array("d"), array("d")
    for sample in samples:
        counts.append(len(sample.objects))
        for obj in sample.objects:
            shares.append(obj.area / (sample.width * sample.height))
            scores.append(obj.score)
    counts, shares, scores = np.array(counts), np.array(shares), np.array(scores)
    lowest = min(np.floor(scores.min() * 20) / 20, 0.95)
    figure = Figure(figsize=(10, 3), layout="constrained")
    figure.suptitle(title)
    panels = (
        ("objects of an image", "images", counts, np.arange(counts.max() + 2) - 0.5),
        ("share of the image that the mask covers", "objects", shares, np.linspace(0, 1, 21)),
        ("score of the mask", "objects", scores, np.linspace(lowest, 1, 21)),
    )
    for axes, (what, of, values, edges) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.hist(values, bins=edges, edgecolor="white", linewidth=0.5)
        axes.set(xlabel=what, ylabel=f"{of} (of {len(values)})", xlim=(edges[0], edges[-1]))
        axes.grid(axis="y", alpha=0.3)
    return figure
