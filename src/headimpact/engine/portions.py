"""Images in portions, which several processes share and of which a killed command keeps what is done.

What comes of a portion depends on its own images alone: no forward has images of two. So the results are the same bytes
whoever computed which portion, and whenever.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from headimpact.data.samples import Sample
from headimpact.engine.forward import WINDOW, Engine, Loaded, Prepare
from headimpact.engine.watch import Watch, unwatched
from headimpact.files import atomic_file
from headimpact.processes import Processes

T = TypeVar("T")
R = TypeVar("R")

Arrays = dict[str, np.ndarray]
"""What comes of a portion, by name; along their first axis are its images or objects."""


@dataclass(frozen=True)
class Kept:
    """Results of portions in a folder, a file each, so that killed work goes on where it was; a file is whole or not
    there.

    Attributes:
        folder: of the work; results of other facts lie beside in folders of their own, and are not believed.
        facts: all that the results follow from, as JSON values.
    """

    folder: Path
    facts: Mapping[str, Any]

    def numbers(self) -> list[int]:
        """The portions that are done."""
        return sorted(int(path.stem) for path in self._own.glob("*.npz") if _is_whole(path))

    def get(self, number: int) -> Arrays:
        """What came of a portion."""
        with np.load(self._path(number), allow_pickle=False) as arrays:
            return dict(arrays)

    def put(self, number: int, arrays: Arrays) -> None:
        """Keep what came of a portion."""
        with atomic_file(self._path(number)) as aside, aside.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)

    def remove(self) -> None:
        """The work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _own(self) -> Path:
        return self.folder / hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]

    def _path(self, number: int) -> Path:
        return self._own / f"{number:06}.npz"


def _is_whole(path: Path) -> bool:
    """Renamed once it was written; what a machine had not yet put on its disk when it lost power is found here."""
    try:
        with zipfile.ZipFile(path) as content:
            return content.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def go_over(
    engine: Engine,
    samples: Sequence[Sample],
    prepare: Prepare[T],
    compute: Callable[[Iterator[Loaded[T]]], R],
    watch: Watch = unwatched,
    what: str = "",
    kept: Kept | None = None,
    keep: bool = False,
) -> Iterator[R]:
    """What comes of some images, portion by portion in their order, in every process; each computes its share.

    Args:
        engine: the base; its ``processes`` share the work.
        samples: the images.
        prepare: says what there is to say about one.
        compute: what comes of the prepared images of a portion, of which there may be none; ``Arrays`` where they are
            ``kept``.
        watch: shows the images of the first process.
        what: what is done, for ``watch``.
        kept: where results are kept until the command is done; what is there is not computed again.
        keep: as for ``Engine.load``.

    Raises:
        InputError: an image cannot be read, or as ``prepare`` and ``compute``.
    """
    portions = [samples[start : start + WINDOW] for start in range(0, len(samples), WINDOW)]

    def of(numbers: Sequence[int]) -> Iterator[R]:
        # One stream for all of them: images of the next portion are prepared while one goes through the decoder.
        own = [sample for number in numbers for sample in portions[number]]
        shown = watch if engine.processes.is_first else unwatched
        loaded = engine.processes.heed(engine.load(own, prepare, keep))
        images = _Stream(iter(shown(loaded, len(own), what)))
        for number in numbers:
            of_portion = images.up_to({sample.id for sample in portions[number]})
            yield compute(of_portion)
            for _ in of_portion:
                pass

    def tell(done: Sequence[int]) -> None:
        if done and engine.processes.is_first:
            images = sum(len(portions[number]) for number in done)
            engine.tell(f"Going on where it was: {images} of {len(samples)} images are done.")

    return spread(engine.processes, len(portions), of, kept, tell)


class _Stream:
    """Prepared images, of which some were left out, cut into portions."""

    def __init__(self, images: Iterator[Loaded[Any]]) -> None:
        self._images = images
        self._next: Loaded[Any] | None = None

    def up_to(self, ids: set[int]) -> Iterator[Loaded[Any]]:
        """The next images, as long as they are among these."""
        while True:
            image = self._next or next(self._images, None)
            if image is None:
                return
            if image.prepared.sample.id not in ids:
                self._next = image
                return
            self._next = None
            yield image


def spread(
    processes: Processes,
    count: int,
    compute: Callable[[Sequence[int]], Iterator[R]],
    kept: Kept | None = None,
    tell: Callable[[Sequence[int]], None] = lambda done: None,
) -> Iterator[R]:
    """What comes of pieces of work, in their order, in every process; each computes its share.

    Args:
        processes: who shares it.
        count: how many pieces there are.
        compute: what comes of those of some numbers, in turn.
        kept: as for :func:`go_over`; the processes need not see each other's folders.
        tell: is told the pieces that were done before.
    """
    done = [set(numbers) for numbers in processes.gather(kept.numbers() if kept else [])]
    owners = [[rank for rank, numbers in enumerate(done) if number in numbers] for number in range(count)]
    tell([number for number in range(count) if owners[number]])
    missing = [number for number in range(count) if not owners[number]]
    for place, number in enumerate(missing):
        owners[number] = [place % processes.count]
    mine = [number for number in missing if owners[number] == [processes.rank]]
    held: dict[int, R] = {}
    for number, result in zip(mine, compute(mine), strict=True):
        if kept is None:
            held[number] = result
        else:
            kept.put(number, result)  # type: ignore[arg-type]
    for number in range(count):
        owner = owners[number][number % len(owners[number])]
        result: Any = None
        if owner == processes.rank:
            result = kept.get(number) if kept is not None else held.pop(number)
        yield processes.give(result, owner)


def join(portions: Iterator[Arrays]) -> Arrays:
    """The arrays of several portions together; empty where there is none."""
    parts: dict[str, list[np.ndarray]] = {}
    for portion in portions:
        for name, values in portion.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(parts.pop(name)) for name in list(parts)}
