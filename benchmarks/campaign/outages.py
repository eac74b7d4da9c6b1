"""Commands whose tracking server is down, falls silent, stops or starts again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from campaign.project import Command, Project
from campaign.record import Record, drawn

PART = "outages"
_KINDS = ("stopped", "silent", "started again", "not there")
_TURNS = ("finetune", "evaluate", "score")
# A person's own bounds, so that a silence takes seconds: what the project sets by itself is longer.
_BOUNDS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
_LONGEST = 90.0  # s that an outage may cost under these bounds
_STARTS = 120.0  # s
BOUNDED = f"the outage costs at most {_LONGEST:g} s (5 s a request, tried three times)"
TOLD = "the command ends well, or says in a sentence what failed, without a stack trace"
KEPT = "results from before and what was computed are kept: none is lost, changed, or there in part"
RECORDED = "the next command ends well with the same bytes, and its run is recorded as FINISHED"
RUNNING = "no run is left RUNNING on the server after the next command"


class Server:
    """A tracking server of the campaign's own, on SQLite.

    Args:
        folder: where it keeps everything.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._folder, self._process = folder, None
        self.database, self.url = folder / "server.db", f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        stores = [
            "--backend-store-uri",
            f"sqlite:///{self.database}",
            "--artifacts-destination",
            str(self._folder / "a"),
        ]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port), *stores]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1"], cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(f"{self.url}/health", _STARTS)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        assert self._process
        os.killpg(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()


def wait_for(url: str, seconds: float) -> None:
    """Wait until an address answers.

    Raises:
        SystemExit: it did not in this time (s).
    """
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise SystemExit(f"The campaign cannot go on: {url} does not answer.") from None
            time.sleep(0.5)


@contextmanager
def _served(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.send(signal.SIGKILL)


def outages(project: Project, record: Record, takes: dict[str, float], until: float) -> None:
    """Let the server fail under commands until a moment (``time.monotonic``)."""
    draw, turn = drawn(record.seed, PART), 0
    with _served(project.folder.parent / "server") as server:
        variables = _BOUNDS | {"MLFLOW_TRACKING_URI": server.url}
        while time.monotonic() < until:
            name, kind = _TURNS[turn % len(_TURNS)], _KINDS[turn % len(_KINDS)]
            turn += 1
            if kind == "not there":
                server.send(signal.SIGKILL)
            command = Command(project, name, variables)
            moment = draw.uniform(0.05, 0.95) * takes[name]
            if kind != "not there":
                if command.wait(moment):
                    command.end()
                    continue
                server.send(signal.SIGSTOP if kind == "silent" else signal.SIGKILL)
                if kind == "started again":
                    server.start()
            ended = command.end()
            at = f"{name}, server {kind}{'' if kind == 'not there' else f' after {moment:.1f} s'}: "
            record.tried["outages"] += 1
            record.tried[f"outages: {kind}"] += 1
            print(f"{at}exit status {ended.code} after {ended.seconds:.0f} s: {ended.last[:150]}", flush=True)
            cost = ended.seconds - 2 * takes[name]
            record.longest("longest command with an outage, s", ended.seconds)
            record.held(PART, BOUNDED, f"{at}{ended.seconds:.0f} s" if cost > _LONGEST else "")
            _note(record, at, TOLD, ended.untold())
            _note(record, at, KEPT, project.damaged(name))
            if kind == "silent":
                server.send(signal.SIGCONT)
            elif kind != "started again":
                server.start()
            ended = Command(project, name, variables).end()
            failure = f"exit status {ended.code}: {ended.last}" if ended.code else project.differing()
            _note(record, at, RECORDED, failure or _unrecorded(server, name))
            _note(record, at, RUNNING, project.running(server.database))


def _unrecorded(server: Server, name: str) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(server.url)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.step = '{name}'", max_results=1)
    return (
        "" if runs and runs[0].info.status == "FINISHED" else f"its run is {runs[0].info.status if runs else 'missing'}"
    )


def _note(record: Record, at: str, promise: str, failure: str) -> None:
    record.held(PART, promise, at + failure if failure else "")
