"""Pixel mask -> token mask: which visual tokens see the object."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


@dataclass(frozen=True)
class TokenGrid:
    """Where the visual tokens of one image lie, in sequence order.

    ``crop_rows x crop_cols`` crops, row by row, and after them the whole image (the only block where there are
    no crops); each block holds ``rows x cols`` tokens, row by row.

    Attributes:
        mosaic: the whole image comes first instead, and after it the crops joined, in so many rows and columns of
            tokens, because what lies at their borders may be left out; of a very long image that is all of them.
        box: top, left, bottom and right of what the tokens see of the image, in shares of its height and width.
    """

    rows: int
    cols: int
    crop_rows: int = 0
    crop_cols: int = 0
    mosaic: tuple[int, int] | None = None
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def blocks(self) -> int:
        """Number of blocks that the vision tower sees."""
        return self.crop_rows * self.crop_cols + 1

    @property
    def tokens(self) -> int:
        """Number of visual tokens."""
        block = self.rows * self.cols
        return self.blocks * block if self.mosaic is None else block + self.mosaic[0] * self.mosaic[1]


def planes(maps: Shaped[np.ndarray, "maps tokens"], grid: TokenGrid) -> list[Shaped[np.ndarray, "maps _rows _cols"]]:
    """Maps of one value a visual token, laid out as the image: the crops joined (where there are any), and the whole.

    Each of them covers the image's ``box``, stretched to its own rows and columns.
    """
    if grid.mosaic is not None and grid.blocks > 1:
        whole, joined = np.split(maps, [grid.rows * grid.cols], axis=1)
        return [joined.reshape(-1, *grid.mosaic), whole.reshape(-1, grid.rows, grid.cols)]
    blocks = maps.reshape(len(maps), grid.blocks, grid.rows, grid.cols)
    if grid.blocks == 1:
        return [blocks[:, 0]]
    crops = blocks[:, :-1].reshape(len(maps), grid.crop_rows, grid.crop_cols, grid.rows, grid.cols)
    joined = crops.transpose(0, 1, 3, 2, 4).reshape(len(maps), grid.crop_rows * grid.rows, -1)
    return [joined, blocks[:, -1]]


def token_mask(covered: Float[Tensor, "tokens"], threshold: float) -> Bool[Tensor, "tokens"]:
    """Tokens covered at least by ``threshold``; where none is, the best covered one alone.

    An object that covers no pixel of any token gives an empty mask.
    """
    mask = covered >= threshold
    if not mask.any() and covered.max() > 0:
        mask[covered.argmax()] = True
    return mask
