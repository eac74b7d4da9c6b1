"""What was computed and is not recorded yet, by MLflow and by DVC: it is kept until it is, so that a command that
failed on the way, or was killed, goes on from there."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headimpact.errors import InputError
from headimpact.files import as_json, atomic_folder, read_json, write_json

TAKEN = "everything: it was made before, and is recorded now"
"""What a summary says of an output that was not made again."""
_FACTS = "facts.json"
_FILES = "files"
_GIVEN = "given.json"
_waiting: list[list[Callable[[], None]]] = []


@contextmanager
def until_recorded() -> Iterator[None]:
    """Steps run in the block, and are recorded when it ends well: what :func:`when_recorded` was given is done then. It
    is not done where the block fails."""
    _waiting.append([])
    try:
        yield
    except BaseException:
        _waiting.pop()
        raise
    for remove in _waiting.pop():
        remove()


def when_recorded(remove: Callable[[], None]) -> None:
    """Remove what long work goes on from, but not before the work is recorded; at once where nothing records it."""
    if _waiting:
        _waiting[-1].append(remove)
    else:
        remove()


def once(output: Path, place: Path, facts: Any, make: Callable[[], Any]) -> tuple[Any, bool]:
    """What a function gives that writes a folder, and whether it was not called: an earlier command has called it, and
    could not record that.

    Args:
        output: the folder.
        place: where a copy of it is kept meanwhile.
        facts: all that the output follows from, as JSON values.
        make: writes it; gives JSON values.
    """
    before = read_json(place / _GIVEN) if (place / _GIVEN).is_file() else None
    if restore(output, place, facts):
        return before, True
    given = json.loads(as_json(make()))
    keep(output, place, facts, given)
    return given, False


def keep(output: Path, place: Path, facts: Any, given: Any = None) -> None:
    """Keep a copy of a folder that a step has written: DVC removes the folder before the step is run again.

    Args:
        output: the folder.
        place: where the copy goes; on the same disk it takes no room.
        facts: all that the output follows from, as JSON values.
        given: kept beside it, as JSON values.
    """
    with atomic_folder(place) as aside:
        shutil.copytree(output, aside / _FILES, copy_function=_link)
        write_json(aside / _FACTS, facts)
        write_json(aside / _GIVEN, given)
    _remove_when_recorded(place)


def restore(output: Path, place: Path, facts: Any) -> bool:
    """Put back what was kept of the same facts; False where there is none."""
    try:
        if read_json(place / _FACTS) != json.loads(as_json(facts)):
            return False
    except InputError:  # not there, or not whole
        return False
    with atomic_folder(output) as aside:
        shutil.copytree(place / _FILES, aside, dirs_exist_ok=True, copy_function=_link)
    _remove_when_recorded(place)
    return True


def _remove_when_recorded(place: Path) -> None:
    when_recorded(lambda: shutil.rmtree(place, ignore_errors=True))


def _link(source: str, copy: str) -> None:
    """A file by a second name, or a copy: files are replaced here, and never written into."""
    try:
        os.link(source, copy)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, copy)
