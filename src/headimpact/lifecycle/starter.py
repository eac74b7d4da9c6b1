"""A command that DVC or MLflow started ends with the process that started it.

Killed outright, ``dvc repro`` and ``mlflow run`` leave their stage at work, with no lock on its files: the next ``dvc
repro`` would run beside it, and both would register.
"""

import os
import signal
import threading
import time
from functools import cache

import psutil

_SHELLS = {"sh", "ash", "bash", "dash", "ksh", "zsh", "fish", "cmd.exe", "powershell.exe"}
_SECONDS_BETWEEN_LOOKS = 1.0


@cache
def end_with_starter() -> None:
    """Interrupt this process, as Ctrl-C does, once ``dvc repro`` or ``mlflow run``, if it was one, is gone.

    Nothing is watched for a command that a person started: it may well outlive its terminal. To be called in the main
    thread; only the first call in a process does something.
    """
    if not {"DVC_STAGE", "MLFLOW_RUN_ID"} & set(os.environ) or (starter := _starter()) is None:
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_watch, args=(starter,), daemon=True).start()


def _starter() -> psutil.Process | None:
    """The nearest ancestor that is no shell: DVC and MLflow run their commands through one."""
    try:
        return next((parent for parent in psutil.Process().parents() if parent.name() not in _SHELLS), None)
    except psutil.Error:
        return None


def _watch(starter: psutil.Process) -> None:
    while _runs(starter):
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
