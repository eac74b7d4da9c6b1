"""How an image becomes visual tokens: linear, and each axis by itself.

Resizing weighs rows and columns of pixels apart, and a token's coverage is a mean: what the tokens see of a picture
``M`` of the image is ``R M C'`` with two small matrices that depend on the image's size alone. PIL gives the weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32, Int, Num
from PIL import Image

DECIMALS = 5
"""Of a coverage. Beyond them are PIL's float32 weights, sums in another order, and the ringing of a filter around an
object that lies where no token looks, which the image processor's 8-bit pixels do not show either."""

AXES = 128
"""Weights that are kept: images of many sizes share few widths and heights. Of 640 pixels they take 0.1 MB."""

_CHUNK = 256  # columns of a resampling matrix at a time: whole, one of a large photograph takes hundreds of megabytes


@dataclass(frozen=True, eq=False)
class Plane:
    """The image in one resolution, cut into crops where there are several; a token is a row of tokens' weights of the
    image's pixel rows, and a column of tokens' weights of its pixel columns."""

    rows: Float32[np.ndarray, "crop_rows rows height"]
    cols: Float32[np.ndarray, "crop_cols cols width"]

    def means(self, picture: Float32[np.ndarray, "_ _"], box: tuple[slice, slice]) -> Float32[np.ndarray, "_"]:
        """What every token sees of the part ``box`` of the image, where the rest is 0: crop by crop, row by row."""
        (crop_rows, rows, _), (crop_cols, cols, _) = self.rows.shape, self.cols.shape
        down, across = self.rows[..., box[0]], self.cols[..., box[1]]
        joined = down.reshape(crop_rows * rows, -1) @ (picture @ across.reshape(crop_cols * cols, -1).T)
        return joined.reshape(crop_rows, rows, crop_cols, cols).transpose(0, 2, 1, 3).ravel()


@dataclass(frozen=True, eq=False)
class Geometry:
    """Which pixels of an image of one size each of its visual tokens sees, and how much of each.

    Attributes:
        width, height: of the image, in pixels.
        planes: in the order of their tokens; see ``TokenGrid``.
    """

    width: int
    height: int
    planes: tuple[Plane, ...]

    @property
    def tokens(self) -> int:
        """Number of visual tokens."""
        return sum(math.prod(plane.rows.shape[:2]) * math.prod(plane.cols.shape[:2]) for plane in self.planes)

    def means(self, picture: Num[np.ndarray, "height width"]) -> Float32[np.ndarray, "tokens"]:
        """The mean of what each visual token sees of a picture of one channel.

        A resampling filter may ring a little beyond the picture's own values.
        """
        return self._means(picture.astype(np.float32), (slice(None), slice(None)))

    def coverage(self, mask: Bool[np.ndarray, "_ _"]) -> Float32[np.ndarray, "tokens"]:
        """Covered share of what each visual token sees, in [0, 1], to ``DECIMALS``.

        The image processor clips every pixel after every pass, here the mean of a token's pixels is clipped once. Where
        a filter rings at an object's edge a token differs by up to 0.03, and by up to 0.13 where an image is enlarged
        so much that a token sees less than two of its pixels.

        Args:
            mask: height x width; of another size than the image, it is stretched over it by its nearest pixels.
        """
        down, across = _nearest(mask.shape[0], self.height), _nearest(mask.shape[1], self.width)
        rows, cols = np.flatnonzero(np.any(mask, 1)[down]), np.flatnonzero(np.any(mask, 0)[across])
        if not len(rows) or not len(cols):
            return np.zeros(self.tokens, dtype=np.float32)
        # Most objects are much smaller than their image.
        box = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
        seen = mask[down[box[0]]][:, across[box[1]]].astype(np.float32)
        return self._means(seen, box).round(DECIMALS).clip(0, 1)

    def _means(self, picture: Float32[np.ndarray, "_ _"], box: tuple[slice, slice]) -> Float32[np.ndarray, "tokens"]:
        return np.concatenate([plane.means(picture, box) for plane in self.planes])


def plane(
    sizes: Sequence[tuple[int, int]],
    resample: int,
    pixels: int,
    tokens: tuple[int, int],
    crops: tuple[int, int] = (1, 1),
    start: tuple[int, int] = (0, 0),
) -> Plane:
    """The plane of an image that an image processor resizes, maybe several times, and cuts into equal crops.

    Args:
        sizes: height and width of the image, and after each resizing.
        resample: PIL's filter of every resizing.
        pixels: along each side of what a visual token sees.
        tokens: rows and columns of visual tokens in each crop, from its upper left corner on; what they leave of a
            crop is seen by none.
        crops: rows and columns of crops.
        start: rows and columns of pixels above and left of the first crop, which no token sees; below 0, the first
            tokens see as many that are padding.
    """
    heights, widths = zip(*sizes, strict=True)
    return Plane(
        _weights(heights, resample, pixels, tokens[0], crops[0], start[0]),
        _weights(widths, resample, pixels, tokens[1], crops[1], start[1]),
    )


@lru_cache(AXES)
def _weights(
    lengths: tuple[int, ...], resample: int, pixels: int, tokens: int, crops: int, start: int
) -> Float32[np.ndarray, "crops tokens length"]:
    """How much each pixel along one axis of the image counts for each token along it; arguments as :func:`plane`'s."""
    starts = start + np.arange(crops)[:, None] * (lengths[-1] // crops) + np.arange(tokens) * pixels
    seen = starts.reshape(-1, 1) + np.arange(pixels)
    token, pixel = np.nonzero((seen >= 0) & (seen < lengths[-1]))
    weights = np.zeros((crops * tokens, lengths[-1]))
    weights[token, seen[token, pixel]] = 1 / pixels
    for source, target in reversed(list(pairwise(lengths))):
        if source != target:  # PIL leaves such an axis as it is
            weights = np.concatenate(
                [weights @ _resizing(source, target, start, resample) for start in range(0, source, _CHUNK)], axis=1
            )
    weights = weights.reshape(crops, tokens, lengths[0]).astype(np.float32)
    weights.flags.writeable = False  # they are shared
    return weights


def _resizing(source: int, target: int, start: int, resample: int) -> Float32[np.ndarray, "target _"]:
    """Columns from ``start`` on of the matrix that resizes an axis: PIL's own answer to pixels of 1 among zeros."""
    unit = Image.fromarray(np.eye(source, min(_CHUNK, source - start), -start, dtype=np.float32))
    return np.asarray(unit.resize((unit.width, target), resample))


def _nearest(source: int, target: int) -> Int[np.ndarray, "target"]:
    """The pixels that an axis of ``source`` pixels has when it is stretched to ``target`` by the nearest ones."""
    pixels = Image.fromarray(np.arange(source, dtype=np.int32)[None])
    return np.asarray(pixels.resize((target, 1), Image.Resampling.NEAREST))[0]
