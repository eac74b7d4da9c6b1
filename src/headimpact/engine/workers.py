"""Independent pieces of work in several processes: each result as it comes, and no process left behind."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from headimpact.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")


def work(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in the order in which they end; with one worker in this process, in order.

    The first exception ends all: what others were at is given up. Function, tasks and results travel between
    processes (``multiprocessing`` copies them).

    Raises:
        InputError: a process was ended from outside.
    """
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, function(task)
        return
    # Fresh processes: a copy of this one would inherit its locks and threads as they are.
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_begin)
    try:
        waiting = {pool.submit(function, task): task for task in tasks}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BrokenProcessPool:
        raise InputError(
            "A process was ended from outside, perhaps for want of memory. What was finished is kept: run again, with "
            "fewer workers."
        ) from None
    finally:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In a fresh process: leave Ctrl-C to the parent, and end when the parent ends, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
