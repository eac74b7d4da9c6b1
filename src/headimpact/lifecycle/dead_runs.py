"""Runs whose process has died: who runs them, and ending what nobody else will."""

import os
import platform
import time
from pathlib import Path

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

PROCESS = "process"
"""The tag that says which process a run is of: machine, process id, and when the process started (s since 1970)."""
_ERROR = "error"
# By how much the start of a process may seem to move when the clock is set (s).
_CLOCK = 60.0


def this_process() -> str:
    """This process, as the tag of its runs names it."""
    return f"{_machine()} {os.getpid()} {psutil.Process().create_time():.0f}"


def _machine() -> str:
    """This machine; of containers on it each, whose processes do not see each other."""
    name = "".join(platform.node().split()) or "machine"
    try:
        return f"{name}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # no Linux
        return name


def is_dead(process: str) -> bool:
    """Whether a process of this machine has ended; of other machines nothing is known here."""
    parts = process.rsplit(" ", 2)
    if len(parts) != 3 or parts[0] != _machine() or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return False
    try:
        started = psutil.Process(int(parts[1])).create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    return abs(started - float(parts[2])) > _CLOCK


def end_dead_runs() -> list[str]:
    """End the runs of this machine's processes that were killed before they could; gives their names.

    They end as KILLED, with the reason as the tag ``error``.
    """
    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    running = client.search_runs(
        experiments, f"attributes.status = 'RUNNING' and tags.{PROCESS} LIKE '{_machine()} %'", ViewType.ALL
    )
    return [_end(client, run) for run in running if is_dead(run.data.tags[PROCESS])]


def _end(client: MlflowClient, run: Run) -> str:
    machine, number, started = run.data.tags[PROCESS].rsplit(" ", 2)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(started)))
    reason = f"process {number} of {machine.split('/')[0]}, started {since}, was killed before it could end this run"
    client.set_tag(run.info.run_id, _ERROR, reason)
    client.set_terminated(run.info.run_id, "KILLED")
    return run.info.run_name or run.info.run_id
