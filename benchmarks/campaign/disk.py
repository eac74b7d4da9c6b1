"""Commands on a disk that fills up in every phase of their work."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from campaign.places import COMMIT, LOCK, LOG, PLACES, Event, Place
from campaign.project import Project
from campaign.record import Record, drawn, over

PART = "disk"
_MARGIN = 96 * 2**20  # bytes of the small disk beyond what lies there
_LEAST, _MOST = 9, 17  # powers of two of the room (bytes) that is left
_MOST_IN_A_ROW = 3
_BEGIN = Place("begin", "headimpact.lifecycle.graph:opened")
# Of every command, where its disk fills up.
_PLACES: dict[str, tuple[Place, ...]] = {
    "score": (*PLACES["score"][1:3], LOG),
    "finetune": (*PLACES["finetune"][1:4], PLACES["finetune"][6]),
    "data": (PLACES["data"][0], LOG),
    "evaluate": (_BEGIN, *PLACES["evaluate"][1:4], COMMIT),
    "register": PLACES["register"][:1],
    "soften": PLACES["soften"][1:2],
    "export": PLACES["export"],
    "score again": (COMMIT, LOCK),
}
TOLD = "the command says in a sentence what failed, without a stack trace, or needs no more room than there is"
OLD = "results from before are as they were; none stands there in part"
AGAIN = "with room, the same command ends well, with the same bytes"
WHOLE = "with room, what is registered is whole, and registered once"
LOCKED = "dvc.lock is whole and has every record"
RUNNING = "with room, no run is left RUNNING after the next command"


def disk(project: Project, record: Record, until: float) -> None:
    """Fill the disk under commands until a moment (``time.monotonic``): a tmpfs, or, where none can be mounted, a limit
    on the size of files."""
    draw = drawn(record.seed, PART)
    with _small_disk(project, record) as (small, filler):
        while not over(until):
            for name, places in draw.sample(sorted(_PLACES.items()), len(_PLACES)):
                rest = draw.sample(places, len(places))
                while rest:
                    if over(until):
                        return
                    count = draw.randint(1, _MOST_IN_A_ROW)
                    rooms = {place: int(2 ** draw.uniform(_LEAST, _MOST)) for place in rest[:count]}
                    _turn(small, filler, record, name.partition(" ")[0], rooms)
                    rest = rest[count:]


def _turn(small: Project, filler: Path | None, record: Record, name: str, rooms: dict[Place, int]) -> None:
    """Run a command on a disk that fills up, at one place after the other, and then with room."""
    if name in ("register", "finetune"):
        small.unregister()
    if LOCK in rooms:
        small.forget(name)
    for place, room in rooms.items():
        _fill_up(small, filler, record, name, place, room)
    ended = small.command(name).end()
    print(f"{name}: {ended.code} after {ended.seconds:.0f} s", flush=True)
    failed = f"exit status {ended.code}: {ended.last}" if ended.code else ""
    for promise, failure in (
        (AGAIN, failed or small.differing()),
        (WHOLE, small.registry()),
        (LOCKED, small.lock()),
        (RUNNING, small.running()),
    ):
        record.held(PART, promise, f"{name}: {failure}" if failure else "")


def _fill_up(small: Project, filler: Path | None, record: Record, name: str, place: Place, room: int) -> None:
    """Run a command that has so much room (bytes) from a place on."""
    ended = small.command(name, Event(place, partial(_fill, filler, room))).end()
    if filler:
        filler.unlink(missing_ok=True)
    at = f"{name}, {place.phase} ({place.function.partition(':')[2]}, {room} bytes): "
    record.tried["full disks"] += 1
    record.tried["full disks that stopped the command"] += ended.code != 0
    record.tried[f"full disks: {place.phase}"] += 1
    print(f"{at}exit status {ended.code} after {ended.seconds:.0f} s: {ended.said[-250:]}", flush=True)
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
        small = project.copied(place / "project")
        small.log = project.log  # what is said has room
        yield small, place / "filler"
    finally:
        # Lazily: MLflow keeps connections to the database there, in this process, too.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _fill(filler: Path | None, room: int) -> None:
    """Leave ``room`` bytes of a disk; without a file to fill it, let no file grow beyond that."""
    if filler is None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        return
    with filler.open("wb") as stream:
        free = os.statvfs(filler.parent)
        os.posix_fallocate(stream.fileno(), 0, max(free.f_bavail * free.f_frsize - room, 1))
