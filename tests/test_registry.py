"""The entries of the steps agree with the code, with the layout, and with each other."""

import ast
import inspect
from pathlib import Path

import pytest

from headimpact.lifecycle import layout
from headimpact.lifecycle.registry import COMMANDS, STEPS, Place, Step, locate

MODEL, SETUP = "some-model", "layers:1,2"


def written(step: Step) -> list[Path]:
    return [locate(place, MODEL, SETUP) for place in step.writes]


@pytest.mark.parametrize("name", STEPS)
def test_every_step_has_a_file_with_its_function(name: str, project_root: Path) -> None:
    """Read and not imported, which takes a minute."""
    step = STEPS[name]
    assert step.name == name
    content = project_root.joinpath("src", *step.module.split(".")).with_suffix(".py").read_text()
    functions = {node.name: node for node in ast.parse(content).body if isinstance(node, ast.FunctionDef)}
    assert [argument.arg for argument in functions["run"].args.args] == ["config", "job"]


@pytest.mark.parametrize("name", [*STEPS, *COMMANDS])
def test_help_is_one_sentence(name: str) -> None:
    text = (STEPS.get(name) or COMMANDS[name]).help
    assert text[0].isupper()
    assert text.endswith(".")
    assert "\n" not in text


def test_no_name_is_taken_twice() -> None:
    assert not set(STEPS) & set(COMMANDS)


@pytest.mark.parametrize("name", STEPS)
def test_places_are_those_of_the_layout(name: str) -> None:
    paths = {value for value in vars(layout).values() if isinstance(value, Path)}
    paths |= {layout.tournament(), *map(layout.made, STEPS)}
    places: list[Place] = [*STEPS[name].writes, *(read.place for read in STEPS[name].reads)]
    for place in places:
        if isinstance(place, Path):
            assert place in paths
        else:
            assert getattr(layout, place.__name__) is place


@pytest.mark.parametrize("name", STEPS)
def test_what_a_step_writes_is_its_own_for_every_job(name: str) -> None:
    """A path for every job it is run for: otherwise one job would remove what another one wrote."""
    step = STEPS[name]
    arguments = {"project": 0, "model": 1, "setup": 2}[step.per]
    for place in step.writes:
        assert (0 if isinstance(place, Path) else len(inspect.signature(place).parameters)) == arguments
    others = [path for other in STEPS.values() if other is not step for path in written(other)]
    for path in written(step):
        assert not any(path == other or path in other.parents or other in path.parents for other in others), path


@pytest.mark.parametrize("name", STEPS)
def test_what_a_step_reads_is_written_by_the_step_that_it_names_and_that_comes_first(name: str) -> None:
    order = list(STEPS)
    for read in STEPS[name].reads:
        assert order.index(read.step) < order.index(name)
        path, outs = locate(read.place, MODEL, SETUP), written(STEPS[read.step])
        within = any(path == out or out in path.parents for out in outs)
        around = any(path in out.parents for out in outs)  # those of all models, or of all models and setups
        assert within or around, path
        assert within or STEPS[read.step].per != "project"


@pytest.mark.parametrize("name", STEPS)
def test_the_files_of_many_are_folders_of_them_all(name: str) -> None:
    for read in STEPS[name].reads:
        if read.among != "job":
            assert STEPS[name].per == "project"
            assert isinstance(read.place, Path)


def test_what_goes_on_after_an_interruption_or_is_committed_stays_between_runs() -> None:
    """DVC removes the outputs of other stages before it runs them."""
    kept = {name for name, step in STEPS.items() if step.in_git}
    assert kept == {"download", "ground", "segment", "pretrain", "identify", "tournament", "report"}


def test_steps_that_compute_with_a_base_read_its_identity() -> None:
    assert {name for name, step in STEPS.items() if step.runs_base} == {
        "score",
        "measure",
        "examine",
        "finetune",
        "soften",
        "evaluate",
        "answer",
        "tournament",
    }


@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.code is not None])
def test_code_that_is_named_exists(name: str, project_root: Path) -> None:
    for module in STEPS[name].code or ():
        path = project_root.joinpath("src/headimpact", *module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module


@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.then])
def test_the_step_that_follows_reads_what_this_one_wrote(name: str) -> None:
    step = STEPS[name]
    following = STEPS[str(step.then)]
    assert following.per == step.per
    instead = {"soften": "finetune"}  # its adapter stands in the place of a trained one
    assert instead.get(name, name) in {read.step for read in following.reads}


def test_a_place_of_a_model_or_a_setup() -> None:
    assert locate(layout.DATASET, MODEL, SETUP) == layout.DATASET
    assert locate(layout.impact, MODEL, SETUP) == Path("outputs/impact/some-model")
    assert locate(layout.selection, MODEL, SETUP) == Path("outputs/selection/some-model/layers-1-2.json")
