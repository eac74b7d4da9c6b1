"""Masks as COCO writes them: run lengths (RLE), compressed to text or plain, and polygons."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as _pycocotools_mask

from headimpact.data.problems import DataError, Problem

# The stubs know nothing of the dictionaries that the functions take and give.
_codec: Any = _pycocotools_mask

MAX_OUTLINE = 1_000_000
"""Pixels along all polygons of an object: each of them costs memory."""

_MAX_SHIFT = 30  # bits: five more are read


def encode(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """A mask as compressed run lengths: ``{"size": [height, width], "counts": text}``."""
    return _with_text(_codec.encode(np.asfortranarray(mask, dtype=np.uint8)))


def decode(rle: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    """The mask of compressed run lengths."""
    height, width = rle["size"]
    runs = run_lengths(rle["counts"])
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")


def bounding_box(rle: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, width and height of a mask, in pixels."""
    left, top, width, height = map(float, _codec.toBbox(rle))
    return left, top, width, height


def count_pixels(rle: Mapping[str, Any]) -> int:
    """Pixels of a mask."""
    return int(_codec.area(rle))


def from_run_lengths(
    path: Path, record: str, rle_size: Sequence[int], counts: str | Sequence[int], image_size: tuple[int, int]
) -> dict[str, Any]:
    """Compressed run lengths from what a file holds.

    Args:
        path: the file, and
        record: what has the mask: both for the error.
        rle_size: height and width that the mask claims.
        counts: run lengths, compressed to text or plain.
        image_size: width and height of the image.

    Raises:
        DataError: they are of another size than the image, or do not decode to it.
    """
    (height, width), (image_width, image_height) = rle_size, image_size
    if (width, height) != image_size:
        what = f"the mask is {width}x{height} pixels, its image {image_width}x{image_height}"
        advice = "Make a mask of the image's size, or correct the image's width and height."
        raise DataError(Problem(path, record, what, advice))
    try:
        runs = run_lengths(counts) if isinstance(counts, str) else counts
    except ValueError:
        runs = []
    # pycocotools itself decodes runs of another total to whatever the memory holds.
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        what = f"the mask's run lengths do not decode to {width}x{height} pixels"
        raise DataError(Problem(path, record, what, "Encode the mask anew with pycocotools.mask.encode."))
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts}
    return _with_text(_codec.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width))


def from_polygons(
    path: Path, record: str, polygons: Sequence[list[float]], image_size: tuple[int, int]
) -> dict[str, Any]:
    """Compressed run lengths of all polygons of an object; the rest as in ``from_run_lengths``.

    Raises:
        DataError: they are no polygons, or reach so far beyond the image that they would take the memory.
    """
    if not polygons or any(len(points) < 6 or len(points) % 2 for points in polygons):
        raise DataError(Problem(path, record, "a polygon is x, y, x, y, ... of at least three points", "Correct it."))
    # pycocotools stores every pixel of an outline, however far it leaves the image.
    length = sum(map(_outline, polygons))
    if not length <= MAX_OUTLINE:
        what = f"the outline of its polygons is longer than {MAX_OUTLINE} pixels or not a number"
        raise DataError(Problem(path, record, what, "Keep the points within the image."))
    width, height = image_size
    return _with_text(_codec.merge(_codec.frPyObjects(list(polygons), height, width)))


def _outline(points: list[float]) -> float:
    """Length of a closed polygon in pixels, and at least as far as any of its points is from the corner."""
    x, y = points[::2], points[1::2]
    sides = zip(x, y, [*x[1:], x[0]], [*y[1:], y[0]], strict=True)
    return sum(math.hypot(x1 - x0, y1 - y0) for x0, y0, x1, y1 in sides) + max(map(abs, points))


def _with_text(rle: Mapping[str, Any]) -> dict[str, Any]:
    """What pycocotools gives, with text in the place of bytes."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def run_lengths(counts: str) -> list[int]:
    """Run lengths, column by column, off and on by turns, of COCO's text (rleFrString in maskApi.c).

    Raises:
        ValueError: it is malformed.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no part of run lengths")
        if shift > _MAX_SHIFT:
            raise ValueError("a run length is larger than any image")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the last run length is cut off")
    return runs
