"""A copy of the project with few images, the commands that are run in it, and what can be seen of them afterwards."""

import hashlib
import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

MODEL, SETUP = "tiny-smolvlm", "top-4"
REGISTERED = f"head-impact-{MODEL}"
COMMANDS: dict[str, tuple[str, ...]] = {
    "score": ("score", "--model", MODEL),
    "finetune": ("finetune", "--model", MODEL, "--setup", SETUP),
    "evaluate": ("evaluate", "--model", MODEL, "--setup", SETUP),
    "register": ("register", "--model", MODEL),
}
STAGE = "stage"
"""``dvc repro`` of the stage ``score``, after whose death the command ``score`` goes on."""
# Made one by one, because what is missing upstream would be made by processes that start from nothing.
_BEFORE: dict[str, tuple[str, ...]] = {
    "download": ("download",),
    "data": ("data",),
    "identify": ("identify", "--model", MODEL),
    "score": COMMANDS["score"],
    "select": ("select", "--model", MODEL, "--setup", SETUP),
    **{
        f"{step} original": (step, "--model", MODEL, "--setup", "original")
        for step in ("select", "finetune", "evaluate")
    },
}
_DVC = ("dvc", "repro", "--force", "--single-item", f"score@{MODEL}")
_OUTPUTS = {
    "score": f"outputs/impact/{MODEL}",
    "finetune": f"outputs/finetune/{MODEL}/{SETUP}",
    "evaluate": f"outputs/evaluation/{MODEL}/{SETUP}",
}
_WRITES = {
    "score": ("score",),
    STAGE: ("score",),
    "finetune": ("finetune", "evaluate"),
    "evaluate": ("evaluate",),
    "register": (),
}
_FEW = {"impact": 4, "train": 16, "val": 4, "test": 4}
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
    *(f"headimpact.lifecycle.steps.{step}" for step in ("score", "finetune", "evaluate")),
)
_PATIENCE = 600.0  # s, for a command that should end by itself
_GONE = 30.0  # s, in which the processes of one that was killed have to be gone


def copy(source: Path, folder: Path) -> Path:
    """Copy the files of the project that git knows or would take, and let the copy work on few images."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=source, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (source / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, folder / name)
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["scenes"]["sizes"] = _FEW
    values["train"] |= {"epochs": 1, "checkpoint_steps": 1}
    values["grid"] = {"models": [MODEL], "setups": ["original", SETUP]}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8", newline="\n")
    git = ["git", "-c", "user.name=campaign", "-c", "user.email=campaign@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--no-verify", "-m", "A copy with few images"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


def settle_environment(folder: Path) -> None:
    """Nothing of the caller's MLflow or DVC; the code of the copy; nothing fetched; a thread."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_"))]:
        del os.environ[name]
    ours = {"MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    os.environ |= ours | {"PYTHONPATH": os.pathsep.join(str(folder / name) for name in ("src", "benchmarks"))}
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_IMPORTED))


def _run(folder: Path, arguments: Sequence[str], log: Path, variables: Mapping[str, str], file_bytes: int) -> None:
    """What a command's process does."""
    os.setsid()
    os.chdir(folder)
    os.environ.update(variables)
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if arguments[0] == "dvc":
        os.execv(sys.executable, [sys.executable, "-m", *arguments])
    from headimpact.lifecycle.command_line import app

    app(list(arguments), prog_name="headimpact")


class Command:
    """A command at work in a session of its own.

    Args:
        project: where it runs.
        name: one of ``COMMANDS``, or ``STAGE``.
        variables: of its environment.
        file_bytes: the size that no file of it may pass; 0: any.
    """

    def __init__(
        self, project: "Project", name: str, variables: Mapping[str, str] | None = None, file_bytes: int = 0
    ) -> None:
        arguments = {**_BEFORE, **COMMANDS, STAGE: _DVC}[name]
        self.log = project.log
        self.log.unlink(missing_ok=True)
        context = multiprocessing.get_context("forkserver")
        given = (project.folder, arguments, self.log, dict(variables or {}), file_bytes)
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


def _of_session(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


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


class Project:
    """A project folder with finished results.

    Args:
        folder: its root.
        log: what the commands say goes here.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        self.database = folder / "mlflow.db"
        self.reference: dict[str, str] = {}

    def prepare(self) -> dict[str, float]:
        """Make everything once; gives how long each of ``COMMANDS`` takes (s)."""
        takes = {}
        for name in (*_BEFORE, "finetune", "register"):
            ended = Command(self, name).end()
            if ended.code:
                raise SystemExit(f"The campaign cannot begin: {name} failed.\n{ended.text}")
            takes[name] = ended.seconds
            print(f"{name}: {ended.seconds:.0f} s", flush=True)
        self.reference = self.digests()
        return {name: takes[f"{name} original" if name == "evaluate" else name] for name in COMMANDS}

    def digests(self) -> dict[str, str]:
        """A digest of every file that the steps wrote, but for what work goes on from and what is kept to be faster."""
        roots = [self.folder / "outputs" / name for name in ("impact", "selection", "finetune", "evaluation")]
        files = [path for root in roots for path in sorted(root.rglob("*")) if path.is_file()]
        return {str(path.relative_to(self.folder)): _digest(path) for path in files if path.name != ".gitignore"}

    def differing(self, names: Sequence[str] = ()) -> str:
        """Files of some commands, or of all, that are not what they were or are missing; empty: none."""
        found, places = self.digests(), tuple(_OUTPUTS[name] for name in names)
        wrong = [
            name
            for name in sorted(self.reference.keys() | found.keys())
            if name.startswith(places or "outputs") and self.reference.get(name) != found.get(name)
        ]
        return f"{len(wrong)} files differ: {', '.join(wrong[:3])}" if wrong else ""

    def damaged(self, command: str) -> str:
        """Whether results that a command does not make are not what they were, or its own stand there in part or wrong.

        A step's folder is whole, or not there.
        """
        found, wrong = self.digests(), []
        for name, digest in self.reference.items():
            own = any(name.startswith(_OUTPUTS[of] + "/") for of in _WRITES[command])
            if found.get(name) != digest and not (own and not self._folder(name).exists()):
                wrong.append(name)
        return f"{len(wrong)} files damaged or lost: {', '.join(wrong[:3])}" if wrong else ""

    def _folder(self, name: str) -> Path:
        return next(self.folder / place for place in _OUTPUTS.values() if name.startswith(place))

    def unregister(self) -> None:
        """Forget the registered model, so that the next command registers anew."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):
            MlflowClient(f"sqlite:///{self.database}").delete_registered_model(REGISTERED)

    def registry(self) -> str:
        """What is wrong with the registered model: one version of the adapter, described and tagged, with its alias."""
        versions = _rows(
            self.database,
            "SELECT version, status, description FROM model_versions WHERE name = ? AND current_stage NOT LIKE 'Del%'",
            REGISTERED,
        )
        aliases = _rows(self.database, "SELECT version FROM registered_model_aliases WHERE name = ?", REGISTERED)
        tags = _rows(self.database, "SELECT key FROM model_version_tags WHERE name = ?", REGISTERED)
        if len(versions) != 1:
            return f"{len(versions)} versions"
        version, status, description = versions[0]
        whole = status == "READY" and description and {"adapter_digest", "setup", "layers"} <= {key for (key,) in tags}
        if not whole:
            return f"version {version} is {status}, with {len(tags)} tags and description {description!r:.40}"
        return "" if aliases == [(version,)] else f"version {version} has the aliases {aliases}"

    def running(self, database: Path | None = None) -> str:
        """That runs are left RUNNING; empty: none."""
        rows = _rows(database or self.database, "SELECT name FROM runs WHERE status = 'RUNNING'")
        return f"{len(rows)} runs are RUNNING: {rows[0][0]}" if rows else ""

    def lock(self) -> str:
        """That dvc.lock is no longer whole; empty where it is."""
        try:
            content: Any = yaml.load((self.folder / "dvc.lock").read_text(encoding="utf-8"), yaml.CSafeLoader)
            stages = content["stages"]
        except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
            return f"dvc.lock cannot be read: {type(error).__name__}"
        lacking = {f"{step}@{MODEL}-{SETUP}" for step in ("select", "finetune", "evaluate")} - stages.keys()
        return f"dvc.lock lacks {', '.join(sorted(lacking))}" if lacking else ""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rows(database: Path, query: str, *values: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        return connection.execute(query, values).fetchall()
