"""The DVC graph, through DVC's own library: what is stale, building it, recording a result, locks.

The library and not the command: its errors have types, and ``core.no_scm`` can be set for one call.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headimpact.errors import InputError

INTERRUPTED = 130


@contextmanager
def environment(**changes: str | None) -> Iterator[None]:
    """Set (or, with None, remove) variables of the environment for a while; child processes see them."""
    before = {name: os.environ.get(name) for name in changes}
    _set_variables(changes)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def stale(targets: Sequence[str]) -> list[str]:
    """Those of ``targets`` and of everything upstream of them that ``dvc status`` names."""
    with _open() as repo:
        return sorted(repo.status(targets=list(targets), with_deps=True))


def reproduce(targets: Sequence[str] | None = None) -> int:
    """``dvc repro`` of ``targets`` (None: of everything), in no MLflow run; the number of stages that ran.

    Raises:
        InputError: a stage failed (it has printed why), or another DVC command is at work.
        KeyboardInterrupt: a stage was interrupted.
    """
    logging.getLogger("dvc.repo.scm_context").setLevel(logging.WARNING)  # lists files to add to git
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # The stages say `python`: it is to be this one. They open runs of their own.
    with environment(PATH=path, MLFLOW_RUN_ID=None), _open() as repo:
        return len(repo.reproduce(targets=list(targets) if targets else None))


def commit(stage: str) -> None:
    """``dvc commit -f``: take what lies on the disk as the result of ``stage``."""
    with _open() as repo:
        repo.commit(stage, force=True)


def inputs(stage: str) -> dict[str, Any]:
    """What ``stage`` depends on at this moment: the digest of each file, the value of each parameter."""
    with _open() as repo:
        (described,) = repo.stage.collect(stage)
        described.save_deps(allow_missing=True)
        return {str(dependency): dependency.hash_info.value for dependency in described.deps}


@contextmanager
def locked(read: Sequence[Path], write: Sequence[Path]) -> Iterator[None]:
    """Hold DVC's own locks on files for as long as a step runs outside of ``dvc repro``.

    Raises:
        InputError: another process writes one of them, or reads one that is to be written.
    """
    from dvc.rwlock import rwlock

    with _open() as repo:
        paths = [[str(path.absolute()) for path in group] for group in (read, write)]
        hardlink = repo.config["core"].get("hardlink_lock", False)
        with rwlock(repo.tmp_dir, repo.fs, " ".join(sys.argv), paths[0], paths[1], hardlink):
            yield


@contextmanager
def _open() -> Iterator[Any]:  # a Repo; its decorated methods have no types of use
    from dvc.exceptions import DvcException, ReproductionError
    from dvc.lock import LockError
    from dvc.repo import Repo

    root = Path.cwd()
    in_git = any((folder / ".git").exists() for folder in (root, *root.parents))
    try:
        with Repo(str(root), config=None if in_git else {"core": {"no_scm": True}}) as repo:
            yield repo
    except LockError as error:
        raise InputError(f"Another command is at work on the same files; wait until it has ended.\n{error}") from error
    except ReproductionError as error:
        # A stage that was interrupted before it could say so was ended by the signal itself.
        if str(error.__cause__).endswith((f"exited with {INTERRUPTED}", f"exited with {-signal.SIGINT}")):
            raise KeyboardInterrupt from error
        raise InputError(f"{error}: what went wrong is printed above. Nothing after it was run.") from error
    except DvcException as error:
        raise InputError(f"DVC: {error}") from error
