"""Masks as COCO writes them: run lengths (RLE), compressed to text or plain, and polygons."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from pycocotools import mask as _pycocotools_mask

from headimpact.data.problems import DataError, Problem

# The stubs know nothing of the dictionaries that the functions take and give.
_codec: Any = _pycocotools_mask

MAX_OUTLINE = 1_000_000
"""Pixels along all polygons of an object: each of them costs memory."""

# Numbers of at most seven characters: any but the last say that another follows.
_RUN_LENGTHS = re.compile(rb"(?:[P-o]{0,6}[0-O])*")


def encode(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """A mask as compressed run lengths: ``{"size": [height, width], "counts": text}``."""
    return _with_text(_codec.encode(np.asfortranarray(mask, dtype=np.uint8)))


def decode(rle: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    """The mask of compressed run lengths."""
    height, width = rle["size"]
    runs = run_lengths(rle["counts"])
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")


def union(rles: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The pixels of any of several masks of one image."""
    return _with_text(_codec.merge([dict(rle) for rle in rles]))


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
    # pycocotools itself decodes runs of another total to whatever the memory holds.
    if _pixels(counts) != height * width:
        what = f"the mask's run lengths do not decode to {width}x{height} pixels"
        raise DataError(Problem(path, record, what, "Encode the mask anew with pycocotools.mask.encode."))
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts}
    return _with_text(_codec.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width))


def _pixels(counts: str | Sequence[int]) -> int | None:
    """Pixels of all runs together; None where they are no run lengths."""
    if not isinstance(counts, str):
        return None if any(run < 0 for run in counts) else sum(counts)
    try:
        runs = run_lengths(counts)
    except ValueError:
        return None
    if (runs < 0).any():
        return None
    # More than 64 bits hold, perhaps, where they are no mask.
    return int(runs.sum()) if int(runs.max(initial=0)) * len(runs) < 2**63 else sum(runs.tolist())


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


def run_lengths(counts: str) -> Int[np.ndarray, " runs"]:
    """Run lengths, column by column, off and on by turns, of COCO's text (rleFrString in maskApi.c).

    A number is written in characters of six bits, the lowest first: five of the number and one that says that more
    follow. From the fourth on a run is written as what it differs by from the last but one.

    Raises:
        ValueError: it is malformed.
    """
    characters = counts.encode("ascii")
    if not _RUN_LENGTHS.fullmatch(characters):
        raise ValueError("it holds a character that it must not, a run length beyond 35 bits, or half of one")
    if not characters:
        return np.zeros(0, dtype=np.int64)
    bits = np.frombuffer(characters, dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(bits < 32)  # character of each number
    lengths = last + 1
    lengths[1:] -= lengths[:-1].copy()
    first = last + 1 - lengths
    places = np.arange(len(bits)) - np.repeat(first, lengths)
    runs = np.add.reduceat((bits & 31) << 5 * places, first)
    runs -= (bits[last] >> 4) << 5 * lengths  # negative where the highest bit is set
    for chain in (runs[1::2], runs[2::2]):
        np.cumsum(chain, out=chain)
    return runs
