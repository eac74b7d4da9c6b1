"""The generated scenes: textured shapes on cluttered backgrounds, with exact masks and phrases.

Everything is drawn in whole numbers from ``(seed, scene id)``, so that two machines draw the same pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

PALETTE = {
    "red": (225, 35, 35),
    "green": (40, 170, 50),
    "blue": (40, 70, 225),
    "yellow": (245, 225, 40),
    "purple": (135, 45, 185),
    "cyan": (50, 215, 225),
    "pink": (250, 135, 195),
    "black": (20, 20, 20),
}
COLOURS = tuple(PALETTE)
SHAPES = ("circle", "square", "triangle", "cross", "star", "ring")
TEXTURES = ("solid", "striped", "dotted")
VERTICALS = ("upper", "middle", "lower")
HORIZONTALS = ("left", "center", "right")
SIZES = ((160, 120), (120, 160), (144, 108), (108, 144), (144, 96), (96, 144), (128, 128), (112, 112))
"""Width and height of the images, in pixels."""

# Share of the scenes with one, two, three and four things, and the largest diameter in them (percent of the
# image's short side): many large things would not find their places.
_COUNTS = (0,) * 2 + (1,) * 6 + (2,) * 7 + (3,) * 5
_LARGEST = (55, 53, 48, 44)
_SMALLEST = 32
_MIN_VISIBLE_PERCENT = 70
_PLACES_TRIED = 30
_MAX_TILT_DEGREES = 20
_TEXTURE_CONTRAST = 95

# Sine of 0..450 degrees in 1/4096: rounded once, so that the last bit of a libm can move no pixel.
_UNIT = 4096
_SINE = np.rint(np.sin(np.deg2rad(np.arange(451))) * _UNIT).astype(np.int32)

# Size of a shape's own unit, in percent of the radius that is drawn: evens out their areas.
_SCALE = {"circle": 95, "square": 82, "triangle": 115, "cross": 105, "star": 125, "ring": 105}

Grid = Int[np.ndarray, "rows cols"]


@dataclass(frozen=True, eq=False)
class Thing:
    """One drawn object.

    Attributes:
        position: where the centroid of the mask lies, in thirds of the image: "upper left" ... "lower right".
        mask: its visible pixels: those that it covers by half or more, and no later thing does.
    """

    shape: str
    colour: str
    texture: str
    position: str
    mask: Bool[np.ndarray, "height width"]

    @property
    def plain(self) -> str:
        """The phrase that the tiny bases are pretrained on: "a red circle". Unique in its scene."""
        return plain_phrase(self.colour, self.shape)

    @property
    def rich(self) -> str:
        """The phrase of the dataset: "striped red circle upper left"."""
        return rich_phrase(self.texture, self.colour, self.shape, *self.position.split())


@dataclass(frozen=True, eq=False)
class Scene:
    """An RGB image and the things in it, from back to front."""

    id: int
    image: Image.Image
    things: tuple[Thing, ...]


def plain_phrase(colour: str, shape: str) -> str:
    """The plain phrase of such a thing."""
    return f"a {colour} {shape}"


def rich_phrase(texture: str, colour: str, shape: str, vertical: str, horizontal: str) -> str:
    """The rich phrase of such a thing."""
    return f"{texture} {colour} {shape} {vertical} {horizontal}"


def position(mask: Bool[np.ndarray, "height width"]) -> str:
    """Third of the height and third of the width in which the mask's centroid lies, as words.

    The mask must not be empty.
    """
    words = []
    for axis, names in ((1, VERTICALS), (0, HORIZONTALS)):
        pixels = mask.sum(axis=axis)
        # Pixel i reaches from i to i + 1; thirds are compared in whole numbers: 6 * centroid * total.
        moment = int((pixels * (2 * np.arange(len(pixels)) + 1)).sum()) * 3
        words.append(names[moment // (2 * len(pixels) * int(pixels.sum()))])
    return " ".join(words)


def draw(seed: int, scene_id: int) -> Scene:
    """Draw a scene. The same arguments give the same pixels everywhere."""
    rng = np.random.default_rng([seed, scene_id])
    width, height = SIZES[rng.integers(len(SIZES))]
    canvas = _background(rng, width, height)
    drawn: list[tuple[str, str, str]] = []
    masks: list[np.ndarray] = []
    areas: list[int] = []
    for appearance, radius in _cast(rng, min(width, height)):
        cover, paint = _cut(*_render(rng, *appearance, radius))
        corner = _find_place(rng, cover >= 2, masks, areas, (height, width))
        if corner is None:
            continue
        window = np.s_[corner[0] : corner[0] + cover.shape[0], corner[1] : corner[1] + cover.shape[1]]
        canvas[window] += (paint - canvas[window]) * cover[..., None] // 4
        for mask in masks:
            mask[window] &= cover < 2
        masks.append(np.zeros((height, width), dtype=bool))
        masks[-1][window] = cover >= 2
        areas.append(int(masks[-1].sum()))
        drawn.append(appearance)
    things = (Thing(*appearance, position(mask), mask) for appearance, mask in zip(drawn, masks, strict=True))
    return Scene(scene_id, Image.fromarray(canvas.astype(np.uint8)), tuple(things))


def _cast(rng: np.random.Generator, side: int) -> list[tuple[tuple[str, str, str], int]]:
    """Shape, colour and texture, and radius in pixels, of each thing; no two share both shape and colour."""
    count = _COUNTS[rng.integers(len(_COUNTS))]
    kinds = rng.choice(len(SHAPES) * len(COLOURS), size=count + 1, replace=False)
    textures = rng.integers(len(TEXTURES), size=count + 1)
    percents = rng.integers(_SMALLEST, _LARGEST[count] + 1, size=count + 1)
    appearances = [
        (SHAPES[kind % len(SHAPES)], COLOURS[kind // len(SHAPES)], TEXTURES[texture])
        for kind, texture in zip(kinds, textures, strict=True)
    ]
    return list(zip(appearances, (side * percents // 200).tolist(), strict=True))


def _render(
    rng: np.random.Generator, shape: str, colour: str, texture: str, radius: int
) -> tuple[Int[np.ndarray, "rows cols"], Int[np.ndarray, "rows cols 3"]]:
    """A thing alone: how many quarters of each pixel it covers, and its colours."""
    u, v = _frame(radius, int(rng.integers(-_MAX_TILT_DEGREES, _MAX_TILT_DEGREES + 1)))
    inside = _inside(shape, u, v, 2 * radius * _SCALE[shape] // 100)
    return _halve(inside.astype(np.int32)), _paint(rng, colour, texture, radius)


def _cut(
    cover: Int[np.ndarray, "rows cols"], paint: Int[np.ndarray, "rows cols 3"]
) -> tuple[Int[np.ndarray, "top_rows left_cols"], Int[np.ndarray, "top_rows left_cols 3"]]:
    """The part of a window that is not empty."""
    rows, cols = (np.flatnonzero(cover.any(axis=axis)) for axis in (1, 0))
    window = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    return cover[window], paint[window]


def _frame(radius: int, degrees: int) -> tuple[Grid, Grid]:
    """Coordinates of the sub-pixels (two a pixel, in half pixels) around a thing, turned by an angle.

    The window is a quarter wider than the radius: some shapes reach out.
    """
    side = 4 * (radius + radius // 4 + 1)
    axis = np.arange(1 - side, side, 2, dtype=np.int32)
    sine = int(np.sign(degrees)) * int(_SINE[abs(degrees)])
    cosine = int(_SINE[abs(degrees) + 90])
    x, y = axis[None, :], axis[:, None]
    return (x * cosine + y * sine) // (2 * _UNIT), (y * cosine - x * sine) // (2 * _UNIT)


def _inside(shape: str, u: Grid, v: Grid, r: int) -> Bool[np.ndarray, "rows cols"]:
    """Which points lie in a shape of size ``r`` around the origin; ``v`` points down."""
    across, along = abs(u), abs(v)
    match shape:
        case "circle":
            return u * u + v * v <= r * r
        case "square":
            return np.maximum(across, along) <= r
        case "triangle":
            return (2 * v <= r) & (7 * across <= 4 * (v + r))
        case "cross":
            return (np.minimum(across, along) <= r * 3 // 10) & (np.maximum(across, along) <= r)
        case "ring":
            squared = u * u + v * v
            return (squared <= r * r) & (3 * squared >= r * r)
    # A point of a pentagram lies on the inner side of at least four of its five lines.
    sides = [u * int(_SINE[a]) - v * int(_SINE[a + 90]) >= -r * int(_SINE[18]) for a in range(36, 361, 72)]
    return np.sum(sides, axis=0) >= 4


def _halve(grid: Int[np.ndarray, "rows cols"]) -> Int[np.ndarray, "half_rows half_cols"]:
    """Sum over the four sub-pixels of each pixel."""
    return grid[::2, ::2] + grid[1::2, ::2] + grid[::2, 1::2] + grid[1::2, 1::2]


def _paint(rng: np.random.Generator, colour: str, texture: str, radius: int) -> Int[np.ndarray, "rows cols 3"]:
    """A window of the thing's colour and texture; the pattern is a darker shade (a lighter one of black)."""
    base = np.array(PALETTE[colour], dtype=np.int32) * int(rng.integers(92, 106)) // 100
    shade = base + _TEXTURE_CONTRAST if colour == "black" else base * (150 - _TEXTURE_CONTRAST) // 100
    u, v = _frame(radius, int(rng.integers(0, 180)))
    u, v = u + int(rng.integers(0, 100)), v + int(rng.integers(0, 100))
    period = max(18, radius)
    match texture:
        case "solid":
            pattern = np.zeros_like(u)
        case "striped":
            pattern = (u % period < period * 2 // 5).astype(np.int32)
        case _:
            u, v = u % period - period // 2, v % period - period // 2
            pattern = (u * u + v * v <= period * period // 10).astype(np.int32)
    return np.minimum(base + (shade - base) * _halve(pattern)[..., None] // 4, 255)


def _find_place(
    rng: np.random.Generator,
    shape: Bool[np.ndarray, "rows cols"],
    masks: Sequence[Bool[np.ndarray, "height width"]],
    areas: Sequence[int],
    size: tuple[int, int],
) -> tuple[int, int] | None:
    """Top and left of a window where the shape leaves enough of every other thing visible; None after too many tries.

    ``masks`` are what is visible so far of the other things, ``areas`` what they had when they were drawn.
    """
    rows, cols = shape.shape
    for _ in range(_PLACES_TRIED):
        top, left = int(rng.integers(size[0] - rows + 1)), int(rng.integers(size[1] - cols + 1))
        visible = [
            np.count_nonzero(mask) - np.count_nonzero(mask[top : top + rows, left : left + cols] & shape)
            for mask in masks
        ]
        if all(100 * part >= _MIN_VISIBLE_PERCENT * area for part, area in zip(visible, areas, strict=True)):
            return top, left
    return None


def _background(rng: np.random.Generator, width: int, height: int) -> Int[np.ndarray, "height width 3"]:
    """Muted clutter: a slope of grey, soft patches, thin lines, noise."""
    tint = rng.integers(-10, 11, size=3)
    slope_x, slope_y = rng.integers(-25, 26, size=2)
    x, y = np.arange(width, dtype=np.int32)[None, :], np.arange(height, dtype=np.int32)[:, None]
    grey = int(rng.integers(105, 146)) + x * slope_x // width + y * slope_y // height
    for _ in range(rng.integers(2, 7)):
        grey = grey + _line(rng, x, y) * int(rng.integers(-28, 29))
    canvas = (grey[..., None] + tint).astype(np.int32)
    canvas += _patches(rng, (4, 4, 3), 8, width, height) + _patches(rng, (9, 9, 1), 22, width, height)
    canvas += rng.integers(-6, 7, size=(height, width, 1), dtype=np.int32)
    return canvas


def _patches(
    rng: np.random.Generator, cells: tuple[int, int, int], depth: int, width: int, height: int
) -> Int[np.ndarray, "height width channels"]:
    """Soft patches, ``depth`` lighter or darker at most."""
    coarse = rng.integers(0, 2 * depth + 1, size=cells, dtype=np.uint8)
    image = Image.fromarray(coarse.squeeze())
    soft = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.int32) - depth
    return soft.reshape(height, width, cells[2])


def _line(
    rng: np.random.Generator, x: Int[np.ndarray, "1 width"], y: Int[np.ndarray, "height 1"]
) -> Bool[np.ndarray, "height width"]:
    """A thin straight segment somewhere."""
    angle = int(rng.integers(360))
    dx = x - int(rng.integers(x.size))
    dy = y - int(rng.integers(y.size))
    sine, cosine = int(_SINE[angle]), int(_SINE[angle + 90])
    along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
    thickness, length = int(rng.integers(1, 4)), int(rng.integers(15, 60))
    return (abs(across) * 2 <= thickness * _UNIT) & (abs(along) * 2 <= length * _UNIT)
