"""The journal of long work: written down image by image, a line each, so that a killed build goes on where it was.

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
from pathlib import Path
from typing import Any, BinaryIO, Generic

from headimpact.data.lines import Kind, Line, from_json, to_json
from headimpact.errors import InputError
from headimpact.files import write_json
from headimpact.processes import Processes


@dataclass(frozen=True)
class Work(Generic[Kind]):
    """What is to be done with every image.

    Attributes:
        images: the lines of the images, by ascending id; asked for anew whenever they are needed.
        settings: everything that the results follow from, as JSON values.
        group_images: images that are worked on together.
        make: the lines that come of a group, of every image one.
    """

    images: Callable[[], Iterable[Line]]
    settings: Mapping[str, Any]
    group_images: int
    make: Callable[[Sequence[Any]], Sequence[Kind]]


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
        if number % processes.count == processes.rank and any(image.image_id not in done for image in group)
    ]
    with _open_shard(folder, processes) as shard:
        for group in progress(_only(_groups(work), left), len(left)):
            for line in work.make(group):
                if line.image_id not in done:
                    shard.write(to_json(line))
                    shard.flush()
    processes.wait()
    if processes.rank:
        return False
    _merge(output, folder, work.images())
    shutil.rmtree(folder.parent)
    return True


def _folder(output: Path, settings: Mapping[str, Any]) -> Path:
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return output.with_name(f"{output.name}.shards") / fingerprint[:16]


def _groups(work: Work) -> Iterator[list[Any]]:
    images = iter(work.images())
    while group := list(islice(images, work.group_images)):
        yield group


def _only(groups: Iterable[list[Any]], numbers: Sequence[int]) -> Iterator[list[Any]]:
    wanted = set(numbers)
    return (group for number, group in enumerate(groups) if number in wanted)


@contextmanager
def _open_shard(folder: Path, processes: Processes) -> Iterator[BinaryIO]:
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
    places: dict[int, tuple[Path, int]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        offset = 0
        with path.open("rb") as shard:
            for text in shard:
                if text.endswith(b"\n"):
                    line = from_json(f"{path}: byte {offset}", text, Line, f"Delete {folder} to start over.")
                    places.setdefault(line.image_id, (path, offset))
                offset += len(text)
    return places


def _merge(output: Path, folder: Path, images: Iterable[Line]) -> None:
    """Make the output of the shards: the line of every image, in the order of the images."""
    places = _index(folder)
    # Not beside the output: what a killed build leaves goes with the shards.
    merged = folder / "merged"
    with ExitStack() as stack, merged.open("wb") as stream:
        shards = {path: stack.enter_context(path.open("rb")) for path in sorted(folder.glob("*.jsonl"))}
        for image in images:
            if image.image_id not in places:
                raise InputError(
                    f"{output}: image {image.image_id} was not worked on: another process ended too early. "
                    f"Run the step again; it goes on where it was."
                )
            path, offset = places[image.image_id]
            shards[path].seek(offset)
            stream.write(shards[path].readline())
    merged.replace(output)
