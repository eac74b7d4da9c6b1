"""Stability and variance split: planted truth, hand-made cases, and every path against a naive one."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from headimpact.errors import InputError
from headimpact.impact import stability
from headimpact.statistics import clustered_means


def images_of(objects: int) -> np.ndarray:
    """One to three objects an image."""
    return np.repeat(np.arange(objects), np.random.default_rng(0).integers(1, 4, objects))[:objects]


def scores(layers: list[float], noise: float, objects: int = 120, heads: int = 3, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (np.array(layers)[:, None] + draw.normal(0, noise, (objects, len(layers), heads))).astype(np.float32)


# ---- stability


def test_layers_far_apart_are_found_with_any_images():
    iou = scores([0.1, 0.9, 0.3, 0.8, 0.7, 0.6], 0.001)
    found = stability.curve(iou, images_of(120), seed=0)
    assert (found["overlap"] == found["k"]).all()
    assert (found["low"] == found["k"]).all()
    assert [stability.enough(found, k) for k in (1, 4)] == [5, 5]


@pytest.mark.slow
def test_equal_layers_agree_no_more_than_chance(monkeypatch):
    """The mean over many data sets: what one data set gives varies, and two halves share none of it."""
    monkeypatch.setattr(stability, "DRAWS", 200)  # far more alike than the data sets are
    found = [
        stability.curve(scores([0.5] * 8, 0.1, 60, seed=seed), np.arange(60), seed=seed).set_index(["way", "k", "n"])
        for seed in range(30)
    ]
    mean = sum(one["overlap"] for one in found) / len(found)
    expected = found[0]["expected"]
    for k in (1, 4):
        key = (stability.DISJOINT, k, 30)
        assert mean[key] == pytest.approx(expected[key], abs=0.12 * k)
        assert mean[(stability.BOOTSTRAP, k, 60)] > mean[key] + 0.1 * k  # it takes the differences for true ones


def test_the_columns_and_the_sizes():
    found = stability.curve(scores([0.1, 0.2], 0.1), np.repeat(np.arange(60), 2), seed=0)
    assert found.columns.tolist() == ["way", "k", "n", "overlap", "low", "high", "expected", "pairs"]
    assert set(found["k"]) == {1}  # there are no four layers
    assert found[found["way"] == "disjoint"]["n"].tolist() == [5, 10, 20, 30]
    assert found[found["way"] == "bootstrap"]["n"].tolist() == [5, 10, 20, 50, 60]
    assert (found["expected"] == 0.5).all()
    pd.testing.assert_frame_equal(found, stability.curve(scores([0.1, 0.2], 0.1), np.repeat(np.arange(60), 2), seed=0))


@pytest.mark.parametrize(
    ("most", "expected"),
    [(0, []), (3, [3]), (5, [5]), (7, [5, 7]), (100, [5, 10, 20, 50, 100]), (500, [5, 10, 20, 50, 100, 200, 500])],
)
def test_sizes(most, expected):
    assert stability.sizes(most) == expected


def test_disjoint_sets_share_no_image():
    first, second = stability.disjoint(np.random.default_rng(0), 11, 5, 200)
    assert (first.sum(1) == 5).all()
    assert (second.sum(1) == 5).all()
    assert (first + second <= 1).all()
    assert (first.sum(0) > 50).all()


def test_the_bootstrap_draws_with_replacement():
    first, second = stability.bootstrap(np.random.default_rng(0), 11, 11, 200)
    assert (first.sum(1) == 11).all()
    assert first.max() > 1
    assert (first != second).any()


@pytest.mark.parametrize("draw", [stability.disjoint, stability.bootstrap])
def test_scores_of_a_set_equal_the_mean_over_its_objects(draw):
    images = images_of(50)
    iou = scores([0.1, 0.3, 0.2], 0.2, 50)
    sums, counts = stability._by_image(iou, images)
    weights, _ = draw(np.random.default_rng(1), len(counts), 6, 10)
    found = stability._layer_scores(weights, sums, counts)
    for row, own in zip(found, weights, strict=True):
        objects = [i for image, times in enumerate(own) for _ in range(times) for i in np.flatnonzero(images == image)]
        np.testing.assert_allclose(row, iou[objects].astype(np.float64).mean(0).mean(1), rtol=1e-6)


def test_overlaps_equal_sets():
    first, second = np.random.default_rng(0).normal(size=(2, 50, 9))
    for k in (1, 4):
        expected = [len(set(np.argsort(-a)[:k]) & set(np.argsort(-b)[:k])) for a, b in zip(first, second, strict=True)]
        assert stability.overlaps(first, second, k).tolist() == expected


def test_enough_needs_all_larger_sets_to_agree():
    rows = [("disjoint", 4, n, value) for n, value in ((5, 3.7), (10, 3.5), (20, 3.6), (50, 3.9))]
    found = pd.DataFrame([*rows, ("bootstrap", 4, 200, 1.0)], columns=["way", "k", "n", "overlap"])
    assert stability.enough(found, 4) == 20
    found.loc[3, "overlap"] = 3.5
    assert stability.enough(found, 4) is None


# ---- variance split


def naive_components(iou: np.ndarray, images: np.ndarray) -> tuple[float, float, float]:
    """Sums of squares by loops; the noise through the whole covariance matrix of the heads."""
    layers, heads = iou.shape[1:]
    names = sorted(set(images.tolist()))
    flat = iou.astype(np.float64).reshape(len(iou), -1)
    hi = flat.mean(0)
    covariance = np.zeros((hi.size, hi.size))
    for name in names:
        part = sum(flat[i] - hi for i in np.flatnonzero(images == name)) / len(flat)
        covariance += np.outer(part, part) * len(names) / (len(names) - 1)

    def squares(vector):
        means = [vector[layer * heads : (layer + 1) * heads].mean() for layer in range(layers)]
        between = sum(heads * (mean - vector.mean()) ** 2 for mean in means)
        within = sum((vector[layer * heads + h] - means[layer]) ** 2 for layer in range(layers) for h in range(heads))
        return between / (layers - 1), within / (layers * (heads - 1))

    # E[x'Qx] = trace(Q covariance): through the eigenvectors of the covariance.
    values, vectors = np.linalg.eigh(covariance)
    noise = np.sum(
        [np.multiply(value, squares(vector)) for value, vector in zip(values, vectors.T, strict=True)], axis=0
    )
    between, within = np.array(squares(hi)) - noise
    return (between - within) / heads, within, np.trace(covariance) / hi.size


def test_components_equal_sums_of_squares_by_loops():
    images = images_of(40)
    iou = scores([0.1, 0.4, 0.2, 0.25], 0.1, 40, heads=5)
    iou += np.random.default_rng(5).normal(0, 0.05, (1, 4, 5)).astype(np.float32)
    found = stability.variance_split(iou, images)
    expected = naive_components(iou, images)
    assert (found.layers, found.heads, found.images) == pytest.approx(expected, rel=1e-9)
    assert found.share == pytest.approx(expected[0] / (expected[0] + expected[1]))
    _, errors = clustered_means(iou, images)
    assert found.images == pytest.approx((errors**2).mean())


def test_mean_squares_are_those_of_scipys_analysis_of_variance():
    hi = np.random.default_rng(0).normal(size=(7, 4))
    between, within = stability.mean_squares(hi)
    assert between / within == pytest.approx(stats.f_oneway(*hi).statistic)


def test_planted_variances_are_recovered_without_bias():
    """Heads' errors are as alike within an image as they are: an easy image is easy for all heads."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(150):
        true = draw.normal(0, 0.2, (12, 1)) + draw.normal(0, 0.1, (12, 6))
        image = draw.normal(0, 0.5, (30, 1, 1)) + draw.normal(0, 0.5, (30, 12, 6))
        iou = true + np.repeat(image, 2, axis=0) + draw.normal(0, 0.1, (60, 12, 6))
        sums = iou.reshape(30, 2, 12, 6).sum(1)
        found.append(stability.components(sums, np.full(30, 2)))
    means, errors = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(len(found))
    for mean, error, true in zip(means, errors, (0.04, 0.01, (0.25 + 0.25 + 0.005) / 30), strict=True):
        assert abs(mean - true) < 4 * error


def test_layers_alone_and_heads_alone():
    images = np.arange(60)
    layers = stability.variance_split(scores([0.1, 0.3, 0.5, 0.7], 0.01, 60), images)
    assert layers.share > 0.99
    assert layers.low > 0.98
    alike = np.tile(np.array([0.1, 0.4, 0.7]), (60, 5, 1)) + np.random.default_rng(1).normal(0, 0.01, (60, 5, 3))
    heads = stability.variance_split(alike.astype(np.float32), images)
    assert heads.share == 0
    assert heads.layers < 0 < heads.heads
    assert heads.eta_squared < 0.001


def test_the_order_of_a_layers_heads_changes_nothing_here_but_the_papers_test():
    iou = scores([0.1, 0.4, 0.2, 0.25], 0.1, 40, heads=5)
    iou += np.linspace(0, 0.3, 5, dtype=np.float32)
    draw = np.random.default_rng(0)
    turned = np.stack([iou[:, layer, draw.permutation(5)] for layer in range(4)], axis=1)
    a, b = stability.variance_split(iou, images_of(40)), stability.variance_split(turned, images_of(40))
    assert (a.layers, a.heads, a.share, a.low) == pytest.approx((b.layers, b.heads, b.share, b.low))
    p = [stats.kruskal(*one.mean(0).T).pvalue for one in (iou, turned)]
    assert p[0] < 0.05 < p[1]


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says():
    """The truth is the split of the heads' true scores: only the images are drawn anew."""
    draw = np.random.default_rng(3)
    true = draw.normal(0, 0.1, (8, 1)) + draw.normal(0, 0.1, (8, 4))
    between, within = stability.mean_squares(true)
    layers = (between - within) / 4
    share = float(layers / (layers + within))
    inside = 0
    for _ in range(200):
        iou = true + draw.normal(0, 0.3, (40, 1, 1)) + draw.normal(0, 0.15, (40, 8, 4))
        found = stability.variance_split(iou.astype(np.float32), np.arange(40))
        inside += found.low <= share <= found.high
    assert 0.90 <= inside / 200 <= 0.99


def test_eta_squared_by_chance_is_its_mean_over_random_layers():
    draw = np.random.default_rng(0)
    heads = draw.normal(size=24)
    found = []
    for _ in range(2000):
        hi = draw.permutation(heads).reshape(6, 4)
        found.append(hi.mean(1).var() / hi.var())
    split = stability.variance_split(scores([0.1] * 6, 0.1, 30, heads=4), np.arange(30))
    assert split.eta_squared_by_chance == pytest.approx(5 / 23)
    assert np.mean(found) == pytest.approx(5 / 23, abs=0.01)


def test_what_cannot_be_split():
    with pytest.raises(InputError, match="1 layers x 3 heads are too few"):
        stability.variance_split(scores([0.1], 0.1), images_of(120))
    with pytest.raises(InputError, match="3 images at least, not 2"):
        stability.variance_split(scores([0.1, 0.2], 0.1, 4), np.array([1, 1, 2, 2]))


def test_heads_that_do_not_differ_have_no_share():
    found = stability.variance_split(np.full((6, 3, 2), 0.25, dtype=np.float32), np.arange(6))
    assert (found.share, found.low, found.high, found.eta_squared) == (None, None, None, None)


def test_no_image_less_than_what_a_share_needs():
    """Without image 0 the heads are all the same: nothing can be said."""
    iou = np.full((6, 3, 2), 0.25, dtype=np.float32)
    iou[0] += np.array([[0.0, 0.1], [0.0, 0.3], [0.5, 0.6]], dtype=np.float32)
    sums, counts = iou.astype(np.float64), np.ones(6, dtype=np.int64)
    assert stability._interval(0.5, sums, counts) == (0.0, 1.0)
