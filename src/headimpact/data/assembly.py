"""A dataset written from samples of any source: their images chosen, split, and copied or linked."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from headimpact.data.coco import images_path
from headimpact.data.images import digest_pixels
from headimpact.data.manifest import write_manifest
from headimpact.data.overlap import check_ids, check_pictures
from headimpact.data.samples import Sample
from headimpact.data.split import split_in_proportion
from headimpact.data.writing import write_part
from headimpact.errors import InputError
from headimpact.files import atomic_folder

_NO_OBJECT = "no object is left on them"
_NO_MASK = "their masks are empty or cover the whole image"
_SAME_PICTURE = "the same picture as another one"
_TOO_MANY = "more than the parts take"

_LeftOut = Counter[tuple[str, str]]
"""How many images or objects (the first word) were left out, by the reason (the second)."""


@dataclass(frozen=True)
class Written:
    """What a dataset holds, and what was left out of it.

    Attributes:
        parts: images and objects of each part.
        left_out: what, and why.
    """

    parts: dict[str, tuple[int, int]]
    left_out: list[tuple[str, str]] = field(default_factory=list)


def write_dataset(
    folder: Path,
    samples: Iterable[Sample],
    sizes: Mapping[str, int],
    seed: int,
    progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
    link: bool = True,
) -> Written:
    """Split samples by image and write them as a dataset, whole or not at all.

    Objects whose mask shows nothing, images without an object, pictures that come again and images beyond what the
    parts take are left out and counted.

    Args:
        folder: replaced if it exists.
        samples: their paths are the source images.
        sizes: number of images of each part; of fewer images see ``split.split_in_proportion``.
        seed: of the split.
        progress: wraps the samples while their images are read.
        link: hard links instead of copies where the file system has them; not for files that somebody may edit.

    Raises:
        InputError: an image cannot be read or is not of its annotations' size, an id is there twice, or there are
            too few images.
    """
    left_out: _LeftOut = Counter()
    usable = _distinct(progress(_usable(samples, left_out)), left_out)
    chosen = split_in_proportion(usable, sizes, seed)
    left_out["images", _TOO_MANY] += len(usable) - sum(map(len, chosen.values()))
    return _write(folder, {part: [usable[i] for i in ids] for part, ids in chosen.items()}, left_out, link)


def write_parts(
    folder: Path,
    parts: Mapping[str, Sequence[Sample]],
    progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
    link: bool = True,
) -> Written:
    """Write samples whose parts are settled as a dataset, whole or not at all. Arguments as in ``write_dataset``.

    Raises:
        InputError: as in ``write_dataset``; an image is in two parts; a part has no image.
    """
    left_out: _LeftOut = Counter()
    usable = {part: _usable(samples, left_out) for part, samples in parts.items()}
    for part, samples in usable.items():
        if not samples:
            raise InputError(f"The part {part} has no image with a usable object. Add one to each part.")
    check_ids(folder, {part: [sample.id for sample in samples] for part, samples in usable.items()})
    check_pictures({part: progress(samples) for part, samples in usable.items()})
    return _write(folder, usable, left_out, link)


def _usable(samples: Iterable[Sample], left_out: _LeftOut) -> list[Sample]:
    """The samples that have an object, with their objects that show something."""
    usable: dict[int, Sample] = {}
    for sample in samples:
        if sample.id in usable:
            what = f"{sample.path}: image {sample.id}: its id is there twice"
            raise InputError(f"{what}. Give each image an id of its own.")
        objects = tuple(obj for obj in sample.objects if obj.shows_something)
        left_out["objects", _NO_MASK] += len(sample.objects) - len(objects)
        left_out["images", _NO_OBJECT] += not objects
        if objects:
            usable[sample.id] = replace(sample, objects=objects)
    return [usable[image_id] for image_id in sorted(usable)]


def _distinct(samples: Iterable[Sample], left_out: _LeftOut) -> dict[int, Sample]:
    """The samples by id; of those with the same picture the first."""
    digests: set[str] = set()
    distinct: dict[int, Sample] = {}
    for sample in samples:
        digest = digest_pixels(sample.image())
        left_out["images", _SAME_PICTURE] += digest in digests
        if digest not in digests:
            digests.add(digest)
            distinct[sample.id] = sample
    return distinct


def _write(folder: Path, parts: Mapping[str, Sequence[Sample]], left_out: _LeftOut, link: bool) -> Written:
    with atomic_folder(folder) as aside:
        images = images_path(aside)
        images.mkdir()
        paths = _place(images, [sample for samples in parts.values() for sample in samples], link)
        for part, samples in parts.items():
            write_part(aside, part, [replace(sample, path=paths[sample.id]) for sample in samples])
        write_manifest(aside)
    counts = {part: (len(samples), sum(len(s.objects) for s in samples)) for part, samples in parts.items()}
    return Written(counts, [(f"{count} {what}", why) for (what, why), count in left_out.items() if count])


def _place(images: Path, samples: Sequence[Sample], link: bool) -> dict[int, Path]:
    """Copy the images under their own names; of names that are the same, but for capitals, the later ones get their
    ids in front."""
    taken: set[str] = set()
    paths: dict[int, Path] = {}
    for sample in sorted(samples, key=lambda sample: sample.id):
        name = sample.path.name
        while name.casefold() in taken:
            name = f"{sample.id}-{name}"
        taken.add(name.casefold())
        paths[sample.id] = images / name
        _copy(sample.path.resolve(), images / name, link)
    return paths


def _copy(source: Path, target: Path, link: bool) -> None:
    if link:
        try:
            return os.link(source, target)
        except OSError:
            pass  # another file system, or one without hard links
    shutil.copyfile(source, target)
