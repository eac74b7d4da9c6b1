"""What is written from the registry: the graph of DVC, MLflow's entry points, docs/commands.md."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from headimpact.lifecycle import layout, written
from headimpact.lifecycle.config import Grid
from headimpact.lifecycle.documentation import documentation
from headimpact.lifecycle.registry import COMMANDS, STEPS, Step
from headimpact.lifecycle.values import overridable, tracked_keys

GRID = Grid(models=("tiny-smolvlm", "smolvlm"), setups=("original", "top-4", "full"))
IN_GRID = [name for name, step in STEPS.items() if step.in_grid]


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    return yaml.safe_load(written.graph(GRID))["stages"]


@pytest.fixture(scope="module")
def page() -> str:
    return written.commands_page()


def _section(page: str, title: str) -> str:
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_step_has_a_stage(stages: dict[str, Any]) -> None:
    assert list(stages) == IN_GRID
    assert set(STEPS) - set(IN_GRID) == {"soften"}


def test_a_stage_of_the_project(stages: dict[str, Any]) -> None:
    assert stages["data"] == {
        "cmd": "PYTHONPATH=src python -m headimpact data",
        "deps": ["data/download.json", "data/segment.json"],
        "params": [*tracked_keys(STEPS["data"]), {"fingerprints.json": ["steps.data"]}],
        "outs": ["data/dataset", "outputs/data"],
    }


def test_a_stage_of_every_model(stages: dict[str, Any]) -> None:
    assert stages["score"] == {
        "matrix": {"model": "${grid.models}"},
        "cmd": "PYTHONPATH=src python -m headimpact score --model ${item.model}",
        "deps": ["data/dataset", "models/identities/${item.model}.json"],
        "params": [
            *tracked_keys(STEPS["score"]),
            {"fingerprints.json": ["steps.score", "families.${item.model}"]},
        ],
        "outs": ["outputs/impact/${item.model}"],
    }
    assert stages["pretrain"]["matrix"] == {"model": "${pretrain.models}"}
    assert stages["identify"]["params"][0] == "models.${item.model}"  # not those of the other models


def test_a_stage_of_every_model_and_setup(stages: dict[str, Any]) -> None:
    assert stages["finetune"] == {
        "matrix": {"model": "${grid.models}", "setup": "${grid.setups}"},
        "cmd": "PYTHONPATH=src python -m headimpact finetune --model ${item.model} --setup ${item.setup}",
        "deps": [
            "data/dataset",
            "models/identities/${item.model}.json",
            "outputs/selection/${item.model}/${item.setup}.json",
        ],
        "params": [
            *tracked_keys(STEPS["finetune"]),
            {"fingerprints.json": ["steps.finetune", "families.${item.model}"]},
        ],
        "outs": ["outputs/finetune/${item.model}/${item.setup}"],
    }


@pytest.mark.parametrize("name", IN_GRID)
def test_what_is_in_git_stays_and_has_no_copy_in_the_cache(stages: dict[str, Any], name: str) -> None:
    for out in stages[name]["outs"]:
        if STEPS[name].in_git:
            assert list(out.values()) == [{"cache": False, "persist": True}]
        else:
            assert isinstance(out, str)


@pytest.mark.parametrize("name", IN_GRID)
def test_a_stage_depends_on_the_code_of_its_step_and_of_the_families_it_runs(stages: dict[str, Any], name: str) -> None:
    step = STEPS[name]
    # Those of a step that runs several bases are within its own fingerprint.
    families = ["families.${item.model}"] if step.runs_base and step.per != "project" else []
    assert stages[name]["params"][-1] == {"fingerprints.json": [f"steps.{name}", *families]}


def test_what_reads_the_files_of_all_models_waits_for_them(stages: dict[str, Any]) -> None:
    folders = {"outputs/impact", "outputs/measures"}
    assert folders | {"models/identities", "data/dataset"} == set(stages["tournament"]["deps"])
    assert folders < set(stages["report"]["deps"])


def test_a_stage_of_one_job() -> None:
    made = written.stage(STEPS["select"], "smolvlm", "layers:1,2", "layers-1-2", STEPS["tournament"].reads[-1:])
    assert made == {
        "cmd": "PYTHONPATH=src python -m headimpact select --model smolvlm --setup layers:1,2",
        "deps": ["outputs/impact/smolvlm/impact.csv", "outputs/impact/smolvlm/summary.json", "outputs/measures"],
        "params": ["seed", {"fingerprints.json": ["steps.select"]}],
        "outs": ["outputs/selection/smolvlm/layers-1-2.json"],
    }


def test_a_stage_has_no_empty_part() -> None:
    assert list(written.stage(STEPS["download"], "m", "s", "s")) == ["cmd", "params", "outs"]


def test_mlflow_runs_the_same_commands(stages: dict[str, Any]) -> None:
    project = yaml.safe_load(written.entry_points())
    entries = {name: entry["command"] for name, entry in project["entry_points"].items()}
    assert list(entries) == [*STEPS, *(name for name, command in COMMANDS.items() if command.entry_point)]
    assert {"plan", "main"} <= set(entries)
    for name, stage in stages.items():
        assert stage["cmd"].partition(" --")[0] == entries[name]
    # A default of their own would win over params.yaml.
    assert all(set(entry) == {"command"} for entry in project["entry_points"].values())
    assert project["conda_env"] == "conda.yaml"


@pytest.mark.parametrize("name", STEPS)
def test_the_page_says_of_a_step_what_it_does_reads_writes_and_takes(page: str, name: str) -> None:
    step, section = STEPS[name], _section(page, name)
    assert step.help in section
    assert ("--model" in section, "--setup" in section) == (step.per != "project", step.per == "setup")
    for out in _paths(step):
        assert f"`{out}`" in section
    rows = [row for row in section.splitlines() if row.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [parameter.key for parameter in overridable(name)]


def _paths(step: Step) -> list[str]:
    made = written.stage(step, "<model>", "<setup>", "<setup>")
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in made["outs"]]
    return [*outs, *made.get("deps", [])]


def test_the_page_has_every_command_and_every_value(page: str) -> None:
    for name, command in COMMANDS.items():
        assert command.help in _section(page, name)
    values = page.partition("## All values of params.yaml")[2]
    for parameter in documentation():
        assert f"| `{parameter.key}` |" in values
        assert parameter.meaning in values
    device = next(line for line in values.splitlines() if line.startswith("| `compute.device`"))
    assert r"auto \| cpu \| cuda \| mps" in device  # a bare | would end the cell


def test_only_what_is_not_as_it_should_be_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {layout.GRAPH: "stages: {}\n", layout.COMMANDS: "# Commands → steps\n"}
    assert written.write(contents) == [layout.GRAPH, layout.COMMANDS]
    assert {path: path.read_text(encoding="utf-8") for path in contents} == contents
    assert written.write(contents) == []
    layout.GRAPH.write_text("stages: []\n")
    assert written.write(contents) == [layout.GRAPH]
    assert layout.GRAPH.read_text() == contents[layout.GRAPH]


def test_the_files_that_follow_from_the_registry(monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.setattr(written, "commands_page", lambda: page)  # takes a second
    assert written.files(GRID) == {
        layout.GRAPH: written.graph(GRID),
        layout.ENTRY_POINTS: written.entry_points(),
        layout.COMMANDS: page,
    }


def test_metrics_pictures_and_curves_of_the_grid_are_shown_by_dvc() -> None:
    made = yaml.safe_load(written.graph(GRID))
    cells = [(model, setup) for model in GRID.models for setup in GRID.setups]
    assert made["metrics"] == [f"outputs/evaluation/{model}/{setup}/metrics.json" for model, setup in cells]
    assert made["plots"] == [
        "outputs/impact/tiny-smolvlm/heatmap.png",
        "outputs/impact/smolvlm/heatmap.png",
        *(
            {
                f"validation of {model}": {
                    "x": "step",
                    "y": {f"outputs/finetune/{model}/{setup}/history.csv": "value" for setup in ("top-4", "full")},
                    "template": "validation",
                }
            }
            for model in GRID.models
        ),
    ]


def test_what_is_shown_of_a_file_in_a_folder_starts_there_and_an_original_has_no_curve() -> None:
    assert written.shown([("smolvlm", "original")], Path("..")) == {
        "metrics": ["../outputs/evaluation/smolvlm/original/metrics.json"],
        "plots": ["../outputs/impact/smolvlm/heatmap.png"],
    }
    assert written.shown([]) == {}


def test_the_diagram_of_the_steps_has_every_step_and_leaves_out_what_follows() -> None:
    lines = written.diagram().splitlines()
    assert (lines[0], lines[1], lines[-1]) == ("```mermaid", "flowchart TD", "```")
    arrows = {tuple(line.split(" --> ")) for line in (text.strip() for text in lines[2:-1])}
    assert {name for arrow in arrows for name in arrow} == set(STEPS)
    assert {("score", "select"), ("select", "finetune"), ("finetune", "evaluate")} <= arrows
    assert ("data", "finetune") not in arrows  # it comes through score and select
