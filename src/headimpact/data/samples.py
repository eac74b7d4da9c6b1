"""What every wing works on: a sample is an image with its key objects, each a mask and a phrase."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from headimpact.data import masks
from headimpact.data.images import open_image


@dataclass(frozen=True)
class KeyObject:
    """An object of an image and its phrase.

    Attributes:
        rle: the mask as pycocotools' compressed run lengths: ``{"size": [height, width], "counts": text}``.
        bbox: left, top, width, height of the mask, in pixels.
        area: pixels of the mask.
        score: confidence of the mask, in [0, 1].
    """

    id: int
    phrase: str
    rle: Mapping[str, Any]
    bbox: tuple[float, float, float, float]
    area: int
    score: float

    def mask(self) -> Bool[np.ndarray, "height width"]:
        """The object's pixels."""
        return masks.decode(self.rle)

    @property
    def shows_something(self) -> bool:
        """Whether the mask tells some pixels of its image from others: it is neither empty nor the whole image."""
        height, width = self.rle["size"]
        return 0 < self.area < height * width


@dataclass(frozen=True)
class Sample:
    """An image with its objects."""

    id: int
    path: Path
    width: int
    height: int
    objects: tuple[KeyObject, ...]

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
    return KeyObject(
        id=object_id,
        phrase=phrase,
        rle=rle,
        bbox=masks.bounding_box(rle),
        area=masks.count_pixels(rle),
        score=score,
    )
