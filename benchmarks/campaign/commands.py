"""The commands that the campaign runs: forked by a server that has imported everything, watched, and ended."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from campaign.places import Event

# Forked by a server that has imported all this, a command of seconds does not spend most of them on imports.
_IMPORTED = (
    "dvc.repo",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "pandas",
    "torch",
    "transformers",
    "headimpact.lifecycle.command_line",
    "headimpact.lifecycle.tracking",
    *(f"headimpact.lifecycle.steps.{step}" for step in ("data", "score", "finetune", "evaluate", "soften", "export")),
)
_PATIENCE = 600.0  # s, for a command that should end by itself
_GONE = 30.0  # s, in which the processes of one that was killed have to be gone


def preload() -> None:
    """Have commands forked by a server with everything imported, from the code that PYTHONPATH names."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_IMPORTED))


def _run(
    folder: Path,
    arguments: Sequence[str],
    log: Path,
    variables: Mapping[str, str],
    event: Event | None,
) -> None:
    """What a command's process does."""
    os.setsid()
    os.chdir(folder)
    os.environ.update(variables)
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if arguments[0] == "dvc":
        os.execv(sys.executable, [sys.executable, "-m", *arguments])
    if event:
        event.prepare()
    from headimpact.lifecycle.command_line import app

    app(list(arguments), prog_name="headimpact")


class Command:
    """A command at work in a session of its own.

    Args:
        folder: where it runs.
        arguments: of ``headimpact``; or, beginning with ``dvc``, of DVC.
        log: what it says goes here.
        variables: of its environment.
        event: what happens when it comes to a certain place.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        log: Path,
        variables: Mapping[str, str] | None = None,
        event: Event | None = None,
    ) -> None:
        self.log = log
        self.log.unlink(missing_ok=True)
        context = multiprocessing.get_context("forkserver")
        given = (folder, arguments, self.log, dict(variables or {}), event)
        self._process = context.Process(target=_run, args=given)
        self._started = time.monotonic()
        self._process.start()

    def wait(self, seconds: float = _PATIENCE) -> bool:
        """Whether it has ended by itself in this time (s)."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def end(self) -> "Ended":
        """What is to be seen once it has ended; one that does not end is killed, which is a failure of its own."""
        if not self.wait():
            os.kill(self._number, signal.SIGKILL)
            self._process.join()
        return self._ended()

    def kill(self) -> "Ended":
        """Kill its process, and no other."""
        os.kill(self._number, signal.SIGKILL)
        self._process.join()
        return self._ended()

    def children(self) -> list[psutil.Process]:
        """Its processes, but for the first."""
        return [process for process in _of_session(self._number) if process.pid != self._number]

    @property
    def _number(self) -> int:
        assert self._process.pid
        return self._process.pid

    def _ended(self) -> "Ended":
        code, seconds = self._process.exitcode, time.monotonic() - self._started
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return Ended(-1 if code is None else code, seconds, text, left(self._number))


def left(session: int) -> list[str]:
    """Processes of a session that do not end; they are killed."""
    end = time.monotonic() + _GONE
    while found := list(_of_session(session)):
        if time.monotonic() > end:
            names = [f"{process.pid} {process.name()}" for process in found]
            for process in found:
                process.kill()
            return names
        time.sleep(0.1)
    return []


def _of_session(session: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                yield process


class Ended:
    """A command that has ended.

    Attributes:
        code: its exit status; below 0 the signal that ended it.
        seconds: how long it took.
        text: what it said.
        left: its processes that were left.
    """

    def __init__(self, code: int, seconds: float, text: str, left: list[str]) -> None:
        self.code, self.seconds, self.text, self.left = code, seconds, text, left

    @property
    def last(self) -> str:
        """The last line it said."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    @property
    def said(self) -> str:
        """What it said at its end, in one line."""
        return " ".join(self.text[-400:].split())

    def trace(self) -> str:
        """That it showed a stack trace; empty where it did not."""
        return f"a stack trace: {self.last}" if "Traceback (most recent call last)" in self.text else ""

    def untold(self) -> str:
        """That it failed and did not say why in a sentence; empty where it did."""
        if self.code == 0:
            return ""
        if self.code < 0:
            return f"ended by signal {-self.code}"
        return self.trace() or ("" if " " in self.last else "it said nothing")
