"""Samples of which names, phrases and masks are on disk: in memory, an image takes about 60 bytes.

A :class:`Packer` takes images and objects as they come and writes them to a temporary file, which no other process
sees and which is gone with the last :class:`PackedSamples` that reads it. It is no copy of an annotation file to be
kept up to date: what it holds was checked when it was read, and stays as it was if the annotation file changes.
"""

import marshal
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, SupportsIndex, overload

import numpy as np
from jaxtyping import Int

from headimpact.data.samples import KeyObject, Sample, of_size
from headimpact.errors import InputError

_LENGTH = 4  # bytes before a record that say how long it is
_FIRST_READ = 1 << 10  # bytes: most records are shorter


class _Records:
    """Values in a temporary file, each known by its place. Forked processes read the same file."""

    def __init__(self) -> None:
        try:
            self._file = tempfile.TemporaryFile(prefix="headimpact-", buffering=1 << 16)  # noqa: SIM115
        except OSError as error:
            raise _no_room(error) from None
        weakref.finalize(self, _close, self._file)
        self._end = 0

    def append(self, value: tuple[Any, ...]) -> int:
        """Write a value; its place."""
        record = marshal.dumps(value)
        place = self._end
        try:
            self._file.write(len(record).to_bytes(_LENGTH, "little") + record)
        except OSError as error:
            raise _no_room(error) from None
        self._end += _LENGTH + len(record)
        return place

    def flush(self) -> None:
        """Make all that was written readable."""
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from None

    def read(self, place: int) -> tuple[Any, ...]:
        """The value at a place."""
        # Of the file's descriptor and not of the file, whose position processes and threads share.
        start = os.pread(self._file.fileno(), _FIRST_READ, place)
        length, record = int.from_bytes(start[:_LENGTH], "little"), start[_LENGTH:]
        if len(record) < length:
            record += os.pread(self._file.fileno(), length - len(record), place + len(start))
        return marshal.loads(record)


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # what could not be written is not missed any more
        file.close()


def _no_room(error: OSError) -> InputError:
    return InputError(
        f"{tempfile.gettempdir()}: cannot keep a dataset's masks there while it is in use ({error.strerror}). Make "
        "room for as much as its annotation files take, or name another folder in the environment variable TMPDIR."
    )


def as_numbers(values: array) -> Int[np.ndarray, " values"]:
    """An array of Python as one of numpy, in the same memory: it cannot grow as long as that is there."""
    # Python's q is numpy's long long, which is no int64 by its name.
    return np.asarray(values).view(f"i{values.itemsize}")


class Packer:
    """Takes images, and the objects of each, in any order.

    Attributes:
        ids: of the images, by their row: their place in the order in which they were added.
    """

    def __init__(self) -> None:
        self.ids = array("q")
        self._object_ids = array("q")
        self._sizes = (array("i"), array("i"))
        self._places = array("q")
        self._object_rows = array("i")
        self._object_places = array("q")
        self._records = _Records()

    def add_image(self, image_id: int, path: str, width: int, height: int) -> int:
        """Add an image without objects; its row. The path may be relative to the root of :meth:`pack`."""
        self.ids.append(image_id)
        for sizes, size in zip(self._sizes, (width, height), strict=True):
            sizes.append(size)
        self._places.append(self._records.append((path,)))
        return len(self.ids) - 1

    def path(self, row: int) -> str:
        """The path of an image as it was given."""
        self._records.flush()
        return self._records.read(self._places[row])[0]

    def size(self, row: int) -> tuple[int, int]:
        """Width and height of an image."""
        return self._sizes[0][row], self._sizes[1][row]

    def add_object(self, row: int, obj: KeyObject) -> int:
        """Add an object of an image; its number."""
        self._object_places.append(self._records.append((obj.id, obj.phrase, *obj.size, obj.counts, obj.score)))
        self._object_rows.append(row)
        self._object_ids.append(obj.id)
        return len(self._object_ids) - 1

    def add(self, sample: Sample) -> None:
        """Add an image with its objects."""
        row = self.add_image(sample.id, str(sample.path), sample.width, sample.height)
        for obj in sample.objects:
            self.add_object(row, obj)

    def pack(
        self, root: Path = Path(), rows: Sequence[int] | None = None, objects: Sequence[int] | None = None
    ) -> "PackedSamples":
        """The samples by ascending id; objects by ascending id.

        Args:
            root: what paths are relative to.
            rows: the images to keep; None: all.
            objects: the numbers of the objects to keep; None: all.
        """
        self._records.flush()
        ids, object_rows, object_ids = map(as_numbers, (self.ids, self._object_rows, self._object_ids))
        kept = np.arange(len(ids), dtype=np.int32) if rows is None else np.array(rows, np.int32)
        numbers = np.arange(len(object_ids), dtype=np.int32) if objects is None else np.array(objects, np.int32)
        numbers = numbers[np.lexsort((object_ids[numbers], object_rows[numbers]))]
        table = _Table(
            self._records,
            root,
            ids.copy(),
            (as_numbers(self._sizes[0]).copy(), as_numbers(self._sizes[1]).copy()),
            as_numbers(self._places).copy(),
            np.searchsorted(object_rows[numbers], np.arange(len(ids) + 1)).astype(np.int32),
            as_numbers(self._object_places)[numbers],
        )
        return PackedSamples(table, kept[np.argsort(ids[kept], kind="stable")])


@dataclass(frozen=True)
class _Table:
    """Where each row's image is, and its objects: those at ``objects[starts[row]:starts[row + 1]]``."""

    records: _Records
    root: Path
    ids: Int[np.ndarray, " images"]
    sizes: tuple[Int[np.ndarray, " images"], Int[np.ndarray, " images"]]
    places: Int[np.ndarray, " images"]
    starts: Int[np.ndarray, " images+1"]
    objects: Int[np.ndarray, " objects"]


class _Objects(Sequence[KeyObject]):
    """The objects of an image, read whenever they are asked for."""

    __slots__ = ("_places", "_records")

    def __init__(self, records: _Records, places: Int[np.ndarray, " objects"]) -> None:
        self._records = records
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: SupportsIndex) -> KeyObject: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[KeyObject, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> KeyObject | tuple[KeyObject, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        number, phrase, height, width, counts, score = self._records.read(int(self._places[index]))
        return KeyObject(number, phrase, of_size(height, width), counts, score)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (list(self),)  # a process that was not forked cannot read the file


class PackedSamples(Sequence[Sample]):
    """Samples of a :class:`Packer`; each is made when it is asked for."""

    def __init__(self, table: _Table, rows: Int[np.ndarray, " samples"]) -> None:
        self._table = table
        self._rows = rows

    def __len__(self) -> int:
        """How many there are."""
        return len(self._rows)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedSamples": ...

    def __getitem__(self, index: SupportsIndex | slice) -> "Sample | PackedSamples":
        """The sample at a place, or those of a slice."""
        if isinstance(index, slice):
            return PackedSamples(self._table, self._rows[index])
        table, row = self._table, self._rows[index]
        (path,) = table.records.read(int(table.places[row]))
        objects = _Objects(table.records, table.objects[table.starts[row] : table.starts[row + 1]])
        width, height = (int(sizes[row]) for sizes in table.sizes)
        return Sample(int(table.ids[row]), table.root / path, width, height, objects)

    def __iter__(self) -> Iterator[Sample]:
        """One after the other."""
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether they are the same samples in the same order."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType] # as of a list

    def __repr__(self) -> str:
        """In short."""
        return f"<{len(self)} samples>"

    def __reduce__(self) -> tuple[Any, ...]:
        """As a list: a process that was not forked cannot read the file."""
        return list, (list(self),)

    def below(self, root: Path) -> "PackedSamples":
        """The same, with their paths relative to another root."""
        return PackedSamples(replace(self._table, root=root), self._rows)

    @property
    def names(self) -> Iterator[str]:
        """The paths of the images, relative to the root."""
        return (self._table.records.read(int(place))[0] for place in self._table.places[self._rows])

    @property
    def ids(self) -> Int[np.ndarray, " samples"]:
        """Of the images."""
        return self._table.ids[self._rows]

    @property
    def object_counts(self) -> Int[np.ndarray, " samples"]:
        """How many objects each image has."""
        return self._table.starts[self._rows + 1] - self._table.starts[self._rows]

    def choose(self, indices: Sequence[int] | Int[np.ndarray, " chosen"]) -> "PackedSamples":
        """The samples at some indices, in their order."""
        return PackedSamples(self._table, self._rows[np.asarray(indices, dtype=np.int64)])


def packed(samples: Iterable[Sample]) -> PackedSamples:
    """Samples of any kind, packed."""
    packer = Packer()
    for sample in samples:
        packer.add(sample)
    return packer.pack()
