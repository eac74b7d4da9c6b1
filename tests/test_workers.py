"""Work in several processes: every result, the first failure, and nothing left behind."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from headimpact.engine.workers import work
from headimpact.errors import InputError


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def refuse(number: int) -> int:
    if number == 1:
        raise InputError(f"not {number}")
    time.sleep(60)
    return number


def die(number: int) -> int:
    os._exit(9)


def begin_and_wait(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def test_every_task_comes_back_with_its_result_from_other_processes():
    found = dict(work(square, list(range(5)), 2))
    assert {task: result for task, (result, _) in found.items()} == {i: i * i for i in range(5)}
    assert os.getpid() not in {process for _, process in found.values()}
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("tasks", "workers"), [([1, 2], 1), ([3], 4), ([], 2)])
def test_one_worker_or_one_task_needs_no_process(tasks, workers):
    assert list(work(square, tasks, workers)) == [(task, (task * task, os.getpid())) for task in tasks]


def test_the_first_failure_ends_all():
    with pytest.raises(InputError, match="not 1"):
        list(work(refuse, [0, 1], 2))
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_is_told():
    with pytest.raises(InputError, match="ended from outside, perhaps for want of memory"):
        list(work(die, [0, 1], 2))


def test_no_process_outlives_a_parent_that_is_killed(tmp_path):
    script = (
        "import sys; from pathlib import Path; from test_workers import begin_and_wait; from headimpact.engine.workers "
        "import work; folder = Path(sys.argv[1]); list(work(begin_and_wait, [folder, folder], 2))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen([sys.executable, "-c", script, tmp_path], env=os.environ | {"PYTHONPATH": path})
    while len(children := list(tmp_path.iterdir())) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([psutil.Process(int(c.name)) for c in children if psutil.pid_exists(int(c.name))], 20)
    assert not alive
