"""Images of real size with three objects each, drawn."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from headimpact.data import scenes
from headimpact.data.samples import Sample, key_object

WIDTH, HEIGHT = 640, 480
"""COCO's most common size, in pixels."""
OBJECTS = 3


def draw(count: int, folder: Path) -> list[Sample]:
    """Scenes enlarged to ``WIDTH`` x ``HEIGHT``, as JPEG files in a folder; the same for the same count everywhere."""
    return [_write(scene, number, folder) for number, scene in zip(range(count), _suitable(), strict=False)]


def _suitable() -> Iterator[scenes.Scene]:
    """Scenes of enough things, the first two of which say nothing of the same: an evaluation needs false phrases."""
    said: list[set[str]] = []
    number = 0
    while True:
        scene = scenes.draw(0, number)
        number += 1
        phrases = {thing.rich for thing in scene.things[:OBJECTS]}
        if len(phrases) == OBJECTS and (len(said) != 1 or not phrases & said[0]):
            said.append(phrases)
            yield scene


def _write(scene: scenes.Scene, number: int, folder: Path) -> Sample:
    path = folder / f"{number}.jpg"
    scene.image.resize((WIDTH, HEIGHT)).save(path, quality=90)
    objects = []
    for index, thing in enumerate(scene.things[:OBJECTS]):
        mask = np.asarray(Image.fromarray(thing.mask).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))
        objects.append(key_object(number * OBJECTS + index, thing.rich, mask, 1.0))
    return Sample(number, path, WIDTH, HEIGHT, tuple(objects))
