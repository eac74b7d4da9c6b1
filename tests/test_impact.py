"""Scores of attention heads: hand-drawn grids, naive loops, invariants."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from headimpact.errors import InputError
from headimpact.impact.head_impact import (
    Impact,
    ImpactAccumulator,
    LayerScores,
    auroc,
    binarise,
    head_grid,
    iou,
    kruskal_wallis,
    mass,
    score_layer,
)

SCORES = ("iou", "chance", "auroc", "mass")


def grid(picture: str) -> torch.Tensor:
    """A drawn grid as one flat row of tokens: digits are attention, # is object, . is 0."""
    return torch.tensor([1.0 if c == "#" else float(c.replace(".", "0")) for c in picture if not c.isspace()])


MASK = grid("""
    ##..
    ##..
    ....
    ....
""").bool()

# mean 2.0: the four 5s and the two 3s are above it, the 2s are not
ATTENTION = grid("""
    5533
    5511
    2110
    .000
""")


def random_case(seed: int = 0, objects: int = 4, heads: int = 3, tokens: int = 20, draws: int = 5):
    generator = torch.Generator().manual_seed(seed)
    # few distinct values, so that ties are everywhere; binary fractions, so that sums are exact
    attention = torch.randint(0, 6, (objects, heads, tokens), generator=generator).float() / 64
    masks = torch.rand(objects, tokens, generator=generator) < 0.3
    foreign = torch.rand(objects, draws, tokens, generator=generator) < 0.3
    masks[:, 0], foreign[..., 1] = True, True
    masks[:, -1] = False
    return attention, masks, foreign


def naive_bits(row: list[float]) -> list[bool]:
    mean = float(np.float32(sum(row) / len(row)))
    return [value > mean for value in row]


def naive_iou(bits: list[bool], mask: list[bool]) -> float:
    both = sum(1 for b, m in zip(bits, mask, strict=True) if b and m)
    either = sum(1 for b, m in zip(bits, mask, strict=True) if b or m)
    return both / either


def naive_auroc(row: list[float], mask: list[bool]) -> float:
    wins = [
        1.0 if inside > outside else 0.5 if inside == outside else 0.0
        for inside, on in zip(row, mask, strict=True)
        if on
        for outside, other in zip(row, mask, strict=True)
        if not other
    ]
    return sum(wins) / len(wins)


def naive_mass(row: list[float], mask: list[bool]) -> float:
    on_object = sum(value for value, on in zip(row, mask, strict=True) if on)
    return (on_object / sum(row)) / (sum(mask) / len(mask))


# --- by hand -----------------------------------------------------------------------------------------


def test_hand_drawn_grid():
    # 6 bits, 4 of them on the 4 tokens of the object
    assert ATTENTION.mean() == 2.0
    assert binarise(ATTENTION).sum() == 6
    assert iou(binarise(ATTENTION), MASK).item() == pytest.approx(4 / 6)
    # the four 5s are above all 12 other tokens
    assert auroc(ATTENTION[None, None], MASK[None]).item() == 1.0
    # 20 of 32 units of attention on 4 of 16 tokens
    assert mass(ATTENTION[None, None], MASK[None]).item() == pytest.approx((20 / 32) / (4 / 16))


def test_hand_drawn_half_hit_with_ties():
    mask = grid("""
        ....
        .##.
        .##.
        ....
    """).bool()
    attention = grid("""
        ....
        .44.
        .00.
        ...8
    """)
    # mean 1: bits are the two 4s and the 8; 2 shared, 4 + 1 in all
    assert iou(binarise(attention), mask).item() == pytest.approx(2 / 5)
    # each 4 beats eleven 0s and loses to the 8; each 0 ties eleven 0s and loses to the 8: (22 + 11) / 48
    assert auroc(attention[None, None], mask[None]).item() == pytest.approx((2 * 11 + 2 * 5.5) / 48)
    # 8 of 16 units on a quarter of the tokens
    assert mass(attention[None, None], mask[None]).item() == pytest.approx(2.0)


def test_no_overlap_is_zero():
    attention = grid("00000000 00000099")
    assert iou(binarise(attention), MASK).item() == 0.0
    assert mass(attention[None, None], MASK[None]).item() == 0.0


@pytest.mark.parametrize("tokens", [3, 7, 49, 391, 1053])
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-7])
def test_uniform_attention_is_above_its_mean_nowhere(tokens: int, value: float):
    uniform = torch.full((2, tokens), value)
    assert not binarise(uniform).any()
    mask = torch.arange(tokens)[None] < 1
    assert auroc(uniform[None], mask).tolist() == [[0.5, 0.5]]


def test_binarise_is_strict():
    assert binarise(torch.tensor([1.0, 2.0, 3.0])).tolist() == [False, False, True]


# --- against naive loops -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_score_layer_equals_naive_loops(seed: int):
    attention, masks, foreign = random_case(seed)
    scores = score_layer(attention, masks, foreign)
    for d in range(attention.shape[0]):
        mask = masks[d].tolist()
        for h in range(attention.shape[1]):
            row = attention[d, h].tolist()
            bits = naive_bits(row)
            chances = [naive_iou(bits, other.tolist()) for other in foreign[d]]
            assert scores.iou[d, h].item() == pytest.approx(naive_iou(bits, mask), rel=1e-6)
            assert scores.chance[d, h].item() == pytest.approx(sum(chances) / len(chances), rel=1e-6)
            assert scores.auroc[d, h].item() == pytest.approx(naive_auroc(row, mask), rel=1e-6)
            assert scores.mass[d, h].item() == pytest.approx(naive_mass(row, mask), rel=1e-5)


def test_auroc_equals_scipy_ranks_and_mann_whitney():
    attention, masks, _ = random_case(9, objects=2, heads=2, tokens=300)
    ours = auroc(attention, masks)
    for d in range(2):
        mask = masks[d].numpy()
        inside, outside = int(mask.sum()), int((~mask).sum())
        for h in range(2):
            row = attention[d, h].numpy()
            ranks = stats.rankdata(row)
            by_ranks = (ranks[mask].sum() - inside * (inside + 1) / 2) / (inside * outside)
            by_scipy = stats.mannwhitneyu(row[mask], row[~mask]).statistic / (inside * outside)
            assert ours[d, h].item() == pytest.approx(by_ranks, rel=1e-6)
            assert ours[d, h].item() == pytest.approx(by_scipy, rel=1e-6)


def test_iou_broadcasts_over_foreign_masks():
    attention, _, foreign = random_case(3)
    bits = binarise(attention)
    together = iou(bits[:, :, None], foreign[:, None])
    assert together.shape == (4, 3, 5)
    for draw in range(5):
        torch.testing.assert_close(together[..., draw], iou(bits, foreign[:, draw][:, None]))


# --- invariants --------------------------------------------------------------------------------------


def test_permuting_heads_permutes_scores():
    attention, masks, foreign = random_case(1)
    order = torch.tensor([2, 0, 1])
    plain, permuted = score_layer(attention, masks, foreign), score_layer(attention[:, order], masks, foreign)
    assert not torch.equal(plain.iou, permuted.iou)
    for name in SCORES:
        assert torch.equal(getattr(plain, name)[:, order], getattr(permuted, name))


def test_permuting_tokens_together_changes_nothing():
    attention, masks, foreign = random_case(2, tokens=64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    plain = score_layer(attention, masks, foreign)
    permuted = score_layer(attention[..., order], masks[:, order], foreign[..., order])
    for name in SCORES:
        torch.testing.assert_close(getattr(plain, name), getattr(permuted, name))


def test_scaling_attention_changes_nothing():
    attention, masks, foreign = random_case(4)
    plain, scaled = score_layer(attention, masks, foreign), score_layer(attention / 1024, masks, foreign)
    for name in SCORES:
        torch.testing.assert_close(getattr(plain, name), getattr(scaled, name))


def test_complement_mirrors_auroc():
    attention, masks, _ = random_case(5)
    torch.testing.assert_close(auroc(attention, ~masks), 1 - auroc(attention, masks))


def test_scores_do_not_care_for_memory_layout():
    attention, masks, foreign = random_case(6)
    strided = attention.transpose(0, 2).contiguous().transpose(0, 2)
    assert not strided.is_contiguous()
    plain, other = score_layer(attention, masks, foreign), score_layer(strided, masks, foreign)
    for name in SCORES:
        torch.testing.assert_close(getattr(plain, name), getattr(other, name))


# --- undefined scores --------------------------------------------------------------------------------


def test_auroc_of_full_or_empty_mask_is_nan():
    attention, masks, _ = random_case(7)
    masks[0], masks[1] = True, False
    scores = auroc(attention, masks)
    assert scores[:2].isnan().all()
    assert scores[2:].isfinite().all()


def test_empty_mask_and_broken_attention_are_nan_not_zero():
    attention, masks, foreign = random_case(8)
    masks[0] = False
    attention[1, 2, 5] = torch.nan
    attention[2, 1, 5] = torch.inf
    scores = score_layer(attention, masks, foreign)
    undefined = torch.zeros(4, 3, dtype=torch.bool)
    undefined[0], undefined[1, 2], undefined[2, 1] = True, True, True
    assert torch.equal(scores.iou.isnan(), undefined)


def test_empty_foreign_masks_are_left_out_of_chance():
    attention, masks, foreign = random_case(8)
    expected = score_layer(attention, masks, foreign[:, 1:]).chance
    foreign[:, 0] = False
    torch.testing.assert_close(score_layer(attention, masks, foreign).chance, expected)
    foreign[2] = False
    assert score_layer(attention, masks, foreign).chance.isnan().any(1).tolist() == [
        False,
        False,
        True,
        False,
    ]


# --- accumulator -------------------------------------------------------------------------------------


def layer_scores_of(seed: int, objects: int, heads: int = 3) -> LayerScores:
    return score_layer(*random_case(seed, objects=objects, heads=heads))


def small_impact(objects: int = 6, layers: int = 4, heads: int = 3, seed: int = 0) -> Impact:
    rng = np.random.default_rng(seed)
    shape = (objects, layers, heads)
    scores = {name: rng.random(shape, dtype=np.float32) for name in SCORES}
    image_ids = np.arange(objects) // 2 + 10
    return Impact(image_ids=image_ids, object_ids=np.arange(objects) + 100, **scores)


def test_accumulator_stacks_forwards_layers_and_images():
    accumulator = ImpactAccumulator(layers=2, heads=3)
    first = [layer_scores_of(0, 2), layer_scores_of(1, 2)]
    for layer, scores in enumerate(first):
        accumulator.update(layer, scores)
    accumulator.close([7, 7], [70, 71])
    # the second forward holds two images, scored one at a time
    second = [[layer_scores_of(2, 1), layer_scores_of(3, 3)], [layer_scores_of(4, 1), layer_scores_of(5, 3)]]
    for layer, images in enumerate(second):
        for scores in images:
            accumulator.update(layer, scores)
    accumulator.close([8, 9, 9, 9], [80, 90, 91, 92])
    impact = accumulator.result()
    assert impact.image_ids.tolist() == [7, 7, 8, 9, 9, 9]
    assert impact.object_ids.tolist() == [70, 71, 80, 90, 91, 92]
    for name in SCORES:
        for layer in range(2):
            parts = [getattr(scores, name) for scores in [first[layer], *second[layer]]]
            np.testing.assert_array_equal(getattr(impact, name)[:, layer], torch.cat(parts).numpy())


def test_accumulator_does_not_care_how_objects_are_grouped():
    scores = layer_scores_of(0, 4)
    rows = [LayerScores(**{name: getattr(scores, name)[i : i + 1] for name in SCORES}) for i in range(4)]
    together, apart = ImpactAccumulator(1, 3), ImpactAccumulator(1, 3)
    together.update(0, scores)
    together.close([1, 1, 2, 2], [1, 2, 3, 4])
    for i, row in enumerate(rows):
        apart.update(0, row)
        apart.close([1 + i // 2], [1 + i])
    pd.testing.assert_frame_equal(together.result().objects_frame(), apart.result().objects_frame())


def test_accumulator_ignores_a_forward_without_objects():
    accumulator = ImpactAccumulator(1, 3)
    accumulator.close([], [])
    accumulator.update(0, layer_scores_of(0, 1))
    accumulator.close([1], [1])
    assert len(accumulator.result().object_ids) == 1


def test_accumulator_refuses_what_does_not_fit():
    accumulator = ImpactAccumulator(layers=2, heads=3)
    with pytest.raises(ValueError, match=r"Layer 2 does not exist: there are 2\."):
        accumulator.update(2, layer_scores_of(0, 1))
    with pytest.raises(ValueError, match=r"Layer 0 came with 2 heads instead of 3\."):
        accumulator.update(0, layer_scores_of(0, 1, heads=2))
    accumulator.update(0, layer_scores_of(0, 1))
    with pytest.raises(ValueError, match=r"1 objects were named, but the layers hold the scores of \[1, 0\]\."):
        accumulator.close([1], [1])
    with pytest.raises(ValueError, match="not closed"):
        accumulator.result()


def test_accumulator_refuses_an_object_twice():
    accumulator = ImpactAccumulator(layers=1, heads=3)
    for _ in range(2):
        accumulator.update(0, layer_scores_of(0, 1))
        accumulator.close([1], [5])
    with pytest.raises(ValueError, match="scored twice"):
        accumulator.result()


def test_accumulator_refuses_an_object_without_iou():
    attention, masks, foreign = random_case(0, objects=2)
    masks[1] = False
    accumulator = ImpactAccumulator(layers=1, heads=3)
    accumulator.update(0, score_layer(attention, masks, foreign))
    with pytest.raises(InputError, match=r"Object 41 of image 4 has no IoU in layer 0, head 0: .*empty.*float32"):
        accumulator.close([4, 4], [40, 41])


def test_nothing_scored():
    with pytest.raises(InputError, match="No object was scored"):
        ImpactAccumulator(2, 3).result()


# --- the tables --------------------------------------------------------------------------------------


def test_table_equals_naive_loop():
    impact = small_impact(objects=7)
    impact.auroc[3] = np.nan
    table = impact.table()
    assert list(table.columns) == [
        *("layer", "head", "hi", "hi_se", "chance", "excess", "excess_z", "auroc", "mass"),
    ]
    assert len(table) == 12
    images = impact.image_ids.tolist()
    for row in table.itertuples(index=False):
        layer, head = row[0], row[1]
        own = impact.iou[:, layer, head].astype(float).tolist()
        chance = impact.chance[:, layer, head].astype(float).tolist()
        excess = [a - b for a, b in zip(own, chance, strict=True)]
        kept = [v for v in impact.auroc[:, layer, head].astype(float).tolist() if v == v]
        assert len(kept) == 6
        assert row[2:] == pytest.approx(
            (
                sum(own) / 7,
                naive_clustered_se(own, images),
                sum(chance) / 7,
                sum(excess) / 7,
                sum(excess) / 7 / naive_clustered_se(excess, images),
                sum(kept) / 6,
                float(impact.mass[:, layer, head].astype(float).mean()),
            ),
            rel=1e-9,
        )
    np.testing.assert_allclose(table["excess"], table["hi"] - table["chance"], rtol=1e-12)


def naive_clustered_se(values: list[float], images: list[int]) -> float:
    mean = sum(values) / len(values)
    groups = sorted(set(images))
    sums = [sum(v - mean for v, i in zip(values, images, strict=True) if i == g) for g in groups]
    return (len(groups) / (len(groups) - 1) * sum(s * s for s in sums)) ** 0.5 / len(values)


def test_table_of_one_image_has_no_standard_error():
    impact = small_impact(objects=2)
    table = impact.table()
    assert table["hi"].notna().all()
    assert table[["hi_se", "excess_z"]].isna().all(axis=None)


def test_a_dead_head_has_no_excess_z():
    impact = small_impact()
    impact.iou[:, 0, 0] = impact.chance[:, 0, 0] = 0
    row = impact.table().iloc[0]
    assert row["excess"] == 0
    assert np.isnan(row["excess_z"])


def test_layer_scores_are_means_of_the_table():
    impact = small_impact()
    by_layer = impact.table().groupby("layer")["hi"].mean()
    np.testing.assert_allclose(impact.layer_scores(), by_layer, rtol=1e-12)
    np.testing.assert_array_equal(head_grid(impact.table()), impact.hi)
    np.testing.assert_array_equal(head_grid(impact.table()).mean(1), impact.layer_scores())


def test_permuting_objects_changes_the_table_by_rounding_alone():
    impact = small_impact(objects=9)
    order = np.random.default_rng(1).permutation(9)
    shuffled = Impact(**{name: value[order] for name, value in vars(impact).items()})
    pd.testing.assert_frame_equal(impact.table(), shuffled.table(), rtol=1e-10)


def test_head_grid_refuses_an_edited_table(tmp_path: Path):
    table = small_impact().table()
    path = tmp_path / "impact.csv"
    table.drop(index=5).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"does not hold every layer x head once, in order: score again\."):
        head_grid(pd.read_csv(path))
    with pytest.raises(InputError, match=r"in order"):
        head_grid(table.iloc[::-1])
    with pytest.raises(InputError, match=r"lacks the columns head, hi: score again\."):
        head_grid(table.drop(columns=["head", "hi"]))
    with pytest.raises(InputError, match=r"in order"):
        head_grid(table.iloc[:0])


def test_objects_frame_rows():
    impact = small_impact()
    frame = impact.objects_frame()
    assert list(frame.columns) == ["image_id", "object_id", "layer", "head", *SCORES]
    assert (frame[list(SCORES)].dtypes == np.float32).all()
    assert len(frame) == 6 * 4 * 3
    for _, row in frame.sample(20, random_state=0).iterrows():
        index = impact.object_ids.tolist().index(row["object_id"])
        assert row["image_id"] == impact.image_ids[index]
        for name in SCORES:
            assert row[name] == getattr(impact, name)[index, int(row["layer"]), int(row["head"])]


def test_objects_frame_survives_parquet(tmp_path: Path):
    impact = small_impact()
    impact.auroc[2] = np.nan
    impact.objects_frame().to_parquet(tmp_path / "objects.parquet")
    back = Impact.from_frame(pd.read_parquet(tmp_path / "objects.parquet"))
    for name, value in vars(impact).items():
        np.testing.assert_array_equal(getattr(back, name), value)
    pd.testing.assert_frame_equal(back.table(), impact.table())


def test_from_frame_keeps_the_order_of_objects():
    impact = small_impact()
    order = [4, 0, 5, 1, 3, 2]
    shuffled = Impact(**{name: value[order] for name, value in vars(impact).items()})
    assert Impact.from_frame(shuffled.objects_frame()).object_ids.tolist() == [104, 100, 105, 101, 103, 102]


@pytest.mark.parametrize("rows", [slice(1, None), slice(None, -1), slice(None, None, -1), slice(0, 70)])
def test_from_frame_refuses_rows_that_are_not_the_whole_grid(rows: slice):
    with pytest.raises(InputError, match="it was changed after scoring"):
        Impact.from_frame(small_impact().objects_frame().iloc[rows])


def test_from_frame_refuses_missing_columns_and_no_rows():
    frame = small_impact().objects_frame()
    with pytest.raises(InputError, match=r"lacks the columns head, iou: score again\."):
        Impact.from_frame(frame.drop(columns=["head", "iou"]))
    with pytest.raises(InputError, match=r"has no row: score again\."):
        Impact.from_frame(frame.iloc[:0])


# --- Kruskal-Wallis ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "heads", "layer_test", "head_test"),
    [  # table 2 with its columns put right: (statistic, p-value) across layers and across heads
        (28, 12, (92.93, 3.62e-9), (12.94, 0.30)),  # Qwen2-VL
        (24, 32, (103.56, 3.40e-12), (31.86, 0.42)),  # SmolVLM
        (26, 8, (75.28, 6.15e-7), (6.81, 0.449)),  # PaliGemma 2
    ],
)
def test_degrees_of_freedom_are_those_of_table_2(
    layers: int, heads: int, layer_test: tuple[float, float], head_test: tuple[float, float]
):
    result = kruskal_wallis(np.random.default_rng(0).random((layers, heads)))
    for ours, (statistic, p_value) in ((result.layers, layer_test), (result.heads, head_test)):
        assert stats.chi2.sf(statistic, ours.df) == pytest.approx(p_value, rel=0.015)
    assert (result.layers.df, result.heads.df) == (layers - 1, heads - 1)


def test_kruskal_wallis_equals_the_formula():
    hi = np.random.default_rng(3).random((4, 5))
    result = kruskal_wallis(hi)
    ranks = stats.rankdata(hi).reshape(hi.shape)
    for ours, axis, groups in ((result.layers, 1, 4), (result.heads, 0, 5)):
        members = 20 // groups
        statistic = 12 / (20 * 21) * (ranks.sum(axis) ** 2 / members).sum() - 3 * 21
        assert ours.statistic == pytest.approx(statistic)
        assert ours.p_value == pytest.approx(stats.chi2.sf(statistic, groups - 1))


def test_kruskal_wallis_finds_layers_and_not_heads():
    rng = np.random.default_rng(0)
    result = kruskal_wallis(np.arange(12)[:, None] / 12 + 0.01 * rng.random((12, 8)))
    assert result.layers.p_value < 1e-6
    assert result.heads.p_value > 0.05
    assert result.to_dict()["heads"] == {
        "statistic": result.heads.statistic,
        "df": 7,
        "p_value": result.heads.p_value,
    }


def test_kruskal_wallis_refuses_what_it_cannot_compare():
    with pytest.raises(InputError, match="1 layers x 4 heads are too few"):
        kruskal_wallis(np.ones((1, 4)))
    with pytest.raises(InputError, match=r"Every head has the same Head Impact \(0\.5\)"):
        kruskal_wallis(np.full((3, 4), 0.5))
    with pytest.raises(InputError, match="some are not numbers"):
        kruskal_wallis(np.array([[0.1, np.nan], [0.2, 0.3]]))
