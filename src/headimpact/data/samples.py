"""What every wing works on: a sample is an image with its key objects, each a mask and a phrase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from headimpact.data import masks
from headimpact.data.images import open_image


@dataclass(frozen=True, slots=True)
class KeyObject:
    """An object of an image and its phrase.

    There may be hundreds of thousands of them in memory: what follows from the mask is not kept beside it.

    Attributes:
        size: height and width of the mask.
        counts: its run lengths, column by column, compressed as in pycocotools.
        score: confidence of the mask, in [0, 1].
    """

    id: int
    phrase: str
    size: tuple[int, int]
    counts: bytes
    score: float

    @property
    def rle(self) -> dict[str, Any]:
        """The mask as COCO JSON has it: ``{"size": [height, width], "counts": text}``."""
        return {"size": list(self.size), "counts": self.counts.decode("ascii")}

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """Left, top, width, height of the mask, in pixels."""
        return masks.bounding_box(self.rle)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return masks.count_pixels(self.rle)

    def mask(self) -> Bool[np.ndarray, "height width"]:
        """The object's pixels."""
        return masks.decode(self.rle)

    @property
    def shows_something(self) -> bool:
        """Whether the mask tells some pixels of its image from others: it is neither empty nor the whole image."""
        height, width = self.size
        return 0 < self.area < height * width


@dataclass(frozen=True, slots=True)
class Sample:
    """An image with its objects; those of a dataset are read from disk whenever they are asked for."""

    id: int
    path: Path
    width: int
    height: int
    objects: Sequence[KeyObject]

    def image(self) -> Image.Image:
        """The image in RGB, fully decoded.

        Raises:
            InputError: it is missing, neither PNG nor JPEG, damaged or truncated, of more than ``MAX_PIXELS``
                or not of the size that the annotations say.
        """
        return open_image(self.path, (self.width, self.height))


def key_object(object_id: int, phrase: str, mask: Bool[np.ndarray, "height width"], score: float) -> KeyObject:
    """An object from its pixels."""
    return object_of_rle(object_id, phrase, masks.encode(mask), score)


def object_of_rle(object_id: int, phrase: str, rle: Mapping[str, Any], score: float) -> KeyObject:
    """An object from compressed run lengths that are known to be good (``masks.from_run_lengths`` sees to it)."""
    return KeyObject(object_id, phrase, of_size(*rle["size"]), rle["counts"].encode("ascii"), score)


# Most images of a dataset are of a few sizes.
@lru_cache(maxsize=4096)
def of_size(height: int, width: int) -> tuple[int, int]:
    """The two, as one and the same tuple for all masks of this size."""
    return height, width
