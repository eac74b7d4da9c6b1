"""Estimates and differences: against plain formulas, scipy, and bootstraps over images."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from headimpact.errors import InputError
from headimpact.statistics import (
    clustered_mean,
    clustered_means,
    paired_difference,
    paired_perplexity_difference,
    perplexity,
    token_nll,
)

DRAWS = 4000
# A bootstrap standard error from D draws is off by about 1 / sqrt(2 D) = 1.1 % of itself; four times that,
# plus 1 / G = 1 % for the bootstrap's missing correction and its curvature with G = 100 images.
TOLERANCE = 4 / math.sqrt(2 * DRAWS) + 0.01


def objects(seed: int = 0, images: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """NLLs under two models, token counts, image ids; an image shifts its 1 to 5 objects together."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(rng.permutation(images) * 3, rng.integers(1, 6, images))
    order = rng.permutation(len(clusters))
    clusters = clusters[order]
    shift = rng.normal(0, 0.4, images * 3)[clusters]
    a = 1.5 + shift + rng.normal(0, 0.3, len(clusters))
    b = a + 0.1 + 0.5 * shift + rng.normal(0, 0.2, len(clusters))
    return a, b, rng.integers(2, 9, len(clusters)), clusters


def bootstrap_se(statistic: Callable[[np.ndarray], float], clusters: np.ndarray, seed: int = 1) -> float:
    """Standard deviation of ``statistic(rows)`` over resampled images."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(clusters == label) for label in np.unique(clusters)]
    draws = [
        statistic(np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))]))
        for _ in range(DRAWS)
    ]
    return float(np.std(draws, ddof=1))


# --- means -------------------------------------------------------------------------------------------


def test_by_hand():
    # images 1 and 2; mean 3; sums of deviations -3 and 3; 2 / 1 * 18 / 3^2 = 4
    estimate = clustered_mean(np.array([1.0, 2.0, 6.0]), np.array([1, 1, 2]))
    assert (estimate.value, estimate.se, estimate.n, estimate.clusters) == (3.0, 2.0, 3, 2)


def test_one_object_an_image_is_the_plain_standard_error():
    values = np.random.default_rng(0).normal(size=50)
    estimate = clustered_mean(values, np.arange(50))
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.se == pytest.approx(stats.sem(values), rel=1e-12)


def test_repeating_every_object_within_its_image_adds_nothing():
    values, clusters = np.random.default_rng(0).normal(size=30), np.arange(30)
    once = clustered_mean(values, clusters)
    thrice = clustered_mean(np.repeat(values, 3), np.repeat(clusters, 3))
    assert (thrice.value, thrice.se) == pytest.approx((once.value, once.se), rel=1e-12)
    assert thrice.n == 90


def test_order_and_names_of_images_do_not_matter():
    a, _, _, clusters = objects()
    order = np.random.default_rng(2).permutation(len(a))
    plain, other = clustered_mean(a, clusters), clustered_mean(a[order], 10_000 - clusters[order])
    assert (plain.value, plain.se) == pytest.approx((other.value, other.se), rel=1e-12)


def test_clustered_se_against_bootstrap():
    a, _, _, clusters = objects()
    estimate = clustered_mean(a, clusters)
    assert estimate.se == pytest.approx(bootstrap_se(lambda rows: a[rows].mean(), clusters), rel=TOLERANCE)
    assert estimate.se > 1.3 * stats.sem(a)  # clustering matters here


def test_accuracy_takes_booleans():
    correct = np.array([True, False, True, True])
    estimate = clustered_mean(correct, np.arange(4))
    assert estimate.value == 0.75
    assert estimate.se == pytest.approx(stats.sem(correct.astype(float)))


def test_many_means_at_once_equal_one_at_a_time():
    rng = np.random.default_rng(4)
    values, clusters = rng.normal(size=(20, 3, 2)), rng.integers(0, 6, 20)
    values[rng.random(values.shape) < 0.2] = np.nan
    mean, se = clustered_means(values, clusters)
    for i in range(3):
        for j in range(2):
            kept = ~np.isnan(values[:, i, j])
            estimate = clustered_mean(values[kept, i, j], clusters[kept])
            assert (mean[i, j], se[i, j]) == pytest.approx((estimate.value, estimate.se), rel=1e-12)


def test_mean_of_nothing_and_se_of_one_image_are_nan():
    mean, se = clustered_means(np.array([[np.nan, 1.0], [np.nan, 3.0]]), np.array([5, 5]))
    np.testing.assert_array_equal(mean, [np.nan, 2.0])
    np.testing.assert_array_equal(se, [np.nan, np.nan])


# --- perplexity --------------------------------------------------------------------------------------


def test_perplexity_by_hand_and_against_bootstrap():
    hand = perplexity(np.array([math.log(2), math.log(8)]), np.array([1, 2]))
    assert hand.value == pytest.approx(4)
    assert hand.se == pytest.approx(4 * math.log(2))  # exp(mean) x half the distance of the two
    nll, _, _, clusters = objects()
    estimate = perplexity(nll, clusters)
    assert estimate.value == pytest.approx(np.exp(nll.mean()))
    by_bootstrap = bootstrap_se(lambda rows: np.exp(nll[rows].mean()), clusters)
    assert estimate.se == pytest.approx(by_bootstrap, rel=TOLERANCE)


def test_token_nll_weighs_tokens():
    nll, _, tokens, clusters = objects()
    estimate = token_nll(nll, tokens, clusters)
    assert estimate.value == pytest.approx(np.average(nll, weights=tokens))
    by_bootstrap = bootstrap_se(lambda rows: np.average(nll[rows], weights=tokens[rows]), clusters)
    assert estimate.se == pytest.approx(by_bootstrap, rel=TOLERANCE)
    assert estimate.n == len(nll)


def test_token_nll_with_equal_tokens_is_the_mean():
    nll, _, _, clusters = objects()
    weighted = token_nll(nll, np.full(len(nll), 7), clusters)
    plain = clustered_mean(nll, clusters)
    assert (weighted.value, weighted.se) == pytest.approx((plain.value, plain.se), rel=1e-12)


# --- differences -------------------------------------------------------------------------------------


def test_paired_difference_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a = rng.normal(size=25)
    b = a + rng.normal(0.2, 0.5, 25)
    ours, scipys = paired_difference(a, b, np.arange(25)), stats.ttest_rel(a, b)
    interval = scipys.confidence_interval(0.95)
    assert ours.value == pytest.approx((a - b).mean())
    assert ours.p_value == pytest.approx(scipys.pvalue)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))


def test_paired_difference_against_bootstrap():
    a, b, _, clusters = objects()
    ours = paired_difference(a, b, clusters)
    by_bootstrap = bootstrap_se(lambda rows: (a[rows] - b[rows]).mean(), clusters)
    assert ours.se == pytest.approx(by_bootstrap, rel=TOLERANCE)
    assert ours.high - ours.value == pytest.approx(stats.t.ppf(0.975, ours.clusters - 1) * ours.se)


def test_paired_perplexity_difference_against_bootstrap():
    a, b, _, clusters = objects()
    ours = paired_perplexity_difference(a, b, clusters)
    assert ours.value == pytest.approx(perplexity(a, clusters).value - perplexity(b, clusters).value)
    by_bootstrap = bootstrap_se(lambda rows: np.exp(a[rows].mean()) - np.exp(b[rows].mean()), clusters)
    assert ours.se == pytest.approx(by_bootstrap, rel=TOLERANCE)
    # pairing matters: unpaired, the errors of the two would add up
    unpaired = math.hypot(perplexity(a, clusters).se, perplexity(b, clusters).se)
    assert ours.se < 0.6 * unpaired


@pytest.mark.parametrize("difference", [paired_difference, paired_perplexity_difference])
def test_swapping_the_sides_mirrors_the_difference(difference: Callable):
    a, b, _, clusters = objects()
    one, other = difference(a, b, clusters), difference(b, a, clusters)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.p_value == pytest.approx(other.p_value)


@pytest.mark.parametrize("difference", [paired_difference, paired_perplexity_difference])
def test_a_model_does_not_differ_from_itself(difference: Callable):
    a, _, _, clusters = objects()
    same = difference(a, a.copy(), clusters)
    assert (same.value, same.se, same.low, same.high, same.p_value) == (0, 0, 0, 0, 1)


def test_a_difference_without_spread_is_certain():
    sure = paired_difference(np.array([2.0, 3.0]), np.array([1.0, 2.0]), np.array([1, 2]))
    assert (sure.value, sure.low, sure.high, sure.p_value) == (1, 1, 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_intervals_cover_the_truth_as_often_as_they_say(confidence: float):
    rng = np.random.default_rng(0)
    runs, images, covered = 1000, 20, 0
    for _ in range(runs):
        clusters = np.repeat(np.arange(images), 3)
        d = 0.3 + np.repeat(rng.normal(size=images), 3) + rng.normal(size=3 * images)
        interval = paired_difference(d, np.zeros_like(d), clusters, confidence)
        covered += interval.low < 0.3 < interval.high
    error = math.sqrt(confidence * (1 - confidence) / runs)
    assert covered / runs == pytest.approx(confidence, abs=3 * error)


# --- messages ----------------------------------------------------------------------------------------


ONE_IMAGE = np.array([3, 3])
TWO = np.array([1.0, 2.0])


def test_unequal_lengths_are_refused():
    with pytest.raises(InputError, match=r"same objects, but a has 2, b has 3, clusters has 2 of them\."):
        paired_difference(TWO, np.zeros(3), np.arange(2))
    with pytest.raises(InputError, match=r"nll_a has 2, nll_b has 2, clusters has 3 of them"):
        paired_perplexity_difference(TWO, TWO, np.arange(3))
    with pytest.raises(InputError, match=r"values has 2, clusters has 1 of them"):
        clustered_mean(TWO, np.arange(1))
    with pytest.raises(InputError, match=r"nll has 2, tokens has 1, clusters has 2 of them"):
        token_nll(TWO, np.array([1]), np.arange(2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: clustered_mean(TWO, ONE_IMAGE),
        lambda: perplexity(TWO, ONE_IMAGE),
        lambda: token_nll(TWO, np.array([1, 1]), ONE_IMAGE),
        lambda: paired_difference(TWO, TWO, ONE_IMAGE),
        lambda: paired_perplexity_difference(TWO, TWO, ONE_IMAGE),
    ],
)
def test_one_image_is_refused(call: Callable):
    with pytest.raises(InputError, match=r"clustered by image needs at least 2 images, not 1\."):
        call()


def test_no_object_is_refused():
    with pytest.raises(InputError, match=r"at least 2 images, not 0\."):
        clustered_mean(np.array([]), np.array([], dtype=int))


def test_values_that_are_not_numbers_are_refused():
    with pytest.raises(InputError, match=r"nll_b of object 1 \(counted from 0\) is nan, not a finite number\."):
        paired_perplexity_difference(TWO, np.array([1.0, np.nan]), np.arange(2))
    with pytest.raises(InputError, match=r"values of object 0 \(counted from 0\) is inf"):
        clustered_mean(np.array([np.inf, 1.0]), np.arange(2))


def test_objects_without_tokens_and_odd_confidence_are_refused():
    with pytest.raises(InputError, match=r"Object 1 has no description token"):
        token_nll(TWO, np.array([3, 0]), np.arange(2))
    with pytest.raises(InputError, match=r"confidence is 95\.0; give a share between 0 and 1"):
        paired_difference(TWO, np.zeros(2), np.arange(2), confidence=95.0)
