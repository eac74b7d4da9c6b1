"""What workers of a Ray cluster do in the tests: a module of its own, since every worker imports it."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from headimpact.errors import InputError


def begun(task: str) -> None:
    """Leave a trace of the attempt: the node and the process that it is on."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    with Path(task).open("a") as stream:
        stream.write(f"{node}/{os.getpid()}\n")


def attempts(task: str) -> list[str]:
    return Path(task).read_text().split() if Path(task).exists() else []


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def shout(task: str) -> str:
    begun(task)
    return f"{task}!"


def shout_after_the_first_is_kept(task: str) -> str:
    """The process that comes to "mortal" the first time is killed."""
    begun(task)
    if task == "mortal" and len(attempts(task)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if task != "first":
        wait_until(Path("first is kept").exists)
    return f"{task}!"


def shout_when_one_node_is_left(task: str) -> str:
    begun(task)
    wait_until(Path("one is left").exists)
    return f"{task}!"


def refuse(task: str) -> str:
    raise InputError(f"{task} has no pixels. Remove it.")
