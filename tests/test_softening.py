"""Softening: which scale is chosen, and that what is saved at a scale is the adapter at that scale."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from engines import engine_of
from family_facts import fresh
from peft.helpers import rescale_adapter_scale
from test_lora import LAYERS, SETTINGS, header, logits, stir

from headimpact.adapters import lora, softening
from headimpact.data import coco
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine.watch import unwatched
from headimpact.errors import InputError
from headimpact.files import read_json, write_json
from headimpact.report import scales_figure
from headimpact.tiny import bases
from headimpact.vlm import loading

# ---- the choice


def by_scale(*changes: float, half: float = 0.0) -> pd.DataFrame:
    """A curve of accuracy alone, from scale 0 on, with intervals of one width above scale 0."""
    change = np.array([0.0, *changes])
    low = change - np.where(np.arange(len(change)) > 0, half, 0.0)
    return pd.DataFrame({"scale": np.arange(len(change)) / 10, "accuracy_difference": change, "accuracy_low": low})


@pytest.mark.parametrize(
    ("changes", "half", "chosen", "by_estimate"),
    [
        ((-0.01, -0.03, -0.06, -0.2), 0.0, 0.2, 0.2),  # the more, the worse
        ((-0.01, -0.03, -0.06, -0.2), 0.03, 0.1, 0.2),  # what can be claimed is less than what was seen
        ((-0.05, -0.04), 0.0, 0.2, 0.2),  # the bound itself is within
        ((-0.01, -0.2, 0.0, 0.01), 0.0, 0.1, 0.1),  # what is beyond a failure is not believed
        ((0.01, 0.02, 0.03), 0.02, 0.3, 0.3),  # nothing is forgotten: what was trained
        ((-0.3, -0.2, -0.4), 0.01, 0.0, 0.0),  # nothing is within
        ((0.0, 0.0), 0.2, 0.0, 0.2),  # and where nothing is known, neither
    ],
)
def test_the_largest_scale_within_the_bound_is_chosen(changes, half, chosen, by_estimate):
    assert softening.choose(by_scale(*changes, half=half), 0.05) == softening.Choice(chosen, by_estimate)


def test_a_bound_holds_nothing_back_where_the_original_knows_less():
    assert softening.can_forget(pd.DataFrame({"accuracy": [0.4, 0.1]}), 0.05)
    assert not softening.can_forget(pd.DataFrame({"accuracy": [0.05, 0.2]}), 0.05)


def test_a_curve_is_paired_with_scale_0_and_clustered_by_image():
    """Two objects an image: of eight answers the adapter loses two at scale 1, both of one image."""
    right = np.ones(8)
    tables = []
    for scale, correct, nll in ((1.0, np.where(np.arange(8) < 2, 0.0, 1.0), 0.5), (0.0, right, 1.0)):
        objects = {"scale": scale, "image_id": np.repeat(range(4), 2), "object_id": range(8)}
        tables.append(pd.DataFrame(objects | {"nll": nll, "correct": correct, "ans_prob": 0.5, "tokens": 3}))
    found = softening.curve(pd.concat(tables, ignore_index=True))
    assert found["scale"].tolist() == [0.0, 1.0]
    assert found["accuracy_difference"].tolist() == [0.0, -0.25]
    assert found["perplexity_difference"].tolist() == pytest.approx([0.0, np.exp(0.5) - np.exp(1.0)])
    half = 3.182446 * np.sqrt(4 / 3 * (1.5**2 + 3 * 0.5**2)) / 8  # t with 3 degrees of freedom
    assert found["accuracy_low"].iloc[1] == pytest.approx(-0.25 - half, rel=1e-6)
    assert found.loc[0, ["accuracy_low", "accuracy_high"]].tolist() == [0.0, 0.0]
    panel = scales_figure.Panel(found, 0.05, 0.0, {0.0: found.iloc[1], 0.1: found.iloc[0]})
    (axes,) = scales_figure.draw({"tiny top-4": panel}).axes
    assert {text.get_text() for text in axes.texts} == {"0", "1", "kl 0.1"}


# ---- an adapter at a scale


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A base and an adapter of ranks of its own, so that PEFT takes alpha from alpha_pattern."""
    folder = tmp_path_factory.mktemp("softening")
    bases.save(fresh("idefics3"), folder / "base")
    base = loading.load(str(folder / "base"), device="cpu", dtype="float32")
    peft_model = lora.attach(base, LAYERS, SETTINGS, seed=5, ranks={1: 1, 3: 2})
    stir(peft_model)
    lora.save(peft_model, folder / "adapter", header(base))
    return folder


def test_a_softened_adapter_is_the_trained_one_at_that_scale(root: Path, tmp_path: Path):
    softening.save(root / "adapter", tmp_path / "soft", 0.7, header_of(root) | {"scale": 0.7})
    base = loading.load(str(root / "base"), device="cpu", dtype="float32")
    original = logits(base)
    peft_model = lora.load(base, root / "adapter")
    trained = logits(base)
    with rescale_adapter_scale(peft_model, 0.7):
        expected = logits(base)
    lora.detach(peft_model)
    lora.load(base, tmp_path / "soft")
    torch.testing.assert_close(logits(base), expected, atol=1e-6, rtol=1e-6)
    assert (expected - trained).abs().max() > 1e-3
    assert (expected - original).abs().max() > 1e-3
    config, before = (read_json(folder / "adapter_config.json") for folder in (tmp_path / "soft", root / "adapter"))
    assert {name for name in before if config[name] != before[name]} == {"lora_alpha", "alpha_pattern"}
    assert read_json(tmp_path / "soft" / "header.json")["scale"] == 0.7


def header_of(root: Path) -> dict:
    return read_json(root / "adapter" / "header.json")


def test_at_scale_0_the_base_is_the_original_and_what_is_frozen_is_computed_once(
    root: Path, tmp_path: Path, monkeypatch
):
    write_scenes(tmp_path / "scenes", {"impact": 1, "train": 1, "val": 3, "test": 1}, seed=0)
    samples = coco.read_part(tmp_path / "scenes", "val")
    base = loading.load(str(root / "base"), device="cpu", dtype="float32")
    monkeypatch.setattr(softening, "SCALES", (0.0, 1.0))
    engine, peft_model = engine_of(base), lora.load(base, root / "adapter")
    engine.first = 1
    found = softening.evaluate_scales(engine, samples, 0, lambda scale: unwatched)
    assert found["scale"].tolist() == sorted(found["scale"])
    states = engine.frozen.computed
    again = softening.evaluate_scales(engine, samples, 0, lambda scale: unwatched)
    assert engine.frozen.computed == states
    pd.testing.assert_frame_equal(again, found)
    nll = found.groupby("scale")["nll"].apply(np.array)
    with lora.disabled(peft_model):
        original = softening.evaluate(engine, samples, 0, unwatched)["nll"].to_numpy()
    np.testing.assert_allclose(nll[0.0], original, rtol=1e-5)
    assert np.abs(nll[1.0] - original).max() > 1e-2


def test_without_questions_no_scale_is_chosen(root: Path, monkeypatch):
    base = loading.load(str(root / "base"), device="cpu", dtype="float32")
    lora.load(base, root / "adapter")
    without = pd.DataFrame({"image_id": [1, 2], "object_id": [1, 2], "nll": 1.0, "correct": pd.array([None, True])})
    monkeypatch.setattr(softening, "evaluate", lambda *arguments: without.copy())
    with pytest.raises(InputError, match=r"^Forgetting cannot be measured: fewer than two validation images"):
        softening.evaluate_scales(engine_of(base), [], 0, lambda scale: unwatched)


def test_dora_is_refused(root: Path, tmp_path: Path):
    write_json(
        tmp_path / "adapter_config.json", read_json(root / "adapter" / "adapter_config.json") | {"use_dora": True}
    )
    with pytest.raises(InputError, match="is a DoRA adapter, which is not the original at scale 0"):
        softening.check(tmp_path)
