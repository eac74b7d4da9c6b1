"""Scoring against the obvious way: eager attention maps of one conversation at a time, loops over heads."""

import dataclasses
from pathlib import Path

import numpy as np
import obvious
import pandas as pd
import pytest
import torch
from engines import count_forwards, engine_of
from family_facts import tiny
from PIL import Image
from scipy import stats

from headimpact.data import coco
from headimpact.data.samples import KeyObject, Sample, key_object
from headimpact.data.scene_dataset import write_scenes
from headimpact.errors import InputError
from headimpact.impact.scoring import ChanceSettings, OtherObjects, Skipped, score_images
from headimpact.vlm.base import Vlm
from headimpact.vlm.families import FAMILIES
from headimpact.vlm.packing import PromptAttention
from headimpact.vlm.tokengrid import token_mask

THRESHOLD, DRAWS, SEED = 0.5, 3, 11
CHANCE = ChanceSettings(THRESHOLD, DRAWS, SEED)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 4, "train": 1, "val": 1, "test": 1}, seed=0)
    return coco.read_part(folder, "impact")


@pytest.fixture(scope="module", params=FAMILIES)
def vlm(request) -> Vlm:
    return tiny(request.param)


@pytest.fixture(scope="module")
def smolvlm() -> Vlm:
    return tiny("idefics3")


def naive_mask(vlm: Vlm, pixels: np.ndarray) -> np.ndarray:
    covered = vlm.coverages([pixels])[0].numpy()
    mask = covered >= THRESHOLD
    if not mask.any():
        mask[covered.argmax()] = covered.max() > 0
    return mask


def naive_iou(row: np.ndarray, mask: np.ndarray) -> float:
    bits = row > row.mean()
    return (bits & mask).sum() / (bits | mask).sum()


def naive_chance(row: np.ndarray, masks: list[np.ndarray]) -> float:
    return float(np.mean([naive_iou(row, mask) for mask in masks]))


def naive_scores(vlm: Vlm, samples: list[Sample]) -> pd.DataFrame:
    """Every object, layer and head by itself."""
    rows = []
    for sample in samples:
        encoded = vlm.encode_image(sample.image())
        others = [obj for other in samples if other.id != sample.id for obj in other.objects]
        for obj in sample.objects:
            tokens = vlm.tokenize(vlm.caption(obj.phrase), encoded.grid)
            maps = obvious.attention_maps(vlm, tokens, encoded)
            mask = naive_mask(vlm, obj.mask())
            drawn = np.random.default_rng([SEED, obj.id]).integers(len(others), size=DRAWS)
            foreign = []
            for index in drawn:
                picture = Image.fromarray(others[index].mask().astype(np.uint8))
                stretched = picture.resize((sample.width, sample.height), Image.Resampling.NEAREST)
                foreign.append(naive_mask(vlm, np.asarray(stretched).astype(bool)))
            for index, layer in enumerate(vlm.attention_layers):
                for head in range(vlm.heads):
                    row = maps[index, head, tokens.target][:, tokens.visual].mean(0).numpy()
                    rows.append(
                        {
                            "image_id": sample.id,
                            "object_id": obj.id,
                            "layer": layer,
                            "head": head,
                            "iou": naive_iou(row, mask),
                            "chance": naive_chance(row, foreign),
                            "auroc": stats.mannwhitneyu(row[mask], row[~mask]).statistic / (mask.sum() * (~mask).sum()),
                            "mass": row[mask].sum() / row.sum() / mask.mean(),
                        }
                    )
    return pd.DataFrame(rows)


def test_scores_equal_the_obvious_way(vlm, samples):
    chosen = samples[:3]
    found = score_images(engine_of(vlm), chosen, CHANCE)[0].objects_frame()
    expected = naive_scores(vlm, chosen)
    keys = ["image_id", "object_id", "layer", "head"]
    assert (found[keys].to_numpy() == expected[keys].to_numpy()).all()
    heads = found.groupby(["layer", "head"])[["iou", "chance", "auroc", "mass"]].mean()
    wanted = expected.groupby(["layer", "head"])[["iou", "chance", "auroc", "mass"]].mean()
    assert len(heads) == len(vlm.attention_layers) * vlm.heads
    # A tie at the threshold may flip a token; what does not depend on it is tight.
    np.testing.assert_allclose(heads["iou"], wanted["iou"], atol=0.02)
    np.testing.assert_allclose(heads["chance"], wanted["chance"], atol=0.02)
    np.testing.assert_allclose(heads["auroc"], wanted["auroc"], atol=1e-3)
    np.testing.assert_allclose(heads["mass"], wanted["mass"], atol=1e-3)
    assert found["iou"].std() > 0.01


def test_forwards_of_other_sizes_give_the_same(vlm, samples, monkeypatch):
    forwards = count_forwards(monkeypatch, vlm)
    together = score_images(engine_of(vlm), samples, CHANCE)[0].objects_frame()
    assert len(forwards) == 1
    apart = score_images(engine_of(vlm, batch_tokens=1), samples, CHANCE)[0].objects_frame()
    alone = vlm.prompt_attention is PromptAttention.RECURRENT  # every conversation
    assert len(forwards) == 1 + (sum(len(sample.objects) for sample in samples) if alone else len(samples))
    order = ["image_id", "object_id", "layer", "head"]
    assert (apart[order].to_numpy() == together[order].to_numpy()).all()
    for name in ("auroc", "mass"):
        np.testing.assert_allclose(apart[name], together[name], atol=1e-3)
    for name in ("iou", "chance"):
        grouped = [frame.groupby(["layer", "head"])[name].mean() for frame in (apart, together)]
        np.testing.assert_allclose(*grouped, atol=0.02)


# ---- the chance level


def halves(rows: slice, cols: slice, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size[::-1], dtype=bool)
    mask[rows, cols] = True
    return mask


def foreign_masks(
    vlm: Vlm, everything: list[Sample], sample: Sample, obj: KeyObject, draws: int, seed: int = SEED
) -> torch.Tensor:
    covered = OtherObjects(everything).coverages(vlm, sample, obj, draws, seed)
    return torch.stack([token_mask(one, THRESHOLD) for one in covered])


def test_chance_masks_come_from_other_images_alone(smolvlm):
    """Image 1 is marked above, image 2, of another size, on the left: each gets nothing but the other's, stretched."""
    left = [key_object(i, "x", halves(slice(None), slice(0, 80), (160, 120)), 1.0) for i in (20, 21)]
    top = [key_object(i, "x", halves(slice(0, 64), slice(None), (96, 128)), 1.0) for i in (10, 11)]
    one = Sample(1, Path("none"), 96, 128, tuple(top))
    two = Sample(2, Path("none"), 160, 120, tuple(left))
    stretched_left = naive_mask(smolvlm, halves(slice(None), slice(0, 48), (96, 128)))
    stretched_top = naive_mask(smolvlm, halves(slice(0, 60), slice(None), (160, 120)))
    for sample, expected in ((one, stretched_left), (two, stretched_top)):
        for obj in sample.objects:
            drawn = foreign_masks(smolvlm, [one, two], sample, obj, 20)
            assert drawn.shape == (20, len(expected))
            assert (drawn.numpy() == expected).all()


def test_chance_draws_are_seeded_by_the_object(smolvlm, samples):
    first, second = samples[0], samples[0].objects
    assert len(second) >= 2
    drawn = foreign_masks(smolvlm, samples, first, second[0], 8)
    assert torch.equal(foreign_masks(smolvlm, samples, first, second[0], 8), drawn)
    assert not torch.equal(foreign_masks(smolvlm, samples, first, second[1], 8), drawn)
    assert not torch.equal(foreign_masks(smolvlm, samples, first, second[0], 8, SEED + 1), drawn)


def test_one_image_has_no_chance_level(smolvlm, samples):
    nothing = dataclasses.replace(samples[1], objects=())
    with pytest.raises(InputError, match="needs two images with objects"):
        score_images(engine_of(smolvlm), [samples[0], nothing], CHANCE)


# ---- skipped objects


def dot(size: int, row: int, col: int) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[row, col] = True
    return mask


@pytest.fixture
def unseen(tmp_path) -> Sample:
    """An image cut into four crops of 66 pixels, of which 64 are seen, with objects of a pixel each."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (132, 132, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    masks = {
        1: dot(132, 131, 131),  # the last pixel: beyond every crop's and the whole image's patches
        2: dot(132, 40, 40),
        3: np.zeros((132, 132), dtype=bool),
    }
    objects = tuple(key_object(i, f"red circle {i}", mask, 1.0) for i, mask in masks.items())
    return Sample(900, tmp_path / "a.png", 132, 132, objects)


def test_objects_that_no_token_sees_are_counted_with_the_reason(smolvlm, samples, unseen):
    impact, skipped = score_images(engine_of(smolvlm), [samples[0], unseen], CHANCE)
    reason = "no visual token sees the object"
    assert skipped == [Skipped(900, 1, reason), Skipped(900, 3, reason)]
    assert impact.object_ids.tolist() == [obj.id for obj in samples[0].objects] + [2]
    assert np.isfinite(impact.iou).all()


def test_a_dot_that_is_seen_gets_its_best_covered_token(smolvlm, unseen):
    mask = naive_mask(smolvlm, unseen.objects[1].mask())
    assert mask.sum() == 1


def test_an_image_of_nothing_but_skipped_objects_costs_no_forward(smolvlm, samples, unseen, monkeypatch):
    lost = dataclasses.replace(unseen, objects=(unseen.objects[0], unseen.objects[2]))
    _, skipped = score_images(engine_of(smolvlm), [*samples, lost], CHANCE)
    assert [one.object_id for one in skipped] == [1, 3]
    monkeypatch.setattr(smolvlm, "image_features", None)
    monkeypatch.setattr(smolvlm, "hidden_states", None)
    with pytest.raises(InputError, match="No object was scored"):
        score_images(engine_of(smolvlm), [lost, dataclasses.replace(lost, id=901)], CHANCE)


def test_a_phrase_without_tokens_is_skipped(smolvlm, samples, monkeypatch):
    """No tokenizer here drops a phrase, but one that strips could."""
    victim = samples[0].objects[0]
    real = smolvlm.tokenize

    def tokenize(conversation, grid):
        tokens = real(conversation, grid)
        stripped = victim.phrase in conversation.answer
        return dataclasses.replace(tokens, target=tokens.target[:0]) if stripped else tokens

    monkeypatch.setattr(smolvlm, "tokenize", tokenize)
    impact, skipped = score_images(engine_of(smolvlm), samples[:2], CHANCE)
    assert skipped == [Skipped(samples[0].id, victim.id, "the phrase has no token")]
    assert victim.id not in impact.object_ids
