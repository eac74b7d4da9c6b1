"""Data of one's own: a folder of images and COCO JSON, read in any layout that is accepted, and made a dataset."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from headimpact.data.assembly import Written, write_dataset, write_parts
from headimpact.data.coco import PARTS, annotation_path, images_path, read_annotations
from headimpact.data.manifest import manifest_path
from headimpact.data.packed import PackedSamples
from headimpact.data.problems import DataError, Reporter, refuse
from headimpact.data.samples import Sample
from headimpact.errors import InputError

_LAYOUTS = (
    f"A folder holds either images/ and annotations/{{{','.join(PARTS)}}}.json, or one COCO JSON (in it or in its "
    f"annotations/) and the images (in it or in its images/)."
)


def read_own_data(folder: Path, report: Reporter = refuse) -> dict[str, PackedSamples]:
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
    lenient = not manifest_path(folder).is_file()
    images = images_path(folder)
    samples_of = {name: read_annotations(path, images, report, lenient) for name, path in files.items()}
    image_folders = [images] if _has_parts(samples_of) else [images, folder]
    for image_folder in image_folders:
        if any((image_folder / name).is_file() for samples in samples_of.values() for name in samples.names):
            return {name: samples.below(image_folder) for name, samples in samples_of.items()}
    if any(samples_of.values()):
        listed, searched = (" and ".join(map(str, paths)) for paths in (files.values(), image_folders))
        raise InputError(f"None of the images that {listed} lists is in {searched}. {_LAYOUTS}")
    return samples_of


def _has_parts(files: Mapping[str, object]) -> bool:
    """Whether they are the four parts, and not one COCO JSON."""
    return set(files) == set(PARTS)


def _annotation_files(folder: Path) -> dict[str, Path]:
    """The annotation files of a folder by name: those of the four parts, or a single one."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. {_LAYOUTS}")
    inner = sorted((folder / "annotations").glob("*.json"))
    if {path.stem for path in inner} == set(PARTS):
        return {part: annotation_path(folder, part) for part in PARTS}
    files = [*sorted(path for path in folder.glob("*.json") if path != manifest_path(folder)), *inner]
    if not files:
        raise InputError(f"{folder} holds no COCO JSON. {_LAYOUTS}")
    if len(files) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in files)
        raise InputError(f"{folder} holds several JSON files that are not the four parts: {names}. {_LAYOUTS}")
    return {files[0].stem: files[0]}


def import_own_data(
    folder: Path,
    source: Path,
    sizes: Mapping[str, int],
    seed: int,
    progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> Written:
    """Write a dataset from a folder of one's own; parts that it has already are kept as they are.

    Its images are copied, never linked: DVC may make what is linked to its cache read-only. Arguments as in
    ``assembly.write_dataset``.

    Raises:
        InputError: the source has a problem, is in no layout that is accepted, is the dataset's folder or lies in it.
    """
    if source.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{source} would be replaced by the dataset that is made of it. Move your data out of {folder}."
        )
    try:
        samples_of = read_own_data(source)
        if _has_parts(samples_of):
            return write_parts(folder, samples_of, progress, link=False)
        (samples,) = samples_of.values()
        return write_dataset(folder, samples, sizes, seed, progress, link=False)
    except DataError as error:
        raise InputError(f"{error} To see all problems: headimpact check-data {source}") from None
