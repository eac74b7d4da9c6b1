"""Samples that are made in memory, of images and masks that somebody has at hand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from headimpact.data.images import DEEP
from headimpact.data.samples import Sample, key_object
from headimpact.errors import InputError


@dataclass(frozen=True)
class MemorySample(Sample):
    """A sample whose image is in memory; its ``path`` names it, and there is no such file.

    Attributes:
        pixels: the image in RGB.
    """

    pixels: Image.Image

    def image(self) -> Image.Image:
        """The image in RGB."""
        return self.pixels


def make_samples(images: Iterable[tuple[Image.Image, Sequence[tuple[np.ndarray, str]]]]) -> list[Sample]:
    """Samples of images and of the objects in them; ids are given in order, from 0.

    Args:
        images: each with its objects, which are a mask and a phrase. A mask has a row and a column for each pixel of
            its image: booleans, or whole numbers that are 0 outside of the object and one other number within.

    Raises:
        InputError: an image has more than 8 bits a channel; a mask is of another size than its image, holds other
            numbers, is empty or covers all of it; a phrase is empty.
    """
    samples: list[Sample] = []
    number = 0
    for image_id, (image, described) in enumerate(images):
        pixels = rgb(image, f"Image {image_id}")
        objects = []
        for index, (mask, phrase) in enumerate(described):
            where = f"Object {index} of image {image_id}"
            if not phrase.strip():
                raise InputError(f"{where} has an empty phrase: describe the object in a few words.")
            obj = key_object(number, phrase, _check_mask(where, mask, image.size), score=1.0)
            if not obj.shows_something:
                raise InputError(
                    f"{where} has a mask that {'covers the whole image' if obj.area else 'is empty'}: correct it, or "
                    "leave the object out."
                )
            objects.append(obj)
            number += 1
        samples.append(MemorySample(image_id, Path(f"image {image_id}"), *image.size, tuple(objects), pixels))
    return samples


def rgb(image: Image.Image, where: str) -> Image.Image:
    """An image of any mode of 8 bits a channel in RGB.

    Raises:
        InputError: it has more bits.
    """
    if image.mode.startswith(DEEP):
        raise InputError(f"{where} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits first.")
    return image.convert("RGB")


def _check_mask(where: str, mask: np.ndarray, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    values = np.asarray(mask)
    width, height = size
    if values.shape != (height, width):
        raise InputError(
            f"{where} has a mask of shape {values.shape}, and its image is {width} pixels wide and {height} high: make "
            f"a mask of shape {(height, width)}."
        )
    inside = np.unique(values[values != 0])
    if values.dtype.kind not in "biu" or len(inside) > 1:
        raise InputError(
            f"{where} has a mask of {values.dtype} with {len(inside)} different values other than 0: make it one of "
            "booleans, as mask > 0.5 or labels == 3 does."
        )
    return values != 0
