"""Commands on a disk that fills up at drawn points."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from campaign.project import Command, Project
from campaign.record import Record, drawn

PART = "disk"
_TURNS = ("finetune", "evaluate", "score", "register")
_MARGIN = 96 * 2**20  # bytes of the small disk beyond what lies there
_MOST = 23  # the power of two of the largest room that is left
_LEAST = 9
_MOST_IN_A_ROW = 3
TOLD = "the command says in a sentence what failed, without a stack trace, or needs no more room than there is"
OLD = "results from before are as they were; none stands there in part"
AGAIN = "with room, the same command ends well, with the same bytes"
RUNNING = "with room, no run is left RUNNING after the next command"


def disk(project: Project, record: Record, until: float) -> None:
    """Fill the disk under commands until a moment (``time.monotonic``): a tmpfs, or, where none can be mounted, a limit
    on the size of files."""
    draw, turn = drawn(record.seed, PART), 0
    with _small_disk(project, record) as (small, filler):
        while time.monotonic() < until:
            name = _TURNS[turn % len(_TURNS)]
            turn += 1
            if name == "register":
                small.unregister()
            for _ in range(draw.randint(1, _MOST_IN_A_ROW)):
                _fill_up(small, filler, record, name, int(2 ** draw.uniform(_LEAST, _MOST)))
            ended = Command(small, name).end()
            failure = f"exit status {ended.code}: {ended.last}" if ended.code else small.differing()
            record.held(PART, AGAIN, f"{name}: {failure}" if failure else "")
            running = small.running()
            record.held(PART, RUNNING, f"{name}: {running}" if running else "")


def _fill_up(small: Project, filler: Path | None, record: Record, name: str, room: int) -> None:
    """Run a command with so much room (bytes)."""
    if filler:
        _fill(filler, room)
        ended = Command(small, name).end()
        filler.unlink()
    else:
        ended = Command(small, name, file_bytes=room).end()
    at = f"{name} with room for {room} bytes: "
    record.tried["full disks"] += 1
    record.tried["full disks that stopped the command"] += ended.code != 0
    print(f"{at}exit status {ended.code}: {ended.last[:150]}", flush=True)
    for promise, failure in ((TOLD, ended.untold()), (OLD, small.damaged(name))):
        record.held(PART, promise, at + failure if failure else "")


@contextmanager
def _small_disk(project: Project, record: Record) -> Iterator[tuple[Project, Path | None]]:
    """The project on a disk of its own, with the file that fills it; or as it is."""
    place = project.folder.parent / "disk"
    place.mkdir()
    size = _MARGIN + int(subprocess.run(["du", "-sb", project.folder], capture_output=True).stdout.split()[0]) * 2
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        record.facts["full disk"] = "a limit on the size of every file (RLIMIT_FSIZE)"
        yield project, None
        return
    record.facts["full disk"] = "a tmpfs without room"
    try:
        subprocess.run(["cp", "-a", str(project.folder), str(place / "project")], check=True)
        small = Project(place / "project", project.log)
        small.reference = project.reference
        yield small, place / "filler"
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _fill(filler: Path, room: int) -> None:
    """Leave ``room`` bytes of a disk."""
    with filler.open("wb") as stream:
        free = os.statvfs(filler.parent)
        os.posix_fallocate(stream.fileno(), 0, max(free.f_bavail * free.f_frsize - room, 1))
