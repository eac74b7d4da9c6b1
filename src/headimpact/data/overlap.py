"""No image in two parts, by its id or by its pixels: a model must not be tested on what it was trained on."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from headimpact.data.images import digest_pixels
from headimpact.data.problems import DataError, Problem, Reporter, refuse
from headimpact.data.samples import Sample

_ONE_PART = "Keep it in one part: a model must not be tested on what it was trained on."


def check_ids(folder: Path, parts: Mapping[str, Iterable[int]], report: Reporter = refuse) -> None:
    """Report every image whose id is in two parts."""
    part_of: dict[int, str] = {}
    for part, ids in parts.items():
        for image_id in ids:
            if part_of.setdefault(image_id, part) != part:
                what = f"it is in {part_of[image_id]} and in {part}"
                report(Problem(folder, f"image {image_id}", what, _ONE_PART))


def check_pictures(parts: Mapping[str, Iterable[Sample]], report: Reporter = refuse) -> None:
    """Report every image that cannot be read, and every picture that is in two parts under two ids."""
    first_with: dict[str, tuple[str, Sample]] = {}
    for part, samples in parts.items():
        for sample in samples:
            try:
                digest = digest_pixels(sample.image())
            except DataError as error:
                report(replace(error.problem, record=f"image {sample.id}"))
                continue
            first_part, first = first_with.setdefault(digest, (part, sample))
            if first_part != part and first.id != sample.id:
                what = f"it is in {part}, and the same picture is in {first_part} as image {first.id}"
                report(Problem(sample.path, f"image {sample.id}", what, _ONE_PART))
