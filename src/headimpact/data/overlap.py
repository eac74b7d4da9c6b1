"""No image in two parts, by its id or by its pixels: a model must not be tested on what it was trained on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from headimpact.data.images import digest_pixels
from headimpact.data.problems import DataError, Problem, Reporter, refuse
from headimpact.data.samples import Sample

_KEPT = 16  # bytes of a digest: no two pictures share them by chance
_ONE_PART = "Keep it in one part: a model must not be tested on what it was trained on."


def check_ids(folder: Path, parts: Mapping[str, Int[np.ndarray, " ..."]], report: Reporter = refuse) -> None:
    """Report every image whose id is in two parts."""
    before: list[str] = []
    for part, ids in parts.items():
        everywhere = np.concatenate([np.zeros(0, np.int64), *(parts[other] for other in before)])
        for image_id in ids[np.isin(ids, everywhere)].tolist():
            first = next(other for other in before if image_id in parts[other])
            report(Problem(folder, f"image {image_id}", f"it is in {first} and in {part}", _ONE_PART))
        before.append(part)


def check_pictures(
    parts: Mapping[str, Sequence[Sample]],
    report: Reporter = refuse,
    progress: Callable[[Sequence[Sample], str], Iterable[Sample]] = lambda samples, _: samples,
) -> None:
    """Report every image that cannot be read, and then every picture that is in two parts, whatever its ids.

    Args:
        parts: the samples of each part.
        report: is given every problem.
        progress: wraps the samples of a part, given its name, while their images are read.
    """
    pictures = Pictures()
    for part, samples in parts.items():
        for sample in progress(samples, part):
            try:
                pictures.add(digest_pixels(sample.image()))
            except DataError as error:
                report(replace(error.problem, record=f"image {sample.id}"))
                pictures.add(None)
    starts = np.cumsum([0, *map(len, parts.values())])
    firsts = pictures.firsts()

    def find(place: int) -> tuple[str, Sample]:
        index = int(np.searchsorted(starts, place, side="right")) - 1
        part = list(parts)[index]
        return part, parts[part][place - int(starts[index])]

    for place in np.flatnonzero(firsts != np.arange(len(firsts))).tolist():
        (part, sample), (first_part, first) = find(place), find(int(firsts[place]))
        if first_part != part:
            what = f"it is in {part}, and the same picture is in {first_part} as image {first.id}"
            report(Problem(sample.path, f"image {sample.id}", what, _ONE_PART))


class Pictures:
    """Digests of pictures, or of anything else that is the same where its digest is: 16 bytes each."""

    def __init__(self) -> None:
        self._digests = bytearray()

    def add(self, digest: str | None) -> None:
        """Add a SHA-256; None: of a picture that is like no other."""
        own = len(self._digests).to_bytes(_KEPT, "little")
        self._digests += bytes.fromhex(digest)[:_KEPT] if digest else own

    def firsts(self) -> Int[np.ndarray, " pictures"]:
        """For each, the place of the first that is the same."""
        high, low = np.frombuffer(bytes(self._digests), np.uint64).reshape(-1, 2).T
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        firsts = np.empty_like(order)
        firsts[order] = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        return firsts
