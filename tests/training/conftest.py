"""A small dataset to train on, and a run on it that nobody disturbed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from training_runs import Finished, adapter_digest, prepare

from headimpact.adapters.training import Training
from headimpact.data import coco
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 1, "train": 4, "val": 2, "test": 1}, seed=0)
    return folder


@pytest.fixture(scope="session")
def parts(folder) -> tuple[list[Sample], list[Sample]]:
    """Four images to train on, with 2 to 4 objects each, and two to validate on."""
    return coco.read_part(folder, "train"), coco.read_part(folder, "val")


@pytest.fixture
def start(parts, tmp_path) -> Callable[..., Training]:
    """Prepare a run whose checkpoint lies in the test's own folder."""
    return lambda **changes: prepare(parts, tmp_path / "state", **changes)


@pytest.fixture(scope="session")
def undisturbed(parts, tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = prepare(parts, folder / "state")
    history = list(run.run())
    assert [r.metric for r in history if r.step == 2] == ["train/loss", "train/lr", "val/perplexity"]
    assert [r.step for r in history if r.metric == "val/perplexity"] == [0, 2, 4, 6]
    return Finished(history, adapter_digest(run, folder))
