"""The embedded dataset: generated scenes, written like any other dataset."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from headimpact.data import scenes
from headimpact.data.coco import images_path
from headimpact.data.manifest import write_manifest
from headimpact.data.packed import Packer
from headimpact.data.samples import Sample, key_object
from headimpact.data.split import split
from headimpact.data.writing import write_part
from headimpact.files import atomic_folder


def write_scenes(
    folder: Path,
    sizes: Mapping[str, int],
    seed: int,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> None:
    """Write the dataset, whole or not at all: images, one annotation file a part, and the manifest.

    Args:
        folder: replaced if it exists.
        sizes: number of images of each part.
        seed: of the scenes and of the split.
        progress: wraps the scene ids while their images are drawn.
    """
    ids = range(1, sum(sizes.values()) + 1)
    parts = split(ids, sizes, seed)
    with atomic_folder(folder) as aside:
        images_path(aside).mkdir()
        packer = Packer()
        for scene_id in progress(ids):
            packer.add(_write_scene(aside, scenes.draw(seed, scene_id)))
        samples = packer.pack()
        for part, chosen in parts.items():
            write_part(aside, part, samples.choose(np.searchsorted(samples.ids, chosen)))
        write_manifest(aside)


def _write_scene(folder: Path, scene: scenes.Scene) -> Sample:
    path = images_path(folder) / f"{scene.id:06d}.png"
    # Not compressed: the bytes that a compressor makes of the same pixels differ between processors.
    scene.image.save(path, compress_level=0)
    objects = [
        key_object(10 * scene.id + index, thing.rich, thing.mask, score=1.0) for index, thing in enumerate(scene.things)
    ]
    return Sample(scene.id, path, scene.image.width, scene.image.height, tuple(objects))
