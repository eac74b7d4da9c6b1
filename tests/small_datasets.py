"""Small datasets for tests, whose files can be edited."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headimpact.data.coco import PARTS, annotation_path, images_path, read_part
from headimpact.data.manifest import write_manifest
from headimpact.data.samples import Sample, key_object
from headimpact.data.writing import write_part
from headimpact.errors import InputError

WIDTH, HEIGHT = 20, 12
CROSS = np.zeros((HEIGHT, WIDTH), dtype=bool)
CROSS[2:9, 5] = CROSS[4, 3:10] = True
SQUARE = np.zeros((HEIGHT, WIDTH), dtype=bool)
SQUARE[2:6, 3:8] = True


def save_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint32).reshape(size[1], size[0], 3) * 7 % 251
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def make_sample(folder: Path, image_id: int, objects: int = 2) -> Sample:
    path = save_image(images_path(folder) / f"{image_id}.png")
    keys = tuple(key_object(image_id * 10 + i, f"object {i}", np.roll(CROSS, i, axis=1), 0.5) for i in range(objects))
    return Sample(image_id, path, WIDTH, HEIGHT, keys)


def save_noise(path: Path, seed: int) -> Path:
    """Another picture for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make_noise_sample(folder: Path, image_id: int, name: str = "", masks: Sequence[np.ndarray] = (SQUARE,)) -> Sample:
    """A sample whose image lies in ``folder`` itself."""
    path = save_noise(folder / (name or f"{image_id}.png"), image_id)
    objects = tuple(key_object(10 * image_id + i, "a thing", mask, 0.9) for i, mask in enumerate(masks))
    return Sample(image_id, path, WIDTH, HEIGHT, objects)


def read_parts(folder: Path) -> dict[str, list[Sample]]:
    return {part: read_part(folder, part) for part in PARTS}


def image_names(folder: Path) -> list[str]:
    return sorted(path.name for path in images_path(folder).iterdir())


def write_small_dataset(folder: Path) -> Path:
    """Images 1 to 4 in impact, train, val and test, with the objects 10 and 11 to 40 and 41, and a manifest."""
    for image_id, part in enumerate(PARTS, start=1):
        write_part(folder, part, [make_sample(folder, image_id)])
    write_manifest(folder)
    return folder


def edit(folder: Path, change: Callable[[dict[str, Any]], object], part: str = "test") -> None:
    """Let ``change`` edit the content of an annotation file."""
    path = annotation_path(folder, part)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refuses(folder: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    """After an edit, the part test cannot be read, and the error says so of its file."""
    edit(folder, change)
    with pytest.raises(InputError, match=message) as caught:
        read_part(folder, "test")
    assert "test.json" in str(caught.value)
