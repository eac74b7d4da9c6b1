"""Commands whose tracking server is down, falls silent, gets slow, answers with errors, or goes and comes back."""

import os
import signal
from functools import partial
from itertools import cycle
from pathlib import Path

from campaign.places import COMPUTE, LOG, PLACES, Event, Place
from campaign.project import Project
from campaign.record import Record, over
from campaign.servers import Failing, served, tell

PART = "outages"
_OPTIMIZE = Place("train", "headimpact.adapters.training:Training.optimize")
_SEE = Place("compute", COMPUTE.function)
# What would be called if it was computed again.
_COMPUTING = {"score": _SEE, "evaluate": _SEE, "finetune": _OPTIMIZE}
_BEGIN = Place("begin", "mlflow:start_run")
_LOGGED = Place("log", "headimpact.lifecycle.tracking:log_history")
_RESULTS = Place("log", "headimpact.lifecycle.tracking:log_results")
_TURNS = (
    ("evaluate", "silent", _RESULTS),
    ("score", "500s", LOG),
    ("register", "cut off", PLACES["register"][2]),
    ("evaluate", "500s", PLACES["register"][3]),
    ("finetune", "stopped", _LOGGED),
    ("score", "slow", _BEGIN),
    ("score", "not there", _BEGIN),
    ("evaluate", "started again", _RESULTS),
    ("finetune", "silent", PLACES["register"][0]),
    ("data", "stopped", LOG),
    ("score", "stopped", COMPUTE),
    ("evaluate", "slow", COMPUTE),
)
# A person's own bounds, so that a silence takes seconds: what the project sets by itself is longer.
_BOUNDS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
_LONGEST = 90.0  # s that an outage may cost under these bounds
_PASSES = ("slow", "started again")  # what a command gets over
_REGISTERS = ("finetune", "evaluate", "register")
BOUNDED = f"the outage costs at most {_LONGEST:g} s (5 s a request, tried three times)"
TOLD = "the command ends well, or says in a sentence what failed, without a stack trace"
ENDS = "it ends well where the server is only slow or was gone for a moment"
KEPT = "results from before and what was computed are kept: none is lost, changed, or there in part"
RECORDED = "the next command ends well with the same bytes, and its run is recorded as FINISHED"
ONCE = "the next command computes nothing again that was computed before"
WHOLE = "what is registered is whole, and registered once"
RUNNING = "no run is left RUNNING on the server after the next command"


def outages(project: Project, record: Record, takes: dict[str, float], until: float) -> None:
    """Let the server fail under commands until a moment (``time.monotonic``).

    Args:
        project: finished, and finished again afterwards.
        record: of what held.
        takes: how long each command takes (s).
        until: when no other command is begun.
    """
    with served(project.folder.parent / "server") as failing:
        for name, kind, place in cycle(_TURNS):
            if over(until):
                return
            failed = _fail(project, failing, record, takes[name], (name, kind, place))
            _again(project, failing, record, (name, kind, place), failed)


def _fail(project: Project, failing: Failing, record: Record, takes: float, turn: tuple[str, str, Place]) -> bool:
    """Run a command whose server fails; whether it failed for that."""
    name, kind, place = turn
    if name in _REGISTERS:
        project.unregister(failing.server.url)  # so that registration is new
    server, event, url = failing.server, None, failing.server.url
    if kind == "not there":
        server.send(signal.SIGKILL)
    elif kind in ("stopped", "silent"):
        number = signal.SIGSTOP if kind == "silent" else signal.SIGKILL
        event = Event(place, partial(os.killpg, server.group, number))
    else:
        url, event = failing.url, Event(place, partial(tell, failing.url, kind))
    ended = project.command(name, event, _variables(url)).end()
    at = _at(turn)
    if ended.code or kind in _PASSES:
        record.tried["outages"] += 1
        record.tried[f"outages: {kind}"] += 1
    print(f"{at}exit status {ended.code} after {ended.seconds:.0f} s: {ended.said[-250:]}", flush=True)
    record.longest("longest command with an outage, s", ended.seconds)
    _note(record, at, BOUNDED, f"{ended.seconds:.0f} s" if ended.seconds - 2 * takes > _LONGEST else "")
    _note(record, at, TOLD, ended.untold())
    if kind in _PASSES:
        _note(record, at, ENDS, f"exit status {ended.code}: {ended.said}" if ended.code else "")
    _note(record, at, KEPT, project.damaged(name))
    return ended.code != 0


def _again(project: Project, failing: Failing, record: Record, turn: tuple[str, str, Place], failed: bool) -> None:
    """Have the server back, and run the command again."""
    name, kind, place = turn
    failing.failure = ""
    if kind == "silent":
        failing.server.send(signal.SIGCONT)
    elif kind in ("stopped", "not there"):
        failing.server.send(signal.SIGKILL)  # it is gone, and is taken leave of
        failing.server.start()
    computed = project.folder.parent / "computed"
    computed.unlink(missing_ok=True)
    event = Event(_COMPUTING[name], partial(Path.touch, computed)) if name in _COMPUTING else None
    ended, at = project.command(name, event, _variables(failing.server.url)).end(), _at(turn)
    print(f"{name}: {ended.code} after {ended.seconds:.0f} s", flush=True)
    failure = f"exit status {ended.code}: {ended.said}" if ended.code else project.differing()
    _note(record, at, RECORDED, failure or _unrecorded(failing, name))
    _note(record, at, RUNNING, project.running(failing.server.database))
    if name in _REGISTERS:
        _note(record, at, WHOLE, project.registry(failing.server.database))
    if event and failed and place not in (_BEGIN, COMPUTE):
        _note(record, at, ONCE, "it was computed again" if computed.exists() else "")


def _variables(url: str) -> dict[str, str]:
    return _BOUNDS | {"MLFLOW_TRACKING_URI": url}


def _unrecorded(failing: Failing, name: str) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(failing.server.url)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.step = '{name}'", max_results=1)
    if not runs and name == "evaluate":  # it stands in the run of the training
        runs = client.search_runs(experiments, "tags.step = 'finetune'", max_results=1)
    status = runs[0].info.status if runs else "missing"
    return "" if status == "FINISHED" else f"its run is {status}"


def _at(turn: tuple[str, str, Place]) -> str:
    name, kind, place = turn
    return f"{name}, server {kind} at {place.phase}: "


def _note(record: Record, at: str, promise: str, failure: str) -> None:
    record.held(PART, promise, at + failure if failure else "")
