"""Runs of a tournament that are made one after the other in one process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from family_facts import fresh

from headimpact.adapters.cell import Placement
from headimpact.data.scene_dataset import write_scenes
from headimpact.errors import InputError
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.steps import tournament
from headimpact.lifecycle.steps.tournament import Task
from headimpact.tiny import bases
from headimpact.tournament import contest
from headimpact.tournament.contest import ORIGINAL, Run
from headimpact.vlm import loading

RUNS = [ORIGINAL, Run(Placement((0, 2)), 1), Run(Placement((1, 3)), 2), Run(Placement((0, 2)), 3)]


@pytest.fixture
def config(project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """A small dataset and a tiny base in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_scenes(layout.DATASET, {"impact": 1, "train": 4, "val": 2, "test": 2}, seed=0)
    for name, seed in (("one", 0), ("two", 1)):
        bases.save(fresh("idefics3", seed), tmp_path / name)
    values = yaml.safe_load((project_root / "params.yaml").read_text())
    values["models"] = {name: {"source": name, "revision": None} for name in ("one", "two")}
    values["train"] |= {"epochs": 1, "batch_images": 2, "lr": 1.0e-2}
    values["model"], values["grid"]["models"], values["tournament"]["models"] = "one", ["one"], ["one", "two"]
    values["compute"] |= {"device": "cpu", "dtype": "float32"}
    yield Config.model_validate(values)
    tournament._ground.cache_clear()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded from now on."""
    loaded: list[str] = []
    load = loading.load
    monkeypatch.setattr(loading, "load", lambda source, *rest: loaded.append(source) or load(source, *rest))
    return loaded


def task(config: Config, run: Run, model: str = "one") -> Task:
    return Task(config, model, None, f"context of {model}", {}, run, threads=1)


def test_a_base_is_loaded_once_and_every_run_is_what_it_is_alone(config, loads):
    alone = {}
    for run in RUNS:
        tournament._ground.cache_clear()
        alone[run.key] = tournament._make(task(config, run))
        tournament._state(task(config, run)).unlink(missing_ok=True)
    assert loads == ["one"] * len(RUNS)
    tournament._ground.cache_clear()
    loads.clear()
    for run in (*RUNS, *RUNS[::-1], RUNS[2], ORIGINAL):
        trainable, objects = tournament._make(task(config, run))
        tournament._state(task(config, run)).unlink(missing_ok=True)
        assert trainable == alone[run.key][0]
        assert objects.to_csv().encode() == alone[run.key][1].to_csv().encode()
        assert objects.equals(alone[run.key][1])
    assert loads == ["one"]
    assert len({objects.to_csv() for _, objects in alone.values()}) == len(RUNS)


def test_whole_layers_have_as_many_parameters_and_other_results(config):
    some, whole = (Run(Placement((0, 2)), 1, whole) for whole in (False, True))
    (trainable, objects), (of_whole, on_whole) = (tournament._make(task(config, run)) for run in (some, whole))
    assert of_whole == trainable
    assert not on_whole["nll"].equals(objects["nll"])
    assert contest.Key("0,2", "whole", 1) == whole.key


def test_another_model_or_context_is_loaded(config, loads):
    tournament._make(task(config, ORIGINAL))
    _, two = tournament._make(task(config, ORIGINAL, "two"))
    changed = Task(config, "two", None, "another context", {}, ORIGINAL, threads=1)
    assert tournament._make(changed)[1].equals(two)
    assert loads == ["one", "two", "two"]


def test_a_base_on_which_a_run_failed_is_not_used_again(config, loads, monkeypatch):
    tournament._make(task(config, ORIGINAL))

    def fail(*arguments):
        raise InputError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(tournament, "evaluate", fail)
        with pytest.raises(InputError, match="no memory"):
            tournament._make(task(config, RUNS[1]))
    trainable, _ = tournament._make(task(config, ORIGINAL))
    assert trainable == 0
    assert loads == ["one", "one"]
