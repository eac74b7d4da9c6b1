"""Head Impact over objects: collected forward by forward, laid out in tables, written and read back."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_layer_scores import random_case

from headimpact.errors import InputError
from headimpact.impact.accumulator import ImpactAccumulator
from headimpact.impact.head_impact import SCORES, Impact, head_grid
from headimpact.impact.layer_scores import LayerScores, score_layer

# --- accumulator -------------------------------------------------------------------------------------


def layer_scores_of(seed: int, objects: int, heads: int = 3) -> LayerScores:
    return score_layer(*random_case(seed, objects=objects, heads=heads))


def small_impact(objects: int = 6, layers: int = 4, heads: int = 3, seed: int = 0) -> Impact:
    rng = np.random.default_rng(seed)
    shape = (objects, layers, heads)
    scores = {name: rng.random(shape, dtype=np.float32) for name in SCORES}
    image_ids = np.arange(objects) // 2 + 10
    return Impact(image_ids, np.arange(objects) + 100, **scores, layers=tuple(range(layers)))


def reordered(impact: Impact, order: Sequence[int] | np.ndarray) -> Impact:
    changed = {name: getattr(impact, name)[order] for name in ("image_ids", "object_ids", *SCORES)}
    return dataclasses.replace(impact, **changed)


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
    shuffled = reordered(impact, order)
    pd.testing.assert_frame_equal(impact.table(), shuffled.table(), rtol=1e-10)


def test_layers_without_attention_have_no_rows_and_true_numbers(tmp_path: Path):
    every = small_impact()
    impact = dataclasses.replace(every, layers=(3, 7, 11, 15))
    table = impact.table()
    assert table["layer"].unique().tolist() == [3, 7, 11, 15]
    pd.testing.assert_frame_equal(table.drop(columns="layer"), every.table().drop(columns="layer"))
    grid = head_grid(table)
    assert grid.shape == (16, 3)
    np.testing.assert_array_equal(grid[[3, 7, 11, 15]], every.hi)
    assert np.isnan(np.delete(grid, [3, 7, 11, 15], axis=0)).all()
    back = Impact.from_frame(impact.objects_frame())
    assert back.layers == impact.layers
    pd.testing.assert_frame_equal(back.table(), table)


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
    shuffled = reordered(impact, order)
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
