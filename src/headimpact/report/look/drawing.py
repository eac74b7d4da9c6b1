"""What of an image the page draws: the picture, where its visual tokens lie, and the outlines of its objects."""

import base64
import io
import math
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

from headimpact.vlm.geometry import Geometry
from headimpact.vlm.tokengrid import TokenGrid

SIDE = 1024
"""Pixels of a picture's longer edge, at most."""
OUTLINE_SIDE = 320
"""The same of the mask that an outline is drawn from."""
WHOLLY_SEEN = 0.99
"""Share of a token within the image from which its middle is that of what it sees of it; the rest is padding."""

Spans = list[tuple[float, float]]
"""Where rows or columns of tokens begin and end, in shares of the image's height or width."""


def picture(image: Image.Image) -> str:
    """The picture as a data URI."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def layers_of_tokens(geometry: Geometry, grid: TokenGrid) -> list[dict[str, Any]]:
    """Where the visual tokens lie on the image: the crops joined (where there are any), then the whole image.

    Returns:
        For each of them ``name``; ``rows`` and ``cols``, the spans of its tokens; ``cuts``, how many crops there are
        down and across.
    """
    joined_last = grid.mosaic is not None
    drawn = geometry.planes[::-1] if joined_last else geometry.planes
    names = ("tokens",) if len(drawn) == 1 else ("crops", "whole image")
    return [
        {
            "name": name,
            "rows": spans(one.rows),
            "cols": spans(one.cols),
            "cuts": [len(one.rows), len(one.cols)],
        }
        for name, one in zip(names, drawn, strict=True)
    ]


def spans(weights: Float32[np.ndarray, "crops tokens length"]) -> Spans:
    """Begin and end of each token along an axis of the image, crop after crop, from how much each pixel counts for it.

    Tokens are equally long and lie side by side within a crop; resampling blurs where they begin and end, but moves no
    middle. What is beyond the image (padding) is cut off.
    """
    found: Spans = []
    crops, tokens, length = weights.shape
    seen = weights.sum(-1, dtype=np.float64)
    middles = weights @ (np.arange(length) + 0.5) / np.maximum(seen, 1e-9) / length
    for crop in range(crops):
        wholly = np.flatnonzero(seen[crop] > WHOLLY_SEEN)
        if len(wholly) > 1:
            pitch, first = np.polyfit(wholly, middles[crop, wholly], 1)
        else:  # one token, which sees the whole crop
            pitch, first = 1 / crops, middles[crop, 0]
        edges = (first + (np.arange(tokens + 1) - 0.5) * pitch).clip(0, 1).round(5).tolist()
        found += pairwise(edges)
    return found


def outline(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """The edge of a mask as a path of SVG, in pixels of a smaller mask where it is large, and the size of that.

    Between a pixel within and one without there is a line; lines that go on are one.
    """
    step = math.ceil(max(mask.shape) / OUTLINE_SIDE)
    small = mask[step // 2 :: step, step // 2 :: step]
    path = [f"M{start} {y}h{stop - start}" for y, start, stop in _edges(small)]
    path += [f"M{x} {start}v{stop - start}" for x, start, stop in _edges(small.T)]
    return {"path": "".join(path), "width": small.shape[1], "height": small.shape[0]}


def _edges(mask: Bool[np.ndarray, "rows cols"]) -> list[tuple[int, int, int]]:
    """Above, between and below the rows: which line it is, and where it begins and ends."""
    framed = np.pad(mask, ((1, 1), (0, 0)))
    changes = framed[1:] != framed[:-1]
    ends = np.diff(np.pad(changes, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, stops = np.argwhere(ends == 1), np.argwhere(ends == -1)
    return [(int(row), int(start), int(stop)) for (row, start), (_, stop) in zip(starts, stops, strict=True)]
