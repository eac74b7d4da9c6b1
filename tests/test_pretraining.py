"""Pretraining of the tiny bases: all phases run, what is killed goes on to the same bytes."""

import collections
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from headimpact import files
from headimpact.engine import checkpoints
from headimpact.tiny import bases, losses, pretraining
from headimpact.tiny.pretraining import PHASES, Measurement, Pretraining, Recipe
from headimpact.tiny.seen_scenes import ATTRIBUTES

RECIPE = Recipe(
    seed=7,
    held_out=3,
    batch_images=2,
    vision_batch_images=2,
    questions=2,
    language_steps=3,
    vision_steps=2,
    joint_steps=3,
    language_lr=2e-3,
    vision_lr=2e-3,
    joint_lr=1e-3,
    checkpoint_steps=2,
    evaluation_steps=2,
)


@pytest.fixture(scope="module", autouse=True)
def shallow() -> Iterator[None]:
    """Bases of few layers, for time; of the decoder's, the one in the middle is judged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bases, "LAYERS", 3)
        patch.setattr(bases, "VISION_LAYERS", 2)
        patch.setattr(losses, "JUDGED_LAYER", 1)
        yield


def prepare(checkpoint: Path, name="tiny-smolvlm", **changes) -> Pretraining:
    recipe = dataclasses.replace(RECIPE, **changes)
    return Pretraining(bases.build(name, recipe.seed), recipe, checkpoint)


def kill_after(run: Pretraining, measurements: int) -> None:
    collections.deque(itertools.islice(run.run(), measurements), maxlen=0)


def base_digest(run: Pretraining, folder: Path) -> str:
    bases.save(run.vlm, folder / "base")
    return files.digest_folder(folder / "base")


# ---- the run


@pytest.mark.parametrize("name", bases.TINY)
def test_all_phases_train_what_is_theirs(tmp_path, name):
    run = prepare(tmp_path / "state", name)
    start = snapshot(run)
    states = {}
    for measured in run.run():
        assert np.isfinite(measured.value)
        states[measured.phase] = snapshot(run)  # of the last measurement: the phase's end
    assert list(states) == list(PHASES)

    parts = [part_of(run, key) for key in start]
    assert set(parts) == {"decoder", "vision", "attributes", "truth"}
    before = start
    for phase, trained in (
        ("language", {"decoder", "truth"}),
        ("vision", {"vision", "attributes"}),
        ("joint", {"decoder", "vision", "attributes", "truth"}),
    ):
        after = states[phase]
        moved = {part for key, part in zip(start, parts, strict=True) if not torch.equal(before[key], after[key])}
        assert moved == trained
        before = after


def snapshot(run: Pretraining) -> dict[str, torch.Tensor]:
    model = {f"model.{k}": p.detach().clone() for k, p in run.vlm.model.named_parameters()}
    return model | {f"probes.{k}": p.detach().clone() for k, p in run.probes.named_parameters()}


def part_of(run: Pretraining, key: str) -> str:
    owner, name = key.split(".", 1)
    if owner == "probes":
        return name.split(".")[0]
    return "decoder" if name.startswith(run.vlm.decoder_path) else "vision"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[list[Measurement], str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = prepare(folder / "state")
    return list(run.run()), base_digest(run, folder)


def test_the_learning_curve(undisturbed):
    history, _ = undisturbed
    curve = [(r.phase, r.step) for r in history if r.metric == "loss"]
    assert curve == [
        *(("language", step) for step in (1, 2, 3)),
        *(("vision", step) for step in (1, 2)),
        *(("joint", step) for step in (1, 2, 3)),
    ]
    measured = collections.defaultdict(set)
    for measurement in history:
        if measurement.metric != "loss":
            measured[measurement.phase, measurement.step].add(measurement.metric)
    spoken, seen = {"accuracy", "perplexity"}, set(ATTRIBUTES)
    assert measured == {
        ("language", 2): spoken,
        ("language", 3): spoken,
        ("vision", 2): spoken | seen,
        ("joint", 2): spoken | seen,
        ("joint", 3): spoken | seen,
    }
    shares = [r.value for r in history if r.metric not in ("loss", "perplexity")]
    assert all(0 <= value <= 1 for value in shares)


# Measurements: language 1 + 3 + 3, vision 1 + 8, joint 1 + 8 + 8; a checkpoint behind the second step of each phase.
@pytest.mark.parametrize(
    ("killed_after", "saved", "goes_on_with"),
    [
        ([2], None, ("language", 0)),  # before the first checkpoint
        ([8], ("language", 2), ("language", 2)),  # in the next phase, whose first checkpoint is not there yet
        ([17], ("vision", 2), ("joint", 0)),  # between two phases
        ([5, 17, 27], ("joint", 2), ("joint", 2)),  # again and again
    ],
)
def test_a_killed_run_ends_with_the_same_bytes(undisturbed, tmp_path, killed_after, saved, goes_on_with):
    for measurements in killed_after:
        kill_after(prepare(tmp_path / "state"), measurements)
    if saved is None:
        assert not (tmp_path / "state").exists()
    else:
        state = checkpoints.load(tmp_path / "state")[2]
        assert (state["phase"], state["step"]) == saved
    run = prepare(tmp_path / "state")
    worked, real = [], run.loss
    run.loss = lambda phase, step: worked.append((phase, step)) or real(phase, step)
    assert list(run.run()) == undisturbed[0]
    assert worked[0] == goes_on_with
    assert base_digest(run, tmp_path) == undisturbed[1]


def test_a_changed_recipe_starts_over(undisturbed, tmp_path):
    kill_after(prepare(tmp_path / "state", language_lr=1e-2), 17)
    run = prepare(tmp_path / "state")
    assert list(run.run()) == undisturbed[0]
    assert base_digest(run, tmp_path) == undisturbed[1]


def test_no_scene_is_shown_twice(tmp_path, monkeypatch):
    run = prepare(tmp_path / "state", language_steps=2, vision_steps=2, joint_steps=2)
    drawn = [*range(40_000_000, 40_000_000 + RECIPE.held_out)]
    real = pretraining.see
    monkeypatch.setattr(pretraining, "see", lambda *args: drawn.append(args[-1]) or real(*args))
    collections.deque(run.run(), maxlen=0)
    assert len(drawn) == RECIPE.held_out + 3 * 2 * 2
    assert len(set(drawn)) == len(drawn)


def test_contrast_belongs_to_the_joint_phase(tmp_path, monkeypatch):
    run = prepare(tmp_path / "state")
    shares = []
    real = pretraining.converse
    monkeypatch.setattr(pretraining, "converse", lambda *args: shares.append(args[-1]) or real(*args))
    for phase in ("language", "joint"):
        run.loss(phase, 0)
    assert shares == [0.0, 0.0, pretraining.CONTRAST_SHARE, pretraining.CONTRAST_SHARE]  # two scenes a batch


def test_muon_trains_the_matrices_of_hidden_layers(tmp_path):
    run = prepare(tmp_path / "state", "tiny-qwen2-vl")
    muon, adam = run._optimizers(run._parameters("joint"), 1e-3)
    names = {id(p): k for k, p in run._parameters("joint").items()}
    by_muon, by_adam = (
        {names[id(p)] for group in optimizer.param_groups for p in group["params"]} for optimizer in (muon, adam)
    )
    assert by_muon | by_adam == set(names.values())
    assert not by_muon & by_adam
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in by_muon
    assert "model.visual.merger.mlp.0.weight" in by_muon
    assert "model.language_model.embed_tokens.weight" in by_adam
    assert {"probes.truth.weight", "probes.attributes.shape.weight"} <= by_adam
    assert not any("norm" in name or name.endswith("bias") for name in by_muon)
