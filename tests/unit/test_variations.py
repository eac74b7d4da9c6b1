"""Variations of Head Impact: hand-drawn grids with hand-computed scores, and every path against loops."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from headimpact.impact import variations
from headimpact.impact.layer_scores import score_layer
from headimpact.impact.variations import DEFINITION, Scores, Variation, score
from headimpact.statistics import clustered_means

EVERY = {variation.name: variation for variation in variations.variations(0.5)}


def grid(*rows: str) -> torch.Tensor:
    """A hand-drawn grid: digits are tenths."""
    return torch.tensor([int(character) / 10 for row in rows for character in row])


# An object of four tokens in the upper left; attention is on three of them and on one beside it.
COVERED = grid("9930", "9600", "0000", "0000")
MAP = grid("9810", "7000", "0006", "0000")
MIDDLE = grid("0000", "0990", "0990", "0000") > 0.5


def one(name: str, covered=COVERED, attention=MAP, foreign=None, blob=MIDDLE) -> Scores:
    """One object, one layer, one head."""
    foreign = torch.stack([grid("0000", "0000", "0000", "0099")]) if foreign is None else foreign
    return score(EVERY[name], attention[None, None, None], covered[None], foreign[None], blob)


def iou_of(name: str, **given) -> float:
    return float(one(name, **given).iou.item())


def test_the_definition_on_a_drawn_grid():
    found = one(DEFINITION)
    # Above the mean (31 / 160): 9 8 7 of the object's four, and the 6. Of the other image's object: nothing.
    assert found.iou.item() == pytest.approx(3 / 5)
    assert found.chance.item() == 0
    assert found.blob.item() == pytest.approx(1 / 7)
    assert found.ones.item() == pytest.approx(4 / 16)


def test_thresholds_on_a_drawn_grid():
    # The median is 0: the five tokens of any attention count.
    assert iou_of("threshold: median") == pytest.approx(3 / 6)
    # The four most attended: 9 8 7 6.
    assert iou_of("threshold: top-area") == pytest.approx(3 / 5)
    assert iou_of("threshold: top-area", covered=grid("9900", "0000", "0000", "0000")) == 1


def test_the_median_takes_half_of_an_even_grid():
    bits = variations.attended("median", torch.arange(16.0)[None, None, None], torch.ones(1, 1, 1, 16) > 0)
    assert bits.flatten().tolist() == [False] * 8 + [True] * 8


def test_token_masks_on_a_drawn_grid():
    # Of the attended 9 8 7 6: from 25 % on the object has five tokens, from 75 % on three.
    assert iou_of("mask: from 25% on") == pytest.approx(3 / 6)
    assert iou_of("mask: from 75% on") == pytest.approx(3 / 4)
    assert iou_of("mask: any overlap") == pytest.approx(3 / 6)
    assert one("mask: from 75% on").ones.item() == pytest.approx(3 / 16)


def test_all_ones_give_the_share_of_area():
    covered = torch.rand(5, 64, generator=torch.Generator().manual_seed(0))
    maps = torch.rand(5, 2, 3, 64, generator=torch.Generator().manual_seed(1))
    for variation in EVERY.values():
        found = score(variation, maps, covered, covered[:, None], torch.ones(64) > 0)
        share = variations.token_masks(covered, variation.coverage).float().mean(1).numpy()
        np.testing.assert_allclose(found.ones, share, rtol=1e-6)
        np.testing.assert_allclose(found.blob, share, rtol=1e-6)


def test_a_planted_sink_hides_the_object_and_its_removal_repairs_it():
    attention = MAP / MAP.sum()
    sink = attention.clone()
    sink[12] = 20  # now nothing else is above the mean
    for name in ("sinks: the image's removed", "sinks: each head's removed"):
        assert iou_of(DEFINITION, attention=attention) == pytest.approx(3 / 5)
        assert iou_of(DEFINITION, attention=sink) == 0
        assert iou_of(name, attention=sink) == pytest.approx(3 / 5)


def test_the_sink_of_all_heads_is_not_that_of_one():
    """Head 0 has its sink on token 5, the other four theirs on token 2, which is the image's."""
    maps = torch.full((1, 1, 5, 9), 0.1)
    maps[0, 0, 0, 5] = 3
    maps[0, 0, 1:, 2] = 1
    kept = variations.without_sinks(maps, "image")
    assert all(5 in tokens and 2 not in tokens for tokens in kept[0].tolist())
    kept = variations.without_sinks(maps, "head")
    assert [sorted(set(range(9)) - set(tokens)) for tokens in kept[0].tolist()] == [[5], [2], [2], [2], [2]]


def test_the_sink_is_that_of_all_objects_of_the_image():
    maps = torch.zeros(2, 1, 1, 4)
    maps[0, 0, 0] = torch.tensor([0.5, 0.0, 0.4, 0.0])
    maps[1, 0, 0] = torch.tensor([0.0, 0.5, 0.4, 0.0])
    assert variations.without_sinks(maps, "head").tolist() == [[[0, 1, 3]]]


@pytest.mark.parametrize(("tokens", "left"), [(1, 1), (2, 1), (16, 15), (64, 63), (199, 198), (200, 198), (1053, 1043)])
def test_of_every_full_hundred_one_goes_and_at_least_one(tokens, left):
    assert variations.without_sinks(torch.rand(2, 1, 1, tokens), "image").shape[-1] == left


def test_an_object_that_loses_its_only_token_has_no_score():
    covered = grid("9000", "0000", "0000", "0000")
    assert np.isnan(one("sinks: the image's removed", covered=covered).iou).all()
    assert iou_of(DEFINITION, covered=covered) == pytest.approx(1 / 4)


def random_image(seed: int, tokens: int = 30) -> dict:
    draw = torch.Generator().manual_seed(seed)
    return {
        "maps": torch.rand(3, 2, 4, tokens, generator=draw) ** 3,
        "covered": torch.rand(3, tokens, generator=draw) * (torch.rand(3, tokens, generator=draw) > 0.6),
        "foreign": torch.rand(3, 2, tokens, generator=draw) * (torch.rand(3, 2, tokens, generator=draw) > 0.6),
        "blob": torch.rand(tokens, generator=draw) > 0.7,
    }


def naive_mask(covered: np.ndarray, coverage: float) -> np.ndarray:
    return covered >= coverage if (covered >= coverage).any() else (covered == covered.max()) & (covered > 0)


def naive_iou(row: np.ndarray, mask: np.ndarray, cut: str, kept: list[int], area: int) -> float:
    row, mask = row[kept], mask[kept]
    if cut == "mean":
        bits = {i for i, value in enumerate(row) if value > row.mean()}
    elif cut == "median":
        bits = {i for i, value in enumerate(row) if value > np.median(row)}
    else:
        bits = set(sorted(range(len(row)), key=lambda i: -row[i])[:area])
    own = set(np.flatnonzero(mask))
    return len(bits & own) / len(bits | own) if own else float("nan")


def naive_kept(maps: np.ndarray, sinks: str, layer: int, head: int) -> list[int]:
    tokens = range(maps.shape[-1])
    if sinks == "none":
        return list(tokens)
    means = [maps[..., t].mean() if sinks == "image" else maps[:, layer, head, t].mean() for t in tokens]
    return [t for t in tokens if t != int(np.argmax(means))]


@pytest.mark.parametrize("name", EVERY)
def test_scores_equal_loops(name):
    variation, image = EVERY[name], random_image(3)
    found = score(variation, **image)
    maps, covered, foreign = (image[key].numpy() for key in ("maps", "covered", "foreign"))
    for index in np.ndindex(maps.shape[:3]):
        obj, layer, head = index
        mask = naive_mask(covered[obj], variation.coverage)
        kept = naive_kept(maps, variation.sinks, layer, head)
        arguments = (variation.cut, kept, int(mask.sum()))
        assert found.iou[index] == pytest.approx(naive_iou(maps[index], mask, *arguments), nan_ok=True)
        others = [naive_mask(other, variation.coverage) for other in foreign[obj]]
        chance = np.nanmean([naive_iou(maps[index], other, *arguments) for other in others])
        assert found.chance[index] == pytest.approx(chance)


def test_the_definition_is_that_of_the_score_step():
    image = random_image(4)
    found = score(EVERY[DEFINITION], **image)
    masks, foreign = (variations.token_masks(image[key], 0.5) for key in ("covered", "foreign"))
    for layer in range(2):
        scored = score_layer(image["maps"][:, layer], masks, foreign)
        np.testing.assert_array_equal(found.iou[:, layer], scored.iou.numpy())
        np.testing.assert_array_equal(found.chance[:, layer], scored.chance.numpy())


@pytest.mark.parametrize("name", EVERY)
def test_permuted_heads_permute_the_scores(name):
    image = random_image(5)
    order = [2, 0, 3, 1]
    found = score(EVERY[name], **image)
    turned = score(EVERY[name], **(image | {"maps": image["maps"][:, :, order]}))
    np.testing.assert_array_equal(turned.iou, found.iou[:, :, order])
    np.testing.assert_array_equal(turned.chance, found.chance[:, :, order])


def test_every_variation_differs_from_the_definition_in_one_thing():
    first, *others = variations.variations(0.4)
    assert first == Variation(DEFINITION, 0.4)
    assert len({variation.name for variation in others}) == len(others) == 10
    for variation in others:
        changed = [f.name for f in dataclasses.fields(first) if getattr(first, f.name) != getattr(variation, f.name)]
        assert len(changed) == 2, variation  # its name, and one more
    assert [v.coverage for v in variations.variations(0.5)[5:8]] == [0.25, 0.75, variations.ANY_COVERAGE]


def test_the_blob_is_a_centred_ellipse_of_a_fifth_of_the_image():
    blob = variations.ellipse(400, 200)
    assert blob.shape == (200, 400)
    assert blob.mean() == pytest.approx(np.pi / 16, abs=1e-3)
    assert (blob == blob[::-1, ::-1]).all()
    assert np.flatnonzero(blob[100]).tolist() == list(range(100, 300))
    assert np.flatnonzero(blob[:, 200]).tolist() == list(range(50, 150))


# ---- the table

IMAGES = np.repeat(np.arange(20), 2)


def made(seed: int, shift: float = 0.0) -> Scores:
    """Forty objects; layer 1 is better than layer 0, and head 2 the best."""
    draw = np.random.default_rng(seed)
    means = np.array([[0.1, 0.12, 0.14], [0.3, 0.32, 0.6]]) + shift
    iou = (means + draw.normal(0, 0.02, (40, 2, 3))).astype(np.float32)
    return Scores(iou, np.full_like(iou, 0.2), np.full(40, 0.35), np.full(40, 0.05))


def test_the_table_on_made_scores():
    found = {DEFINITION: made(0), "other": made(1, 0.05)}
    table = variations.table(found, IMAGES).set_index("variation")
    assert table.index.tolist() == list(found)
    definition, other = table.loc[DEFINITION], table.loc["other"]
    assert definition[["spearman_heads", "spearman_layers", "overlap"]].tolist() == pytest.approx([1, 1, 2])
    assert (definition["top"], definition["best_layer"], definition["best_head"]) == ("1 0", 1, 2)
    assert definition["best_hi"] == pytest.approx(0.6, abs=0.02)
    assert definition["mean_hi"] == pytest.approx(found[DEFINITION].hi.mean())
    assert np.isnan(definition["difference"])
    assert (definition["above_chance"], definition["above_blob"], definition["above_definition"]) == (3, 1, 0)
    assert other["difference"] == pytest.approx(0.05, abs=0.01)
    assert 0 < other["low"] < other["difference"] < other["high"]
    assert other["above_definition"] == 6
    ranks = stats.spearmanr(found["other"].hi.ravel(), found[DEFINITION].hi.ravel())[0]
    assert other["spearman_heads"] == pytest.approx(ranks)
    assert definition[["chance", "blob", "ones"]].tolist() == pytest.approx([0.2, 0.35, 0.05])


def test_scores_that_are_missing_are_left_out_of_both_sides():
    """What has no score under the variation would pull its mean up if the definition kept it."""
    first = made(0)
    second = made(0)
    second.iou[first.iou < 0.11] = np.nan
    row = variations.table({DEFINITION: first, "other": second}, IMAGES).iloc[1]
    assert row["difference"] == 0
    assert row["mean_hi"] > first.hi.mean()
    assert row["left_out"] == pytest.approx((first.iou < 0.11).mean())


def test_a_head_without_any_score_is_neither_the_best_nor_in_the_mean_difference():
    lost = made(0)
    lost.iou[:, 1, 2] = np.nan
    row = variations.table({DEFINITION: made(0), "other": lost}, IMAGES).iloc[1]
    assert (row["best_layer"], row["best_head"], row["difference"]) == (1, 1, 0)
    assert np.isnan(row["spearman_heads"])
    assert row["top"] == "0 1"


def test_heads_above_equal_one_test_after_the_other():
    draw = np.random.default_rng(2)
    iou = draw.normal(draw.normal(0.2, 0.03, (1, 4, 5)), 0.05, (40, 4, 5)).astype(np.float32)
    other = np.full((40, 1, 1), 0.2, dtype=np.float32)
    expected = 0
    for layer, head in np.ndindex(4, 5):
        mean, error = clustered_means((iou - other)[:, layer, head].astype(np.float64), IMAGES)
        expected += stats.t(19).sf(mean / error) < 0.05 / 20
    assert 0 < expected < 20
    assert variations.count_above(iou, other, IMAGES) == expected


def test_no_head_is_above_what_it_equals():
    draw = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        iou = draw.normal(0.2, 0.05, (40, 3, 4)).astype(np.float32)
        wrong += variations.count_above(iou, np.full((40, 1, 1), 0.2, dtype=np.float32), IMAGES) > 0
    assert wrong <= 12  # 5 are expected


def test_the_table_of_heads():
    found = {DEFINITION: made(0), "other": made(1)}
    table = variations.heads_table(found)
    assert table.columns.tolist() == ["variation", "layer", "head", "hi", "chance"]
    assert len(table) == 12
    row = table[(table["variation"] == "other") & (table["layer"] == 1) & (table["head"] == 2)]
    assert row["hi"].item() == pytest.approx(float(found["other"].iou[:, 1, 2].mean()))
    assert isinstance(table, pd.DataFrame)


def test_top_layers_take_the_first_of_equals():
    assert variations.top(np.array([0.2, 0.3, 0.3, 0.1]), 3).tolist() == [1, 2, 0]
    assert variations.top(np.array([[0.2, 0.3], [0.3, 0.2]]), 1).tolist() == [[1], [0]]
