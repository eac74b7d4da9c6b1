"""Everything that is wrong with a dataset: in ``data/dataset`` or in a folder of one's own."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

from headimpact.data.assembly import ANEW, ids_start_anew, one_a_phrase
from headimpact.data.coco import PARTS, load_dictionary, read_image_ids
from headimpact.data.images import is_turned
from headimpact.data.manifest import list_files, manifest_path
from headimpact.data.overlap import check_ids, check_pictures
from headimpact.data.own_data import read_own_data
from headimpact.data.packed import PackedSamples, packed
from headimpact.data.problems import LeftOut, Noted, Problem, Reporter, noted, refuse, told
from headimpact.data.samples import Sample
from headimpact.data.split import least_of
from headimpact.files import atomic_file, digest_file

Progress = Callable[[Sequence[Sample], str], Iterable[Sample]]

_TURNED = Noted("their EXIF turns them, so they are read upright, and their masks must be of the upright image")


@dataclass(frozen=True)
class Check:
    """What a dataset holds, and what is wrong with it.

    Attributes:
        parts: usable images and objects of each part, or of the only COCO JSON.
        problems: all of them, each once.
        left_out: what is left out without being wrong, and why.
        noted: what is read otherwise than a person may think, as rows of a summary.
        samples: of each part, as a dataset would be made of them; not compared.
    """

    images: int
    objects: int
    parts: dict[str, tuple[int, int]]
    problems: list[Problem]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    noted: list[tuple[str, str]] = field(default_factory=list)
    samples: Mapping[str, PackedSamples] = field(default_factory=dict, compare=False)


def check(folder: Path, progress: Progress = lambda samples, _: samples) -> Check:
    """Check a dataset: its layout, every record, every image, and its manifest where it has one.

    Args:
        folder: in one of the layouts of :func:`own_data.read_own_data`.
        progress: wraps the samples of a part, given its name, while their images are read.

    Raises:
        InputError: the folder is in no layout that is accepted.
    """
    problems: dict[Problem, None] = {}  # in order, each once
    report, left_out = problems.setdefault, LeftOut()
    samples_of = read_own_data(folder, report, left_out)
    if manifest_path(folder).is_file():
        check_ids(folder, {part: samples.ids for part, samples in samples_of.items()}, report)
    check_pictures(samples_of, report, _counting_turned(progress, left_out))
    if manifest_path(folder).is_file():
        _check_manifest(folder, report)
    else:
        left_out["images", ANEW] += sum(map(len, samples_of.values())) * ids_start_anew(samples_of)
        samples_of = {part: packed(one_a_phrase(samples, left_out)) for part, samples in samples_of.items()}
    if not problems:  # where records were left out, what is left says nothing
        _check_sizes(folder, samples_of, report)
    parts = {part: (len(samples), int(samples.object_counts.sum())) for part, samples in samples_of.items()}
    images, objects = (sum(count[i] for count in parts.values()) for i in (0, 1))
    return Check(images, objects, parts, list(problems), told(left_out), noted(left_out), samples_of)


def _check_sizes(folder: Path, samples_of: Mapping[str, PackedSamples], report: Reporter) -> None:
    """Report parts, or a single file, with too few images for anything to come of them."""
    needed = least_of(PARTS)
    needed = needed if set(samples_of) == set(PARTS) else dict.fromkeys(samples_of, sum(needed.values()))
    for part, samples in samples_of.items():
        if (images := int((samples.object_counts > 0).sum())) < needed[part]:
            what = f"has {images} images with an object, and {needed[part]} are needed"
            report(Problem(folder, part, what, "Add images."))


def _counting_turned(progress: Progress, left_out: LeftOut) -> Progress:
    """The same, counting the images that are read otherwise than they are stored."""

    def counted(samples: Sequence[Sample], part: str) -> Iterator[Sample]:
        for sample in progress(samples, part):
            yield sample
            left_out["images", _TURNED] += is_turned(sample.path)

    return counted


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
        writer.writerow(column.name for column in fields(Problem))
        writer.writerows(astuple(problem) for problem in problems)
