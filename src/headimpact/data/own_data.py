"""Data of one's own: a folder of images and COCO JSON, read in any layout that is accepted, and made a dataset."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from headimpact.data.assembly import Written, one_a_phrase, write_dataset, write_parts
from headimpact.data.coco import PARTS, Leniency, annotation_path, images_path, read_annotations
from headimpact.data.manifest import manifest_path
from headimpact.data.names import Names
from headimpact.data.packed import PackedSamples
from headimpact.data.problems import DataError, LeftOut, Problem, Reporter, refuse
from headimpact.data.samples import Sample
from headimpact.errors import InputError

_LAYOUTS = (
    f"A folder holds either images/ and annotations/{{{','.join(PARTS)}}}.json, or one COCO JSON (in it or in its "
    f"annotations/) and the images (in it or in its images/)."
)


def read_own_data(folder: Path, report: Reporter = refuse, left_out: LeftOut | None = None) -> dict[str, PackedSamples]:
    """The samples of a folder of one's own, by part, or under the name of its only COCO JSON.

    The project's own layout is read as the project writes it where it has a manifest; everywhere else as
    :class:`headimpact.data.coco.Leniency` says.

    Args:
        folder: in one of the layouts that are accepted.
        report: is given every problem of a record; where it returns, the record is left out.
        left_out: is counted what is left out without being wrong.

    Raises:
        InputError: it is in no layout that is accepted, or there are no images.
    """
    files = annotation_files(folder)
    images = images_path(folder)
    if manifest_path(folder).is_file():
        return {name: read_annotations(path, images, report) for name, path in files.items()}
    names = Names(folder, images)
    lenient = Leniency(names.find, LeftOut() if left_out is None else left_out)
    samples_of = {name: read_annotations(path, folder, report, lenient) for name, path in files.items()}
    if any(samples_of.values()) and not any((folder / n).is_file() for s in samples_of.values() for n in s.names):
        first = next(name for samples in samples_of.values() for name in samples.names)
        listed = " and ".join(map(str, files.values()))
        there = f"It lists {first.removeprefix('images/')!r}, and there is {' and '.join(map(repr, names.some()))}."
        raise InputError(f"None of the images that {listed} lists is in {images} and {folder}. {there} {_LAYOUTS}")
    _check_guesses(files, samples_of, names, report)
    return samples_of


def _check_guesses(
    files: Mapping[str, Path], samples_of: Mapping[str, PackedSamples], names: Names, report: Reporter
) -> None:
    """Report every file that two records mean, where one of them does so by another name."""
    if not names.guessed:
        return
    counts = Counter(name for samples in samples_of.values() for name in samples.names if name in names.guessed)
    for part, samples in samples_of.items():
        for index, name in enumerate(samples.names):
            if counts[name] > 1:
                what = f"it and another record may mean {name}, one of them as {names.guessed[name]!r}"
                advice = "Write file names as the files are named."
                report(Problem(files[part], f"image {samples.ids[index]}", what, advice))


def _has_parts(files: Mapping[str, object]) -> bool:
    """Whether they are the four parts, and not one COCO JSON."""
    return set(files) == set(PARTS)


def annotation_files(folder: Path) -> dict[str, Path]:
    """The annotation files of a folder by name: those of the four parts, or a single one."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. {_LAYOUTS}")
    inner = sorted((folder / "annotations").glob("[!.]*.json"))
    if {path.stem for path in inner} == set(PARTS):
        return {part: annotation_path(folder, part) for part in PARTS}
    files = [*sorted(path for path in folder.glob("[!.]*.json") if path != manifest_path(folder)), *inner]
    if not files:
        raise InputError(f"{folder} holds no COCO JSON. {_LAYOUTS}")
    if len(files) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in files)
        raise InputError(f"{folder} holds several JSON files that are not the four parts: {names}. {_LAYOUTS}")
    return {files[0].stem: files[0]}


def import_own_data(
    folder: Path,
    source: Path,
    sizes: Mapping[str, int | float],
    seed: int,
    progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> Written:
    """Write a dataset from a folder of one's own; parts that it has already are kept as they are. Objects of an image
    that have the same phrase become one (:func:`headimpact.data.assembly.one_a_phrase`).

    Its images are copied, never linked: DVC may make what is linked to its cache read-only. Arguments as in
    ``assembly.write_dataset``.

    Raises:
        InputError: the source has a problem, is in no layout that is accepted, is the dataset's folder or lies in it.
    """
    if source.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{source} would be replaced by the dataset that is made of it. Move your data out of {folder}."
        )
    left_out = LeftOut()
    try:
        samples_of = read_own_data(source, left_out=left_out)
        joined = {part: one_a_phrase(samples, left_out) for part, samples in samples_of.items()}
        if _has_parts(samples_of):
            return write_parts(folder, joined, progress, link=False, left_out=left_out)
        (samples,) = joined.values()
        return write_dataset(folder, samples, sizes, seed, progress, link=False, left_out=left_out)
    except DataError as error:
        raise InputError(f"{error} To see all problems: headimpact check-data {source}") from None
