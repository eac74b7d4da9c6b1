"""Everything that is wrong with a dataset: in ``data/dataset`` or in a folder of one's own."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from headimpact.data.coco import PARTS, load_dictionary, read_image_ids
from headimpact.data.manifest import list_files, manifest_path
from headimpact.data.overlap import check_ids, check_pictures
from headimpact.data.own_data import read_own_data
from headimpact.data.problems import Problem, Reporter, refuse
from headimpact.data.samples import Sample
from headimpact.files import atomic_file, digest_file


@dataclass(frozen=True)
class Check:
    """What a dataset holds, and what is wrong with it.

    Attributes:
        parts: usable images and objects of each part, or of the only COCO JSON.
        problems: all of them, each once.
    """

    images: int
    objects: int
    parts: dict[str, tuple[int, int]]
    problems: list[Problem]


def check(folder: Path, progress: Callable[[Sequence[Sample], str], Iterable[Sample]] = lambda s, _: s) -> Check:
    """Check a dataset: its layout, every record, every image, and its manifest where it has one.

    Args:
        folder: in one of the layouts of :func:`own_data.read_own_data`.
        progress: wraps the samples of a part, given its name, while their images are read.

    Raises:
        InputError: the folder is in no layout that is accepted.
    """
    problems: dict[Problem, None] = {}  # in order, each once
    report = problems.setdefault
    samples_of = read_own_data(folder, report)
    check_ids(folder, {part: samples.ids for part, samples in samples_of.items()}, report)
    check_pictures(samples_of, report, progress)
    if manifest_path(folder).is_file():
        _check_manifest(folder, report)
    for part, samples in samples_of.items():
        # Where records were left out, what is left says nothing.
        if not problems and not samples.object_counts.any():
            report(Problem(folder, part, "has no image with an object", "Add one."))
    parts = {part: (len(samples), int(samples.object_counts.sum())) for part, samples in samples_of.items()}
    images, objects = (sum(count[i] for count in parts.values()) for i in (0, 1))
    return Check(images, objects, parts, list(problems))


def verify(folder: Path) -> None:
    """Hold a dataset to its manifest, and its parts to each other, without opening an image.

    Raises:
        InputError: a file was changed, added or removed after the dataset was written, or an image is in two
            parts.
    """
    _check_manifest(folder, refuse)
    check_ids(folder, {part: read_image_ids(folder, part) for part in PARTS})


def _check_manifest(folder: Path, report: Reporter) -> None:
    """Report every file that was changed, added or removed after the dataset was written."""
    manifest = manifest_path(folder)
    if not manifest.is_file():
        advice = f"Delete {folder} and run `headimpact data`; keep data of your own elsewhere."
        return report(Problem(manifest, "", "does not exist", advice))
    advice = (
        f"If `headimpact data` made {folder}, delete it and run that again; if it holds data of your own, delete "
        f"{manifest}."
    )
    digests = load_dictionary(manifest, advice, report)
    if digests is None:
        return None
    present = set(list_files(folder))
    for name in sorted(present | digests.keys()):
        if name not in digests:
            what = "was added after the dataset was written"
            report(Problem(folder / name, "", what, f"Remove it. {advice}"))
        elif name not in present:
            report(Problem(folder / name, "", "is missing", advice))
        elif digest_file(folder / name) != digests[name]:
            report(Problem(folder / name, "", "was changed after it was written", advice))


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write all problems as CSV, whole or not at all."""
    with atomic_file(path) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(field.name for field in fields(Problem))
        writer.writerows(astuple(problem) for problem in problems)
