"""Setups and models that are not in the grid: jobs of their own, which DVC knows like the grid's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from small_graph import MODEL, ran, run, run_grid, set_value

from headimpact.errors import InputError
from headimpact.lifecycle import graph, layout
from headimpact.lifecycle.config import Job
from headimpact.lifecycle.params import load

After = Callable[[str], None]


OUTSIDE = Job(MODEL, "layers:1,2")


def test_a_setup_outside_of_the_grid(after: After, monkeypatch: pytest.MonkeyPatch) -> None:
    after("finetune")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
    run("finetune", OUTSIDE)
    cell = f"{MODEL}-layers-1-2"
    finetune, evaluate = (f"jobs/dvc.yaml:{step}-{cell}" for step in ("finetune", "evaluate"))
    assert Path("log.txt").read_text().splitlines() == [
        f"jobs/dvc.yaml:select-{cell} run=None",
        f"{finetune} run=0123",
        f"{evaluate} run=0123",
    ]
    ran()
    graph.reproduce([evaluate])
    assert ran() == []
    set_value(r"mask_threshold: 0.5", "mask_threshold: 0.4")
    assert set(graph.stale([evaluate])) == {f"score@{MODEL}"}
    run("finetune", OUTSIDE)
    assert [name for name in ran() if "original" not in name] == [
        f"score@{MODEL}",
        f"jobs/dvc.yaml:select-{cell}",
        finetune,
        evaluate,
    ]


def test_a_setup_by_measures_has_them_made(after: After) -> None:
    after("score")
    run("select", Job(MODEL, "knockout-4"))
    assert f"measure@{MODEL}" in ran()
    set_value("images: 100", "images: 50")
    assert graph.stale([f"jobs/dvc.yaml:select-{MODEL}-knockout-4"]) == [f"measure@{MODEL}"]


def test_a_model_outside_of_the_grid(after: After) -> None:
    job = Job("smolvlm", "top-4")
    after("data")
    run("finetune", job)
    below = [name for name in ran() if "smolvlm" in name and MODEL not in name]
    assert below[-1] == "jobs/dvc.yaml:evaluate-smolvlm-top-4"
    assert set(below[:-1]) == {
        "jobs/dvc.yaml:finetune-smolvlm-top-4",
        "jobs/dvc.yaml:identify-smolvlm",
        "jobs/dvc.yaml:score-smolvlm",
        "jobs/dvc.yaml:select-smolvlm-top-4",
        "jobs/dvc.yaml:select-smolvlm-original",
        "jobs/dvc.yaml:finetune-smolvlm-original",
        "jobs/dvc.yaml:evaluate-smolvlm-original",
    }
    layout.selection("smolvlm", "top-4").write_text("mine")
    assert graph.stale(["jobs/dvc.yaml:finetune-smolvlm-top-4"]) == [
        "jobs/dvc.yaml:finetune-smolvlm-top-4",
        "jobs/dvc.yaml:select-smolvlm-top-4",
    ]


def test_repro_makes_the_rest_of_the_grid_and_a_second_one_nothing(after: After) -> None:
    """And what was asked for by name, since the report of the grid shows it."""
    after("finetune")
    run("finetune", OUTSIDE)
    ran()
    set_value(r"  lr: [\d.]+\n  max_grad", "  lr: 0.01\n  max_grad")
    config = load(layout.PARAMS)
    expected = {"report", "tournament", f"measure@{MODEL}", f"examine@{MODEL}", f"select@{MODEL}-full"}
    for setup in ("original", "top-4", "full"):
        expected |= {f"{step}@{MODEL}-{setup}" for step in ("finetune", "evaluate", "answer")}
    expected |= {f"jobs/dvc.yaml:{step}-{MODEL}-layers-1-2" for step in ("finetune", "evaluate")}
    assert run_grid(config) == len(expected)
    assert set(ran(sources=True)) == expected
    assert run_grid(config) == 0
    assert ran() == []


def test_a_job_that_comes_into_the_grid_leaves_the_jobs(after: After) -> None:
    after("score")
    run("select", OUTSIDE)
    run("select", Job(MODEL, "bottom-4"))
    assert set(yaml.safe_load(layout.JOBS.read_text())["stages"]) == {
        f"select-{MODEL}-bottom-4",
        f"select-{MODEL}-layers-1-2",
    }
    set_value(r"  - full\n(?=[a-z])", "  - full\n  - bottom-4\n")
    run("select", Job(MODEL, "bottom-4"))
    assert set(yaml.safe_load(layout.JOBS.read_text())["stages"]) == {f"select-{MODEL}-layers-1-2"}


def test_damaged_jobs_are_told(project: Path) -> None:
    layout.JOBS.parent.mkdir()
    layout.JOBS.write_text("stages: [1]")
    with pytest.raises(InputError, match=r"jobs/dvc\.yaml is damaged.*Remove it"):
        run("select", OUTSIDE)
