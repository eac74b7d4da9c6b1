"""Long work written down image by image: one JSON line each, so that a killed build goes on where it was.

The lines are written beside the output, in ``<output>.shards/<fingerprint>/<rank>-of-<count>.jsonl``, each flushed
as it is made; when every image has its line, they become the output, by ascending image id, and the shards go.

What is guaranteed. Images are worked on in groups of ``group_images`` that follow from the input alone, and a group
that was cut short is worked on again as a whole: of equal work on equal hardware and software the output is the same
to the byte, whatever the number of processes and however often they were killed. Another group size, device or version
of a library may change the last bits of what a model computes. Numbers are written rounded, which nearly always hides
that, but a number on the edge between two roundings, a pixel on the edge of its mask or two answers that are equally
likely can come out otherwise, most of all in bfloat16.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, BinaryIO, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError

from headimpact.errors import InputError
from headimpact.files import write_json


def _inside(name: str) -> str:
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.anchor or ".." in windows.parts:
        raise ValueError(f"{name!r} leaves the folder of images")
    return name


FileName = Annotated[str, Field(min_length=1), AfterValidator(_inside)]


class Record(BaseModel, frozen=True):
    """An image of the pipeline. Its lines are sorted by ``image_id``.

    Attributes:
        file_name: relative to the folder of images, which it does not leave.
    """

    image_id: NonNegativeInt
    file_name: FileName
    width: PositiveInt
    height: PositiveInt


R = TypeVar("R", bound=Record)


def line(record: Record) -> bytes:
    """A record as a line of JSON; what is None is left out.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(record.model_dump(exclude_none=True), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def read(path: Path, kind: type[R]) -> Iterator[R]:
    """The records of a file, one at a time.

    Raises:
        InputError: the file is missing, a line is not such a record, or the ids do not ascend.
    """
    last = -1
    try:
        with path.open("rb") as stream:
            for number, text in enumerate(stream, 1):
                record = _parse(f"{path}: line {number}", text, kind, "Make the file anew.")
                if record.image_id <= last:
                    raise InputError(
                        f"{path}: line {number}: image {record.image_id} comes after image {last}. "
                        f"Every image must be there once, by ascending id; make the file anew."
                    )
                last = record.image_id
                yield record
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run the step before this one.") from None


def _parse(where: str, text: bytes, kind: type[R], remedy: str) -> R:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the line"
        raise InputError(f"{where}: {place}: {first['msg']}. {remedy}") from None


@dataclass(frozen=True)
class Processes:
    """The processes that share the work, seen from one of them.

    Attributes:
        wait: returns when every process has called it.
    """

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Work(Generic[R]):
    """What is to be done with every image.

    Attributes:
        entries: the images, by ascending id; asked for anew whenever they are needed.
        settings: everything that the results follow from, as JSON values.
        group_images: images that are worked on together.
        make: the records of a group, of every image one.
    """

    entries: Callable[[], Iterable[Record]]
    settings: Mapping[str, Any]
    group_images: int
    make: Callable[[Sequence[Any]], Sequence[R]]


def complete(
    output: Path,
    work: Work,
    processes: Processes,
    progress: Callable[[Iterable[list[Any]], int], Iterable[list[Any]]] = lambda groups, total: groups,
) -> bool:
    """Do what is left of the work. True in the process that wrote the output: the first, after all have finished.

    Lines of other settings are not continued: they lie in a folder of their own until the output is written.

    Args:
        output: the JSON lines, replaced if it exists.
        work: what is to be done.
        processes: who shares it.
        progress: wraps the groups of this process, given their number.

    Raises:
        InputError: an image has no line when all have finished.
    """
    folder = _folder(output, work.settings)
    write_json(folder / "settings.json", dict(work.settings))
    done = _index(folder).keys()
    left = [
        number
        for number, group in enumerate(_groups(work))
        if number % processes.count == processes.rank and any(entry.image_id not in done for entry in group)
    ]
    with _own_shard(folder, processes) as shard:
        for group in progress(_only(_groups(work), left), len(left)):
            for record in work.make(group):
                if record.image_id not in done:
                    shard.write(line(record))
                    shard.flush()
    processes.wait()
    if processes.rank:
        return False
    _merge(output, folder, work.entries())
    shutil.rmtree(folder.parent)
    return True


def _folder(output: Path, settings: Mapping[str, Any]) -> Path:
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return output.with_name(f"{output.name}.shards") / fingerprint[:16]


def _groups(work: Work) -> Iterator[list[Any]]:
    entries = iter(work.entries())
    while group := list(islice(entries, work.group_images)):
        yield group


def _only(groups: Iterable[list[Any]], numbers: Sequence[int]) -> Iterator[list[Any]]:
    wanted = set(numbers)
    return (group for number, group in enumerate(groups) if number in wanted)


@contextmanager
def _own_shard(folder: Path, processes: Processes) -> Iterator[BinaryIO]:
    """The shard of this process, to append to: no other process writes there."""
    path = folder / f"{processes.rank}-of-{processes.count}.jsonl"
    with path.open("ab") as shard:
        shard.truncate(_whole_lines(path))
        yield shard


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last line that was written in full."""
    with path.open("rb") as stream:
        return sum(len(text) for text in stream if text.endswith(b"\n"))


def _index(folder: Path) -> dict[int, tuple[Path, int]]:
    """Where the line of each image begins. A last line that was not written in full is passed over."""
    found: dict[int, tuple[Path, int]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        offset = 0
        with path.open("rb") as shard:
            for text in shard:
                if text.endswith(b"\n"):
                    record = _parse(f"{path}: byte {offset}", text, Record, f"Delete {folder} to start over.")
                    found.setdefault(record.image_id, (path, offset))
                offset += len(text)
    return found


def _merge(output: Path, folder: Path, entries: Iterable[Record]) -> None:
    index = _index(folder)
    # Not beside the output: what a killed build leaves goes with the shards.
    merged = folder / "merged"
    with ExitStack() as stack, merged.open("wb") as stream:
        shards = {path: stack.enter_context(path.open("rb")) for path in sorted(folder.glob("*.jsonl"))}
        for entry in entries:
            if entry.image_id not in index:
                raise InputError(
                    f"{output}: image {entry.image_id} was not worked on: another process ended too early. "
                    f"Run the step again; it goes on where it was."
                )
            path, offset = index[entry.image_id]
            shards[path].seek(offset)
            stream.write(shards[path].readline())
    merged.replace(output)
