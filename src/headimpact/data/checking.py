"""Everything that is wrong with a dataset: in ``data/dataset`` or in a folder of one's own."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from headimpact.data import assembly, coco
from headimpact.data.coco import Problem, Sample
from headimpact.files import atomic_file


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
        folder: in one of the layouts of :func:`assembly.read_own`.
        progress: wraps the samples of a part, of which it is told the name, while their images are read.

    Raises:
        InputError: the folder is in no layout that is accepted.
    """
    problems: dict[Problem, None] = {}  # in order, each once
    report = problems.setdefault
    found = assembly.read_own(folder, report)
    coco.check_ids(folder, {part: [sample.id for sample in samples] for part, samples in found.items()}, report)
    coco.check_pictures({part: progress(samples, part) for part, samples in found.items()}, report)
    if coco.manifest_path(folder).is_file():
        coco.check_manifest(folder, report)
    for part, samples in found.items():
        # Where records were left out, what is left says nothing.
        if not problems and not any(sample.objects for sample in samples):
            report(Problem(folder, part, "has no image with an object", "Add one."))
    parts = {part: (len(samples), sum(len(sample.objects) for sample in samples)) for part, samples in found.items()}
    images, objects = (sum(count[i] for count in parts.values()) for i in (0, 1))
    return Check(images, objects, parts, list(problems))


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write all problems as CSV, whole or not at all."""
    with atomic_file(path) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(field.name for field in fields(Problem))
        writer.writerows(astuple(problem) for problem in problems)
