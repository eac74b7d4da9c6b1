"""A dataset written from samples of any source: their images chosen, split, and copied or linked."""

import hashlib
import heapq
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np

from headimpact.data import masks
from headimpact.data.coco import images_path
from headimpact.data.images import digest_pixels
from headimpact.data.manifest import write_manifest
from headimpact.data.overlap import Pictures, check_pictures
from headimpact.data.packed import PackedSamples, Packer
from headimpact.data.problems import LeftOut, Noted, noted, told
from headimpact.data.samples import KeyObject, Sample, object_of_rle
from headimpact.data.split import least_of, split_in_proportion
from headimpact.data.writing import write_part
from headimpact.errors import InputError
from headimpact.files import atomic_folder
from headimpact.text import normalise

_NO_OBJECT = "no object is left on them"
_NO_MASK = "their masks are empty or cover the whole image"
_SAME_PICTURE = "the same picture as another one"
_TOO_MANY = "more than the parts take"
_ONE_PHRASE = Noted("they have the phrase of another object of their image, and are one with it")
ANEW = Noted("ids start anew in each part, so they are numbered anew")


@dataclass(frozen=True)
class Written:
    """What a dataset holds, and what was left out of it.

    Attributes:
        parts: images and objects of each part.
        left_out: what, and why.
        noted: what was read otherwise than a person may think, as rows of a summary.
    """

    parts: dict[str, tuple[int, int]]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    noted: list[tuple[str, str]] = field(default_factory=list)


def write_dataset(
    folder: Path,
    samples: Iterable[Sample],
    sizes: Mapping[str, int | float],
    seed: int,
    progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
    link: bool = True,
    left_out: LeftOut | None = None,
) -> Written:
    """Split samples by image and write them as a dataset, whole or not at all.

    Objects whose mask shows nothing, images without an object, pictures that come again and images beyond what the
    parts take are left out and counted.

    Args:
        folder: replaced if it exists.
        samples: their paths are the source images.
        sizes: number of images of each part, or their shares: see ``split.split_in_proportion``.
        seed: of the split.
        progress: wraps the samples while their images are read.
        link: hard links instead of copies where the file system has them; not for files that somebody may edit.
        left_out: what was left out before.

    Raises:
        InputError: an image cannot be read or is not of its annotations' size, an id is there twice, or there are
            too few images.
    """
    left_out = LeftOut() if left_out is None else left_out
    usable = _distinct(_usable(samples, left_out), progress, left_out)
    chosen = split_in_proportion(usable.ids, sizes, seed)
    left_out["images", _TOO_MANY] += len(usable) - sum(map(len, chosen.values()))
    parts = {part: usable.choose(np.searchsorted(usable.ids, ids)) for part, ids in chosen.items()}
    return _write(folder, parts, left_out, link)


def write_parts(
    folder: Path,
    parts: Mapping[str, Iterable[Sample]],
    progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
    link: bool = True,
    left_out: LeftOut | None = None,
) -> Written:
    """Write samples whose parts are settled as a dataset, whole or not at all. Arguments as in ``write_dataset``.

    Where image ids start anew in each part, images are numbered anew.

    Raises:
        InputError: as in ``write_dataset``; a picture is in two parts; a part has fewer images than it needs.
    """
    left_out = LeftOut() if left_out is None else left_out
    usable = {part: _usable(samples, left_out) for part, samples in parts.items()}
    for part, needed in least_of(usable).items():
        if (images := len(usable[part])) < needed:
            raise InputError(
                f"The part {part} has too few images with a usable object: {images}, and it needs {needed}. Add images."
            )
    check_pictures(usable, progress=lambda samples, _: progress(samples))
    if ids_start_anew(usable):
        left_out["images", ANEW] += sum(map(len, usable.values()))
        usable = _numbered_anew(usable)
    return _write(folder, usable, left_out, link)


def _usable(samples: Iterable[Sample], left_out: LeftOut) -> PackedSamples:
    """The samples that have an object, with their objects that show something."""
    packer = Packer()
    for sample in samples:
        objects = tuple(obj for obj in sample.objects if obj.shows_something)
        left_out["objects", _NO_MASK] += len(sample.objects) - len(objects)
        left_out["images", _NO_OBJECT] += not objects
        if objects:
            packer.add(replace(sample, objects=objects))
    usable = packer.pack()
    for index in np.flatnonzero(np.diff(usable.ids) == 0).tolist():
        sample = usable[index + 1]
        what = f"{sample.path}: image {sample.id}: its id is there twice"
        raise InputError(f"{what}. Give each image an id of its own.")
    return usable


def one_a_phrase(samples: Iterable[Sample], left_out: LeftOut) -> Iterator[Sample]:
    """The samples, with the objects of an image that have the same phrase as one: the union of their masks.

    Nothing in a phrase tells them apart, so a model that looks at all of them is right. The first one's id and words
    stay, and the lowest confidence.
    """
    for sample in samples:
        groups: dict[str, list[KeyObject]] = {}
        for obj in sample.objects:
            groups.setdefault(normalise(obj.phrase), []).append(obj)
        left_out["objects", _ONE_PHRASE] += len(sample.objects) - len(groups)
        if len(groups) < len(sample.objects):
            sample = replace(sample, objects=tuple(map(_union, groups.values())))
        yield sample


def _union(objects: Sequence[KeyObject]) -> KeyObject:
    first, *others = objects
    if not others:
        return first
    rle = masks.union([obj.rle for obj in objects])
    return object_of_rle(first.id, first.phrase, rle, min(obj.score for obj in objects))


def ids_start_anew(parts: Mapping[str, PackedSamples]) -> bool:
    """Whether an id is that of images of two parts, as exporters give them that write part by part."""
    everywhere = np.concatenate([samples.ids for samples in parts.values()])
    return len(np.unique(everywhere)) < len(everywhere)


def _numbered_anew(parts: Mapping[str, PackedSamples]) -> dict[str, PackedSamples]:
    """The same images with ids from 1, part after part."""
    numbers = count(1)
    renumbered = {}
    for part, samples in parts.items():
        packer = Packer()
        for sample in samples:
            packer.add(replace(sample, id=next(numbers)))
        renumbered[part] = packer.pack()
    return renumbered


def _distinct(
    samples: PackedSamples, progress: Callable[[Sequence[Sample]], Iterable[Sample]], left_out: LeftOut
) -> PackedSamples:
    """The samples without those whose picture is that of an earlier one."""
    pictures = Pictures()
    for sample in progress(samples):
        pictures.add(digest_pixels(sample.image()))
    firsts = pictures.firsts()
    distinct = np.flatnonzero(firsts == np.arange(len(firsts)))
    left_out["images", _SAME_PICTURE] += len(firsts) - len(distinct)
    return samples.choose(distinct)


def _write(folder: Path, parts: Mapping[str, PackedSamples], left_out: LeftOut, link: bool) -> Written:
    with atomic_folder(folder) as aside:
        images = images_path(aside)
        images.mkdir()
        other_names = _other_names(parts)
        for sample in _by_id(parts):
            _copy(sample.path.resolve(), images / other_names.get(sample.id, sample.path.name), link)
        for part, samples in parts.items():
            write_part(aside, part, samples, lambda sample: other_names.get(sample.id, sample.path.name))
        write_manifest(aside)
    counts = {part: (len(samples), int(samples.object_counts.sum())) for part, samples in parts.items()}
    return Written(counts, told(left_out), noted(left_out))


def _by_id(parts: Mapping[str, PackedSamples]) -> Iterator[Sample]:
    return heapq.merge(*parts.values(), key=lambda sample: sample.id)


def _other_names(parts: Mapping[str, PackedSamples]) -> dict[int, str]:
    """By the ids of their images, file names that are not their own: of names that are the same, but for capitals, the
    later ones get their ids in front."""
    names = Pictures()
    for sample in _by_id(parts):
        names.add(hashlib.sha256(sample.path.name.casefold().encode()).hexdigest())
    firsts = names.firsts()
    if (firsts == np.arange(len(firsts))).all():
        return {}
    taken: set[str] = set()
    others: dict[int, str] = {}
    for sample in _by_id(parts):
        name = sample.path.name
        while name.casefold() in taken:
            name = others[sample.id] = f"{sample.id}-{name}"
        taken.add(name.casefold())
    return others


def _copy(source: Path, target: Path, link: bool) -> None:
    if link:
        try:
            return os.link(source, target)
        except OSError:
            pass  # another file system, or one without hard links
    shutil.copyfile(source, target)
