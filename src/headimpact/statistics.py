"""Means, perplexities and their paired differences, with standard errors clustered by image.

Objects of one image are not independent, so every standard error here sums the deviations of an image's
objects before squaring them: the linearised ratio mean, with the correction G / (G - 1) for G images. With
one object an image it is the ordinary standard error of a mean.

scipy's distributions take a second to import, and commands that draw no conclusion do without: only the functions that
need them import them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headimpact.errors import InputError

# The underscore keeps the type checker from comparing lengths: these functions do it, in words.
Values = Float[np.ndarray, " _objects"] | Bool[np.ndarray, " _objects"] | Int[np.ndarray, " _objects"]
Counts = Int[np.ndarray, " _objects"]
Clusters = Int[np.ndarray, " _objects"]


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error, from ``n`` objects in ``clusters`` images."""

    value: float
    se: float
    n: int
    clusters: int


@dataclass(frozen=True)
class Difference:
    """A paired difference a - b with its confidence interval and two-sided p-value."""

    value: float
    se: float
    low: float
    high: float
    p_value: float
    n: int
    clusters: int


def clustered_means(
    values: Float[np.ndarray, "objects ..."],
    clusters: Int[np.ndarray, " objects"],
    weights: Float[np.ndarray, "objects ..."] | None = None,
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Weighted means over objects and their clustered standard errors, for every position of the other axes.

    A NaN is no observation: it is left out of its own mean. The mean of nothing is NaN, and so is the
    standard error of fewer than two clusters.
    """
    values = values.astype(np.float64)
    observed = ~np.isnan(values)
    weight = np.where(observed, 1.0 if weights is None else weights, 0.0)
    codes, labels = _codes(clusters)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (np.where(observed, values, 0.0) * weight).sum(0) / weight.sum(0)
        residual = np.where(observed, values - mean, 0.0) * weight
        groups = (_cluster_sums(observed, codes, labels) > 0).sum(0)
        squares = (_cluster_sums(residual, codes, labels) ** 2).sum(0)
        variance = groups / (groups - 1) * squares / weight.sum(0) ** 2
    return np.asarray(mean), np.where(groups > 1, np.sqrt(variance), np.nan)


def clustered_mean(values: Values, clusters: Clusters) -> Estimate:
    """Mean over objects, standard error clustered by image.

    Raises:
        InputError: lengths differ, a value is not finite, or there are fewer than two clusters.
    """
    _check(clusters, values=values)
    mean, se = clustered_means(values.astype(np.float64), clusters)
    return Estimate(float(mean), float(se), len(values), _count(clusters))


def perplexity(nll: Values, clusters: Clusters) -> Estimate:
    """Perplexity, eq. 3: exp of the mean over objects of ``nll``; standard error by the delta method.

    Args:
        nll: mean over an object's description tokens of -log p, in nats.
        clusters: the image of each object.

    Raises:
        InputError: as for :func:`clustered_mean`.
    """
    mean = clustered_mean(nll, clusters)
    value = float(np.exp(mean.value))
    return Estimate(value, value * mean.se, mean.n, mean.clusters)


def token_nll(nll: Values, tokens: Counts, clusters: Clusters) -> Estimate:
    """Mean -log p over all description tokens, in nats: objects weigh as many as they have tokens.

    Args:
        nll: mean over an object's description tokens of -log p.
        tokens: how many description tokens each object has, at least 1.
        clusters: the image of each object.

    Raises:
        InputError: as for :func:`clustered_mean`, or an object without tokens.
    """
    _check(clusters, nll=nll, tokens=tokens)
    if (tokens < 1).any():
        raise InputError(f"Object {int(np.argmin(tokens))} has no description token: leave it out and count it.")
    mean, se = clustered_means(nll.astype(np.float64), clusters, tokens.astype(np.float64))
    return Estimate(float(mean), float(se), len(nll), _count(clusters))


def paired_difference(a: Values, b: Values, clusters: Clusters, confidence: float = 0.95) -> Difference:
    """Mean of a - b over the same objects; t quantiles with (clusters - 1) degrees of freedom.

    Raises:
        InputError: lengths differ, a value is not finite, there are fewer than two clusters, or
            ``confidence`` is not between 0 and 1.
    """
    _check(clusters, a=a, b=b)
    mean = clustered_mean(a.astype(np.float64) - b.astype(np.float64), clusters)
    return _difference(mean.value, mean, confidence)


def paired_perplexity_difference(
    nll_a: Values, nll_b: Values, clusters: Clusters, confidence: float = 0.95
) -> Difference:
    """Perplexity of a - perplexity of b on the same objects, standard error by the joint delta method.

    Args:
        nll_a: mean over an object's description tokens of -log p under a, in nats.
        nll_b: the same under b.
        clusters: the image of each object.
        confidence: coverage of the interval.

    Raises:
        InputError: as for :func:`paired_difference`.
    """
    _check(clusters, nll_a=nll_a, nll_b=nll_b)
    a, b = nll_a.astype(np.float64), nll_b.astype(np.float64)
    perplexity_a, perplexity_b = np.exp(a.mean()), np.exp(b.mean())
    linear = clustered_mean(perplexity_a * a - perplexity_b * b, clusters)
    return _difference(float(perplexity_a - perplexity_b), linear, confidence)


def _codes(clusters: Int[np.ndarray, " objects"]) -> tuple[Int[np.ndarray, " objects"], int]:
    labels, codes = np.unique(clusters, return_inverse=True)
    return codes, len(labels)


def _count(clusters: np.ndarray) -> int:
    return len(np.unique(clusters))


def _cluster_sums(
    values: Float[np.ndarray, "objects ..."] | Bool[np.ndarray, "objects ..."],
    codes: Int[np.ndarray, " objects"],
    clusters: int,
) -> Float[np.ndarray, "clusters ..."]:
    sums = np.zeros((clusters, *values.shape[1:]))
    np.add.at(sums, codes, values)
    return sums


def _difference(value: float, linear: Estimate, confidence: float) -> Difference:
    """Interval and p-value of ``value``, whose standard error is that of the estimate ``linear``."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; give a share between 0 and 1, such as 0.95.")
    from scipy import stats

    t = stats.t(linear.clusters - 1)
    half = float(t.ppf((1 + confidence) / 2)) * linear.se
    # A standard error of 0: every object differs by the same amount, and nothing is left to chance.
    p_value = 2 * t.sf(abs(value) / linear.se) if linear.se > 0 else value == 0
    return Difference(value, linear.se, value - half, value + half, float(p_value), linear.n, linear.clusters)


def _check(clusters: np.ndarray, **columns: np.ndarray) -> None:
    lengths = {name: len(column) for name, column in {**columns, "clusters": clusters}.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InputError(f"The columns must describe the same objects, but {counts} of them.")
    for name, column in columns.items():
        if not np.isfinite(column).all():
            where = int(np.flatnonzero(~np.isfinite(column))[0])
            raise InputError(f"{name} of object {where} (counted from 0) is {column[where]}, not a finite number.")
    if _count(clusters) < 2:
        raise InputError(f"A standard error clustered by image needs at least 2 images, not {_count(clusters)}.")


def spearman(a: Float[np.ndarray, " scores"] | None, b: Float[np.ndarray, " scores"] | None) -> float:
    """Rank correlation (-1..1), average ranks for ties; NaN where one side is missing or ranks all alike."""
    if a is None or b is None or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    from scipy import stats

    return float(stats.spearmanr(a, b)[0])  # pyright: ignore[reportArgumentType]
