"""Commands that are killed at drawn moments, once or several times, and then run to their end."""

import time

from campaign.project import COMMANDS, STAGE, Command, Ended, Project
from campaign.record import Record, drawn

PART = "kills"
_TURNS = ("finetune", "evaluate", "score", "finetune", "register", STAGE)
_MOST = 3  # kills of one command before it may end
BYTES = "the same command again ends well, with the same bytes"
OTHERS = "no result that is not being made is changed or lost, and none stands there in part"
WHOLE = "what is registered is whole, and registered once"
LOCK = "dvc.lock is whole and has every record"
LEFT = "no process is left"
RUNNING = "no run is left RUNNING after the next command"
TRACES = "no stack trace"


def kills(project: Project, record: Record, takes: dict[str, float], until: float) -> None:
    """Kill commands until a moment (``time.monotonic``).

    Args:
        project: finished, and finished again afterwards.
        record: of what held.
        takes: how long each command takes (s).
        until: when no other command is begun.
    """
    draw, turn = drawn(record.seed, PART), 0
    while time.monotonic() < until:
        name = _TURNS[turn % len(_TURNS)]
        turn += 1
        if name in ("register", "finetune"):
            project.unregister()
        before = record.tried["kills"]
        for _ in range(draw.randint(1, _MOST)):
            moment = draw.uniform(0.05, 1.0) * takes.get(name, 2 * takes["score"])
            command = Command(project, name)
            if command.wait(moment):
                _ended_well(project, record, name, command.end())
            else:
                _killed(project, record, name, moment, command.kill())
        print(f"{name}: killed {record.tried['kills'] - before} times, {record.tried['kills']} in all", flush=True)
        _ended_well(project, record, name, Command(project, "score" if name == STAGE else name).end())
        record.held(PART, LOCK, project.lock())


def _killed(project: Project, record: Record, name: str, moment: float, ended: Ended) -> None:
    record.tried["kills"] += 1
    record.tried[f"kills of {name}"] += 1
    at = f"{name} killed after {moment:.1f} s: "
    record.held(PART, OTHERS, _at(at, project.damaged(name)))
    record.held(PART, LEFT, _at(at, ", ".join(ended.left)))
    record.held(PART, TRACES, _at(at, ended.trace()))


def _ended_well(project: Project, record: Record, name: str, ended: Ended) -> None:
    at = f"{name}: "
    failed = f"exit status {ended.code}: {ended.last}" if ended.code else ""
    record.held(PART, BYTES, _at(at, failed or project.differing()))
    record.held(PART, RUNNING, _at(at, project.running()))
    record.held(PART, TRACES, _at(at, ended.trace()))
    record.held(PART, LEFT, _at(at, ", ".join(ended.left)))
    if name in COMMANDS and name != "score":
        record.held(PART, WHOLE, _at(at, project.registry()))


def _at(where: str, failure: str) -> str:
    return where + failure if failure else ""
