"""DVC's own files and locks."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from headimpact.errors import InputError
from headimpact.lifecycle import graph

STAGES = {f"stage-{number}": {"cmd": f"touch {number}", "outs": [str(number)]} for number in range(4)}
HOLDER = """
from dvc.repo import Repo
import time
with Repo(".", config={"core": {"no_scm": True}}).lock:
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for kind in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
        monkeypatch.setenv(f"DVC_{kind}_DIR", str(tmp_path / kind))
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}), encoding="utf-8")
    for number in range(4):
        Path(str(number)).write_text(str(number), encoding="utf-8")
    with graph.opened():
        for name in list(STAGES)[:-1]:
            graph.commit(name)
    return tmp_path


def recorded() -> set[str]:
    return set(yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"])


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGKILL])
def test_dvc_lock_is_whole_when_its_writing_is_cut_off(ended_by: signal.Signals) -> None:
    before = recorded()
    if (child := os.fork()) == 0:
        _commit_cut_off(ended_by)
    assert os.waitpid(child, 0)[1] != 0
    assert recorded() == before == set(list(STAGES)[:-1])
    graph.commit("stage-3")
    assert recorded() == set(STAGES)
    assert not list(Path().glob(".*.tmp"))


def _commit_cut_off(ended_by: signal.Signals) -> None:
    """Commit a stage in this process, which ends after a third of dvc.lock is written."""
    from dvc.utils.serialize import _yaml

    dump = _yaml._dump

    def cut_off(data: object, stream: object) -> None:
        dump(data, _Stream(stream, ended_by, Path("dvc.lock").stat().st_size // 3))

    _yaml._dump = cut_off
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        graph.commit("stage-3")
    finally:
        os._exit(1)


class _Stream:
    def __init__(self, stream, ended_by: signal.Signals, left: int) -> None:
        self.stream, self.ended_by, self.left = stream, ended_by, left

    def write(self, text: str) -> None:
        self.stream.write(text)
        self.left -= len(text)
        if self.left < 0:
            self.stream.flush()
            os.kill(os.getpid(), self.ended_by)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def test_dvc_lock_is_written_as_dvc_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of every kind among it: it is read in another way than DVC reads what it is about to change."""
    values = {"lr": 2.0e-3, "tiny": 1.0e-7, "text": "1e-4", "on": "yes", "none": None, "many": [1, 2.5, True]}
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    stages = {name: stage | {"params": [*values]} for name, stage in STAGES.items()}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    for name in stages:
        graph.commit(name)
    ours = Path("dvc.lock").read_bytes()
    monkeypatch.setattr(graph, "_files_parsed_cheaply", nullcontext)
    Path("dvc.lock").unlink()
    for name in stages:
        graph.commit(name)
    assert Path("dvc.lock").read_bytes() == ours


@pytest.fixture
def hold(root: Path):
    """Another process that holds DVC's lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_lock_of_another_command_is_waited_for(
    hold: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _instead_of_sleeping(monkeypatch, hold.kill)
    graph.commit("stage-3")
    assert recorded() == set(STAGES)
    assert f"DVC is at work in another process ({hold.pid}: " in capsys.readouterr().err


def test_a_lock_that_is_held_too_long_is_told(hold: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_PATIENCE", 0.0)
    _instead_of_sleeping(monkeypatch, lambda: None)
    with pytest.raises(InputError, match="Another command is at work; wait until it has ended"):
        graph.commit("stage-3")


def _instead_of_sleeping(monkeypatch: pytest.MonkeyPatch, done: Callable[[], object]) -> None:
    """DVC sleeps 6 times between tries of its own before it gives up, and so does who waits for it."""
    slept = itertools.count()
    monkeypatch.setattr("time.sleep", lambda seconds: done() if next(slept) == 6 else None)
