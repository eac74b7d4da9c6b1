"""A copy of the project with few images, and what can be seen of its results, its registry and its runs."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import yaml

from campaign.commands import Command, preload
from campaign.places import Event
from headimpact.lifecycle import layout
from headimpact.selection.grammar import softened

MODEL, SETUP = "tiny-smolvlm", "top-4"
REGISTERED = f"head-impact-{MODEL}"
SOFTENED = softened(SETUP)
_OF_SETUP = ("--model", MODEL, "--setup", SETUP)
COMMANDS: dict[str, tuple[str, ...]] = {
    "data": ("data",),
    "score": ("score", "--model", MODEL),
    "finetune": ("finetune", *_OF_SETUP),
    "evaluate": ("evaluate", *_OF_SETUP),
    "register": ("register", "--model", MODEL),
    "soften": ("soften", *_OF_SETUP),
    "export": ("export", *_OF_SETUP),
}
STAGE = "stage"
"""``dvc repro`` of the stage ``score``, after whose death the command ``score`` goes on."""
# Made one by one, because what is missing upstream would be made by processes that start from nothing.
_BEFORE: dict[str, tuple[str, ...]] = {
    "download": ("download",),
    "data": COMMANDS["data"],
    "identify": ("identify", "--model", MODEL),
    "score": COMMANDS["score"],
    "select": ("select", *_OF_SETUP),
    **{
        f"{step} original": (step, "--model", MODEL, "--setup", "original")
        for step in ("select", "finetune", "evaluate")
    },
    **{name: COMMANDS[name] for name in ("finetune", "soften", "export", "register")},
}
_STAGE = ("dvc", "repro", "--force", "--single-item", f"score@{MODEL}")
_STAGES = {
    "data": "data",
    "score": f"score@{MODEL}",
    **{step: f"{step}@{MODEL}-{SETUP}" for step in ("select", "finetune", "evaluate")},
}
_OUTPUTS = {
    "data": layout.DATASET,
    "score": layout.impact(MODEL),
    "finetune": layout.finetune(MODEL, SETUP),
    "evaluate": layout.evaluation(MODEL, SETUP),
    "soften": layout.softening(MODEL, SETUP),
    "evaluate softened": layout.evaluation(MODEL, SOFTENED),
    "export": layout.delivered(MODEL, SETUP) / "adapter",
}
_WRITES = {
    **{name: (name,) for name in ("data", "score", "evaluate", "export")},
    STAGE: ("score",),
    "finetune": ("finetune", "evaluate"),
    "soften": ("soften", "evaluate softened"),
    "register": (),
}
_RESULTS = tuple(Path("outputs", name) for name in ("impact", "selection", "finetune", "evaluation", "delivered"))
_TAGS = {"adapter_digest", "setup", "layers"}
_FEW = {"impact": 4, "train": 16, "val": 4, "test": 4}


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
    preload()


class Project:
    """A project folder with finished results.

    Args:
        folder: its root.
        reference: the digests of its files as they should be; empty: they are made first (:meth:`prepare`).
    """

    def __init__(self, folder: Path, reference: Mapping[str, str] | None = None) -> None:
        self.folder, self.log = folder, folder.parent / f"{folder.name}.log"
        self.database = folder / "mlflow.db"
        self.reference = dict(reference or {})

    def command(self, name: str, event: Event | None = None, variables: Mapping[str, str] | None = None) -> Command:
        """Begin one of ``COMMANDS``, or ``STAGE``."""
        arguments = {**_BEFORE, **COMMANDS, STAGE: _STAGE}[name]
        return Command(self.folder, arguments, self.log, variables, event)

    def prepare(self) -> dict[str, float]:
        """Make everything once; gives how long each of ``COMMANDS`` took (s)."""
        takes = {}
        for name in _BEFORE:
            ended = self.command(name).end()
            if ended.code:
                raise SystemExit(f"The campaign cannot begin: {name} failed.\n{ended.text}")
            takes[name] = ended.seconds
            print(f"{name}: {ended.seconds:.0f} s", flush=True)
        self.reference = self.digests()
        return takes | {"evaluate": takes["evaluate original"]}

    def copied(self, folder: Path) -> "Project":
        """A copy of it, in another folder."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(self.folder), str(folder)], check=True)
        return Project(folder, self.reference)

    def digests(self) -> dict[str, str]:
        """A digest of every file that the steps wrote, but for what work goes on from and what is kept to be faster."""
        return {name: _digest(self.folder / name) for name in self._files()}

    def _files(self) -> Iterator[str]:
        for root in (layout.DATASET, *_RESULTS):
            for path in sorted((self.folder / root).rglob("*")):
                if path.is_file() and path.name != ".gitignore":
                    yield path.relative_to(self.folder).as_posix()

    def differing(self) -> str:
        """Files that are not what they were, are missing, or are new; empty: none."""
        found = self.digests()
        names = sorted(self.reference.keys() | found.keys())
        wrong = [name for name in names if self.reference.get(name) != found.get(name)]
        return f"{len(wrong)} files differ: {', '.join(wrong[:3])}" if wrong else ""

    def damaged(self, command: str) -> str:
        """Whether results that a command does not make are not what they were, or its own stand there in part or wrong.

        A step's folder is whole, or not there.
        """
        found, wrong = self.digests(), []
        absent = [of for of in _WRITES[command] if not (self.folder / _OUTPUTS[of]).exists()]
        for name, digest in self.reference.items():
            gone = any(Path(name).is_relative_to(_OUTPUTS[of]) for of in absent)
            if found.get(name) != digest and not gone:
                wrong.append(name)
        return f"{len(wrong)} files damaged or lost: {', '.join(wrong[:3])}" if wrong else ""

    def forget(self, name: str) -> None:
        """Take the record of a command out of dvc.lock, which then has to be written again, with the same results."""
        path = self.folder / "dvc.lock"
        content = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        content["stages"].pop(_STAGES[name], None)
        path.write_text(yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False), encoding="utf-8", newline="\n")

    def unregister(self, store: str = "") -> None:
        """Forget the registered model of a store, so that the next command registers anew; empty: of its own store."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):
            MlflowClient(store or f"sqlite:///{self.database}").delete_registered_model(REGISTERED)

    def registry(self, database: Path | None = None) -> str:
        """What is wrong with what is registered: every version is described and tagged, one is of the adapter, and it
        has an alias."""

        def rows(query: str) -> list[tuple[Any, ...]]:
            return _rows(database or self.database, query, REGISTERED)

        tags: dict[int, dict[str, str]] = {}
        for version, key, value in rows("SELECT version, key, value FROM model_version_tags WHERE name = ?"):
            tags.setdefault(version, {})[key] = value
        query = (
            "SELECT version, status, description FROM model_versions WHERE name = ? AND current_stage NOT LIKE 'Del%'"
        )
        for version, status, description in rows(query):
            if status != "READY" or not description or not tags.get(version, {}).keys() >= _TAGS:
                return f"version {version} is {status}, with tags {sorted(tags.get(version, {}))}: {description!r:.40}"
        ours = [version for version, _, _ in rows(query) if tags[version]["setup"] == SETUP]
        if len(ours) != 1:
            return f"{len(ours)} versions of {SETUP}"
        named = rows("SELECT version FROM registered_model_aliases WHERE name = ?")
        return "" if (ours[0],) in named else f"version {ours[0]} has no alias"

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
        lacking = set(_STAGES.values()) - stages.keys()
        return f"dvc.lock lacks {', '.join(sorted(lacking))}" if lacking else ""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rows(database: Path, query: str, *values: str | int) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        return connection.execute(query, values).fetchall()
