"""What was computed and is not recorded yet, by MLflow and by DVC: it is kept until it is, so that a command that
failed on the way, or was killed, goes on from there."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headimpact.errors import InputError
from headimpact.files import as_json, atomic_folder, read_json, write_json

_FACTS = "facts.json"
_FILES = "files"
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


def keep(output: Path, place: Path, facts: Any) -> None:
    """Keep a copy of a folder that a step has written: DVC removes the folder before the step is run again.

    Args:
        output: the folder.
        place: where the copy goes.
        facts: all that the output follows from, as JSON values.
    """
    with atomic_folder(place) as aside:
        shutil.copytree(output, aside / _FILES)
        write_json(aside / _FACTS, facts)
    _remove_when_recorded(place)


def restore(output: Path, place: Path, facts: Any) -> bool:
    """Put back what was kept of the same facts; False where there is none."""
    try:
        if read_json(place / _FACTS) != json.loads(as_json(facts)):
            return False
    except InputError:  # not there, or not whole
        return False
    with atomic_folder(output) as aside:
        shutil.copytree(place / _FILES, aside, dirs_exist_ok=True)
    _remove_when_recorded(place)
    return True


def _remove_when_recorded(place: Path) -> None:
    when_recorded(lambda: shutil.rmtree(place, ignore_errors=True))
