"""Direct runs that fail, are refused, or are one of several processes: what is told, and what is left alone."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_graph import MODEL, TOP, ran, run, run_grid

from headimpact import processes
from headimpact.errors import InputError
from headimpact.lifecycle import graph, layout, pipeline
from headimpact.lifecycle.config import Job
from headimpact.lifecycle.params import load
from headimpact.lifecycle.registry import STEPS
from headimpact.processes import Processes

PROJECT = Path(__file__).resolve().parents[2]
After = Callable[[str], None]


FIRST = r"failed to reproduce '(pretrain@tiny-smolvlm|download)'"


def test_a_failing_stage_ends_the_run(after: After) -> None:
    after("data")
    Path("fail").write_text("InputError")
    with pytest.raises(InputError, match=rf"(?s)^it failed\n{FIRST}. Nothing after it was run.$"):
        run("finetune")
    assert ran() == []
    Path("fail").unlink()
    run("score")
    assert sorted(ran()) == [f"identify@{MODEL}", f"pretrain@{MODEL}", f"score@{MODEL}"]


def test_a_failing_stage_ends_the_grid(project: Path) -> None:
    Path("fail").write_text("InputError")
    with pytest.raises(InputError, match=rf"(?s)^it failed\n{FIRST}. Nothing after it was run.$"):
        run_grid()
    Path("fail").write_text("1")
    with pytest.raises(InputError, match=r"failed to reproduce 'download': .*printed above"):
        graph.reproduce(["download"])  # a process
    assert ran() == []


def test_a_fault_of_ours_upstream_keeps_its_trace(project: Path) -> None:
    Path("fail").write_text("ZeroDivisionError")
    with pytest.raises(ZeroDivisionError, match="it failed"):
        run("score")


def test_an_interrupted_stage_interrupts_the_run(project: Path) -> None:
    Path("fail").write_text("KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        run("score")
    assert "DVC_STAGE" not in os.environ
    Path("fail").write_text("130")
    with pytest.raises(KeyboardInterrupt):
        graph.reproduce(["data"])


def test_a_folder_that_is_not_there_is_told_before_anything_runs(project: Path) -> None:
    for dataset in ("my/photos", "~/photos"):
        with pytest.raises(InputError, match=rf"params\.yaml: dataset: {dataset} is no folder"):
            run("data", dataset=dataset)
    assert ran(sources=True) == []


def test_of_several_processes_the_first_records_and_none_builds(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"(?s)stale: download\. Several processes.*dvc repro download"):
        run("ground")
    waited: list[str] = []
    monkeypatch.setattr(processes, "launched", lambda device: Processes(0, 2, lambda: waited.append(device)))
    monkeypatch.setenv("RANK", "1")
    assert run("ground") == []
    assert waited == ["auto"]
    assert ran(sources=True) == ["ground"]
    assert graph.stale(["ground"]) == ["download", "ground"]
    graph.reproduce(["download"])
    monkeypatch.setenv("RANK", "0")
    run("ground")
    assert waited == ["auto"] * 2
    assert graph.stale(["ground"]) == []


def test_an_edited_table_is_refused_and_left_alone(after: After) -> None:
    after("score")
    layout.impact_table(MODEL).write_text("mine")
    with pytest.raises(InputError, match=r"impact\.csv is not the table that was scored.*score --model tiny-smolvlm"):
        run("finetune")
    with pytest.raises(InputError, match=r"impact\.csv"):
        run_grid()
    assert layout.impact_table(MODEL).read_text() == "mine"
    run("score")  # makes it again
    run("select")


def test_an_edited_dataset_is_refused(after: After, monkeypatch: pytest.MonkeyPatch) -> None:
    after("score")

    def refuse(folder: Path) -> None:
        raise InputError(f"{folder} was edited")

    monkeypatch.setattr(pipeline.checking, "verify", refuse)
    run("score")  # DVC finds it as it was: its files are not read once more
    (layout.DATASET / "content").write_text("mine")
    with pytest.raises(InputError, match="data/dataset was edited"):
        run("score")
    assert (layout.DATASET / "content").read_text() == "mine"
    run("data")  # makes it again


def test_files_that_another_command_writes_are_refused(after: After) -> None:
    after("score")
    code = (
        "import sys, pathlib; from headimpact.lifecycle import graph\n"
        "with graph.locked([], [pathlib.Path('data/dataset')]): print('locked', flush=True); sys.stdin.read()"
    )
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match=r"(?s)Another command is at work.*data/dataset.*PID"):
            run("score")
        other.communicate("")
    run("score")
    assert ran() == [f"score@{MODEL}"]


def test_a_broken_graph_is_told(project: Path) -> None:
    layout.GRAPH.write_text("stages: {data: {}}")
    with pytest.raises(InputError, match=r"DVC: .*dvc\.yaml"):
        run("score")


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
@pytest.mark.parametrize("step", sorted(name for name, step in STEPS.items() if not step.shares))
def test_several_processes_are_refused_where_they_cannot_share(
    monkeypatch: pytest.MonkeyPatch, step: str, variable: str
) -> None:
    monkeypatch.setenv(variable, "2")
    with pytest.raises(InputError, match=f"{step} was started in 2 processes, which cannot share its work"):
        pipeline.run(step, load(PROJECT / "params.yaml"), TOP, False, lambda name: pytest.fail("it ran"))


@pytest.mark.parametrize(
    ("step", "job", "message"),
    [
        ("score", Job("smolvl", "top-4"), "unknown model 'smolvl'. Did you mean smolvlm.*tiny-qwen2-vl"),
        ("finetune", Job(MODEL, "top-0"), "top-0"),
    ],
)
def test_impossible_jobs(step: str, job: Job, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.check_job(step, load(PROJECT / "params.yaml"), job)
