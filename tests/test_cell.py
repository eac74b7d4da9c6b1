"""A cell from the layers to an adapter: what is adapted, what it is known by, and that it is alive."""

import dataclasses
from pathlib import Path

import pytest
from engines import engine_of
from family_facts import fresh, tiny

from headimpact.adapters import cell, lora
from headimpact.adapters.cell import Placement, TrainingData
from headimpact.adapters.training import Measurement, TrainSettings
from headimpact.data import coco
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine.watch import unwatched
from headimpact.evaluation.objects import evaluate

LORA = lora.LoraSettings(rank=2, alpha=4, targets=("q_proj", "k_proj", "v_proj"))
TRAIN = TrainSettings(
    seed=0,
    lr=1e-2,
    epochs=1,
    batch_images=2,
    gradient_checkpointing=False,
    warmup_share=0.2,
    weight_decay=0.0,
    max_grad_norm=1.0,
    evals_per_epoch=1,
    patience=9,
    checkpoint_steps=1,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 1, "train": 2, "val": 2, "test": 2}, seed=0)
    return folder


def test_what_a_selection_adapts():
    assert cell.placement([1, 3], [], 0, 8) == Placement((1, 3))
    assert cell.placement([1, 3], [(1, 0), (3, 2)], 0, 8) == Placement((1, 3), ((1, 0), (3, 2)))
    assert cell.placement(range(3), [], 1, 5) == Placement((0, 1, 2), (), {0: 1, 1: 2, 2: 2})
    assert cell.placement(range(4), [], 1, 2) == Placement((1, 3), (), {1: 1, 3: 1})


@pytest.mark.parametrize(
    "chosen",
    [Placement((1, 3)), Placement((1,), ((1, 0),)), Placement((0, 2), (), {0: 1, 2: 3})],
    ids=["layers", "heads", "ranks"],
)
def test_a_cell_trains_what_was_chosen_and_moves_the_results(chosen: Placement, folder: Path, tmp_path: Path):
    engine = engine_of(fresh("idefics3"))
    data = TrainingData(coco.read_part(folder, "train"), coco.read_part(folder, "val"))
    test = [*coco.read_part(folder, "train"), *coco.read_part(folder, "test")]
    before = evaluate(engine, test, 0, unwatched)
    steps, firsts = [], []

    def watch(items, total, what):
        steps.append((total, what))
        for item in items:
            firsts.append(engine.first)
            yield item

    peft_model, history = cell.train_adapter(engine, chosen, LORA, TRAIN, data, tmp_path / "state", "same", watch)
    assert lora.adapted_modules(peft_model) == sorted(engine.vlm.projections(chosen.layers, LORA.targets))
    assert firsts == [min(chosen.layers)]  # what lies below is frozen while the adapter trains ...
    assert engine.first == 0  # ... and no longer
    assert steps == [(1, "training")]
    assert {measured.metric for measured in history} == {"train/loss", "train/lr", "val/perplexity"}
    after = evaluate(engine, test, 0, unwatched)
    assert after["object_id"].tolist() == before["object_id"].tolist()
    assert (after["nll"] != before["nll"]).any()


def test_an_adapter_that_learned_nothing_is_refused(folder: Path, tmp_path: Path):
    engine = engine_of(fresh("idefics3"))
    data = TrainingData(coco.read_part(folder, "train"), coco.read_part(folder, "val"))
    settings = dataclasses.replace(TRAIN, lr=1e-30)
    with pytest.raises(lora.DeadAdapterError, match="does not change the logits"):
        cell.train_adapter(engine, Placement((1,)), LORA, settings, data, tmp_path / "state", "same", unwatched)


def test_a_cell_is_known_by_all_that_decides_it():
    vlm = tiny("idefics3")
    known = (Placement((1, 3)), LORA, TRAIN, {"base": "a"})
    others = [
        (Placement((1, 4)), LORA, TRAIN, {"base": "a"}),
        (Placement((1, 3), ((1, 0), (3, 0))), LORA, TRAIN, {"base": "a"}),
        (Placement((1, 3), (), {1: 1, 3: 2}), LORA, TRAIN, {"base": "a"}),
        (Placement((1, 3)), dataclasses.replace(LORA, rank=3), TRAIN, {"base": "a"}),
        (Placement((1, 3)), LORA, dataclasses.replace(TRAIN, seed=1), {"base": "a"}),
        (Placement((1, 3)), LORA, TRAIN, {"base": "b"}),
    ]
    fingerprints = {cell.training_fingerprint(vlm, *values) for values in (known, *others)}
    assert len(fingerprints) == 1 + len(others)
    seldom = dataclasses.replace(TRAIN, checkpoint_steps=50)
    assert cell.training_fingerprint(vlm, known[0], LORA, seldom, known[3]) == cell.training_fingerprint(vlm, *known)


def test_a_step_tells_its_loss_and_the_last_validation() -> None:
    measured = [("val/perplexity", 4.5), ("train/loss", 2.0), ("train/lr", 0.1), ("val/perplexity", 3.25)]
    measured += [("train/loss", 1.5)]
    told = cell.steps(Measurement(step, 0.0, metric, value) for step, (metric, value) in enumerate(measured))
    assert list(map(str, told)) == [
        "loss 2.000, validation perplexity 4.500",
        "loss 1.500, validation perplexity 3.250",
    ]
    assert str(cell.Step(2.0, None)) == "loss 2.000"
