"""Commands that are killed in every phase of their work, once or several times, and then run to their end."""

import random
import time
from collections.abc import Iterator

from campaign.commands import Ended
from campaign.places import LOCK, PLACES, Event, Place, end_itself
from campaign.project import STAGE, Project
from campaign.record import Record, drawn, over

PART = "kills"
_REGISTERS = ("finetune", "evaluate", "register")
_MOST = 3  # kills of one command before it may end
_LONGEST_DELAY = 0.5  # s between a place and the kill
_STAGE_STARTS = 120.0  # s
BYTES = "the same command again ends well, with the same bytes"
OTHERS = "no result that is not being made is changed or lost, and none stands there in part"
WHOLE = "what is registered is whole, and registered once"
RECORDS = "dvc.lock is whole and has every record"
LEFT = "no process is left"
RUNNING = "no run is left RUNNING after the next command"
TRACES = "no stack trace"


def kills(project: Project, record: Record, until: float) -> None:
    """Kill commands at every place of ``PLACES``, and then anew, until a moment (``time.monotonic``).

    Args:
        project: finished, and finished again afterwards.
        record: of what held.
        until: when no other command is begun.
    """
    draw = drawn(record.seed, PART)
    while not over(until):
        for name, places in _turns(draw):
            if over(until):
                return
            _turn(project, record, draw, name, places)


def _turns(draw: random.Random) -> Iterator[tuple[str, list[Place]]]:
    """Every place once, in an order that is drawn: a command, and where it is killed one time after the other."""
    turns: list[tuple[str, list[Place]]] = [(STAGE, [])]
    for name, places in PLACES.items():
        rest = draw.sample(places, len(places))
        while rest:
            count = draw.randint(1, _MOST)
            turns.append((name, rest[:count]))
            rest = rest[count:]
    draw.shuffle(turns)
    yield from turns


def _turn(project: Project, record: Record, draw: random.Random, name: str, places: list[Place]) -> None:
    if name in _REGISTERS:
        project.unregister()  # so that registration is new
    if name == STAGE:
        _kill_stage(project, record, draw)
    if LOCK in places:
        project.forget(name)
    for place in places:
        delay = draw.choice([0.0, draw.uniform(0, _LONGEST_DELAY)])
        ended = project.command(name, Event(place, end_itself, delay)).end()
        where = f"{name}, {place.phase} ({place.function.partition(':')[2]}, {delay:.1f} s): "
        if ended.code == 0:  # over before the kill came
            _ended_well(project, record, name, ended)
        else:
            _killed(project, record, name, place.phase, where, ended)
    _ended_well(project, record, name, project.command("score" if name == STAGE else name).end())
    record.held(PART, RECORDS, project.lock())


def _kill_stage(project: Project, record: Record, draw: random.Random) -> None:
    """Kill ``dvc repro`` while its stage is at work: the stage ends with it, or goes on and is in nobody's way."""
    command = project.command(STAGE)
    end = time.monotonic() + _STAGE_STARTS
    while not command.children() and time.monotonic() < end and not command.wait(0.2):
        pass
    command.wait(draw.uniform(0.1, 8.0))
    _killed(project, record, STAGE, "dvc repro", "dvc repro, its stage at work: ", command.kill())


def _killed(project: Project, record: Record, name: str, phase: str, where: str, ended: Ended) -> None:
    record.tried["kills"] += 1
    record.tried[f"kills: {phase}"] += 1
    print(f"{where}{ended.code} after {ended.seconds:.0f} s", flush=True)
    killed = "" if ended.code == -9 or name == STAGE else f"exit status {ended.code}: {ended.last}"
    for promise, failure in (
        (OTHERS, project.damaged(name)),
        (LEFT, ", ".join(ended.left)),
        (TRACES, ended.trace() or killed),
    ):
        record.held(PART, promise, where + failure if failure else "")


def _ended_well(project: Project, record: Record, name: str, ended: Ended) -> None:
    print(f"{name}: {ended.code} after {ended.seconds:.0f} s", flush=True)
    failed = f"exit status {ended.code}: {ended.last}" if ended.code else ""
    for promise, failure in (
        (BYTES, failed or project.differing()),
        (RUNNING, project.running()),
        (TRACES, ended.trace()),
        (LEFT, ", ".join(ended.left)),
        (WHOLE, project.registry() if name in _REGISTERS else ""),
    ):
        record.held(PART, promise, f"{name}: {failure}" if failure else "")
