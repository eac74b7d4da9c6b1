"""A dataset from any source: its images chosen, split and copied, or a folder of one's own read."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from headimpact.data import coco
from headimpact.data.coco import PARTS, Sample
from headimpact.errors import InputError
from headimpact.files import atomic_folder

_NO_OBJECT = "no object is left on them"
_NO_MASK = "their masks are empty or cover the whole image"
_TWICE = "the same picture as another one"
_TOO_MANY = "more than the parts take"
_LAYOUTS = (
    f"A folder holds either images/ and annotations/{{{','.join(PARTS)}}}.json, or one COCO JSON (in it or in its "
    f"annotations/) and the images (in it or in its images/)."
)


@dataclass(frozen=True)
class Written:
    """What a dataset holds, and what was left out of it.

    Attributes:
        parts: images and objects of each part.
        skipped: what, and why.
    """

    parts: dict[str, tuple[int, int]]
    skipped: list[tuple[str, str]] = field(default_factory=list)


def parts(ids: Iterable[int], sizes: Mapping[str, int], seed: int) -> dict[str, list[int]]:
    """Image ids of each part, ascending: exactly ``sizes``, or their proportions where there are fewer images.

    Proportions are by largest remainder; a part that would get no image takes one from the largest part.

    Raises:
        InputError: there are fewer images than parts.
    """
    everything = set(ids)
    if len(everything) < sum(sizes.values()):
        sizes = _shrink(sizes, len(everything))
    return coco.split(everything, sizes, seed)


def _shrink(sizes: Mapping[str, int], images: int) -> dict[str, int]:
    if images < len(sizes):
        raise InputError(
            f"There are {images} images with a usable object; a dataset needs at least {len(sizes)}, one for each of "
            f"its parts ({', '.join(sizes)}). Add images."
        )
    total = sum(sizes.values())
    shrunk = {part: size * images // total for part, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda part: -(sizes[part] * images % total))
    for part in by_remainder[: images - sum(shrunk.values())]:
        shrunk[part] += 1
    for part in [part for part, size in shrunk.items() if size == 0]:
        shrunk[max(shrunk, key=lambda part: shrunk[part])] -= 1
        shrunk[part] = 1
    return shrunk


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
        sizes: number of images of each part; of fewer images see :func:`parts`.
        seed: of the split.
        progress: wraps the samples while their images are read.
        link: hard links instead of copies where the file system has them; not for files that somebody may edit.

    Raises:
        InputError: an image cannot be read or is not of its annotations' size, an id is there twice, or there are
            too few images.
    """
    skipped: Counter[tuple[str, str]] = Counter()
    usable = _distinct(progress(_usable(samples, skipped)), skipped)
    chosen = parts(usable, sizes, seed)
    skipped["images", _TOO_MANY] += len(usable) - sum(map(len, chosen.values()))
    return _write(folder, {part: [usable[i] for i in ids] for part, ids in chosen.items()}, skipped, link)


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
    skipped: Counter[tuple[str, str]] = Counter()
    usable = {part: _usable(samples, skipped) for part, samples in parts.items()}
    for part, samples in usable.items():
        if not samples:
            raise InputError(f"The part {part} has no image with a usable object. Add one to each part.")
    coco.check_ids(folder, {part: [sample.id for sample in samples] for part, samples in usable.items()})
    coco.check_pictures({part: progress(samples) for part, samples in usable.items()})
    return _write(folder, usable, skipped, link)


def _usable(samples: Iterable[Sample], skipped: Counter[tuple[str, str]]) -> list[Sample]:
    """The samples that have an object, with their objects that show something."""
    usable: dict[int, Sample] = {}
    for sample in samples:
        if sample.id in usable:
            what = f"{sample.path}: image {sample.id}: its id is there twice"
            raise InputError(f"{what}. Give each image an id of its own.")
        objects = tuple(obj for obj in sample.objects if coco.shows_something(obj))
        skipped["objects", _NO_MASK] += len(sample.objects) - len(objects)
        skipped["images", _NO_OBJECT] += not objects
        if objects:
            usable[sample.id] = replace(sample, objects=objects)
    return [usable[image_id] for image_id in sorted(usable)]


def _distinct(samples: Iterable[Sample], skipped: Counter[tuple[str, str]]) -> dict[int, Sample]:
    """The samples by id; of those with the same picture the first."""
    seen: set[str] = set()
    distinct: dict[int, Sample] = {}
    for sample in samples:
        digest = coco.digest_pixels(sample.image())
        skipped["images", _TWICE] += digest in seen
        if digest not in seen:
            seen.add(digest)
            distinct[sample.id] = sample
    return distinct


def _write(
    folder: Path, parts: Mapping[str, Sequence[Sample]], skipped: Counter[tuple[str, str]], link: bool
) -> Written:
    with atomic_folder(folder) as aside:
        images = coco.images_path(aside)
        images.mkdir()
        paths = _place(images, [sample for samples in parts.values() for sample in samples], link)
        for part, samples in parts.items():
            coco.write_part(aside, part, [replace(sample, path=paths[sample.id]) for sample in samples])
        coco.write_manifest(aside)
    counts = {part: (len(samples), sum(len(s.objects) for s in samples)) for part, samples in parts.items()}
    told = [(f"{count} {what}", why) for (what, why), count in skipped.items() if count]
    return Written(counts, told)


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


def read_own(folder: Path, report: coco.Report = coco.refuse) -> dict[str, list[Sample]]:
    """The samples of a folder of one's own, by part, or under the name of its only COCO JSON.

    The project's own layout is read as the project writes it where it has a manifest; everywhere else a phrase may
    also be a caption or a category, and a missing score is 1.

    Args:
        folder: in one of the layouts that are accepted.
        report: is given every problem of a record; where it returns, the record is left out.

    Raises:
        InputError: it is in no layout that is accepted, or there are no images.
    """
    files = _annotation_files(folder)
    lenient = not coco.manifest_path(folder).is_file()
    images = coco.images_path(folder)
    found = {part: coco.read_annotations(path, images, report, lenient) for part, path in files.items()}
    places = [images] if has_parts(found) else [images, folder]
    names = [sample.path.relative_to(images) for samples in found.values() for sample in samples]
    for place in places:
        if any((place / name).is_file() for name in names):
            return {part: [_moved(sample, images, place) for sample in samples] for part, samples in found.items()}
    if names:
        listed, searched = (" and ".join(map(str, paths)) for paths in (files.values(), places))
        raise InputError(f"None of the images that {listed} lists is in {searched}. {_LAYOUTS}")
    return found


def has_parts(found: Mapping[str, object]) -> bool:
    """Whether what was read has the four parts already."""
    return set(found) == set(PARTS)


def _moved(sample: Sample, images: Path, place: Path) -> Sample:
    return replace(sample, path=place / sample.path.relative_to(images))


def _annotation_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. {_LAYOUTS}")
    inner = sorted((folder / "annotations").glob("*.json"))
    if {path.stem for path in inner} == set(PARTS):
        return {part: coco.annotation_path(folder, part) for part in PARTS}
    found = [*sorted(path for path in folder.glob("*.json") if path != coco.manifest_path(folder)), *inner]
    if not found:
        raise InputError(f"{folder} holds no COCO JSON. {_LAYOUTS}")
    if len(found) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found)
        raise InputError(f"{folder} holds several JSON files that are not the four parts: {names}. {_LAYOUTS}")
    return {found[0].stem: found[0]}


def import_own(
    folder: Path,
    source: Path,
    sizes: Mapping[str, int],
    seed: int,
    progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> Written:
    """Write a dataset from a folder of one's own; parts that it has already are kept as they are.

    Its images are copied, never linked: DVC may make what is linked to its cache read-only.

    Raises:
        InputError: the source has a problem, is in no layout that is accepted, is the dataset's folder or lies in it.
    """
    if source.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{source} would be replaced by the dataset that is made of it. Move your data out of {folder}."
        )
    try:
        found = read_own(source)
        if has_parts(found):
            return write_parts(folder, found, progress, link=False)
        (samples,) = found.values()
        return write_dataset(folder, samples, sizes, seed, progress, link=False)
    except coco.DataError as error:
        raise InputError(f"{error} To see all problems: headimpact check-data {source}") from None
