"""How far Head Impact depends on the images it was computed on, and how its variance between heads splits into layers
and heads within layers. From the IoU of single objects alone."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

from headimpact.errors import InputError
from headimpact.impact.variations import top

TOPS = (1, 4)
DRAWS = 1000
DISJOINT, BOOTSTRAP = "disjoint", "bootstrap"
# So many of the layers have to be the same, in the mean over pairs of sets of images.
ENOUGH = 0.9

Weights = Int[np.ndarray, "draws images"]


def curve(
    iou: Float[np.ndarray, "objects layers heads"], image_ids: Int[np.ndarray, " objects"], seed: int
) -> pd.DataFrame:
    """How many of the top-K layers two sets of n images have in common, for several n, K and two ways to draw the sets.

    ``disjoint``: both sets are drawn from the images without any in common, as if two persons had each collected n
    images. A subset compared with all images would share its images with them, and agree the more the larger it is,
    whatever the layers; two disjoint sets share nothing. It reaches to half of the images. ``bootstrap``: both sets are
    drawn with replacement; it reaches to as many images as there are, but takes the layers' differences on these
    images for the true ones, and so agrees too well.

    Columns: way, k, n, overlap (mean over the pairs, in layers), low, high (95 % of the pairs lie between: how a single
    pair varies, not an interval of the mean), expected (overlap of two random choices), pairs.
    """
    sums, counts = _by_image(iou, image_ids)
    images, layers = sums.shape
    rows = []
    for way, draw, most in ((DISJOINT, disjoint, images // 2), (BOOTSTRAP, bootstrap, images)):
        for n in sizes(most):
            pair = draw(np.random.default_rng([seed, n]), images, n, DRAWS)
            first, second = (_layer_scores(weights, sums, counts) for weights in pair)
            for k in (k for k in TOPS if k <= layers):
                common = overlaps(first, second, k)
                low, high = np.quantile(common, [0.025, 0.975])
                row = {"way": way, "k": k, "n": n, "overlap": common.mean(), "low": low, "high": high}
                rows.append(row | {"expected": k * k / layers, "pairs": DRAWS})
    columns = ["way", "k", "n", "overlap", "low", "high", "expected", "pairs"]
    return pd.DataFrame(rows, columns=columns)


def sizes(most: int) -> list[int]:
    """5, 10, 20, 50, 100, ... and ``most``, which is the last."""
    steps = [digit * 10**power for power in range(len(str(most))) for digit in (1, 2, 5)]
    return [*(n for n in steps if 5 <= n < most), most] if most else []


def disjoint(rng: np.random.Generator, images: int, n: int, draws: int) -> tuple[Weights, Weights]:
    """How often each image is in the first and in the second set of n: 0 or 1, never in both."""
    order = rng.permuted(np.tile(np.arange(images), (draws, 1)), axis=1)
    first, second = np.zeros((2, draws, images), dtype=np.int64)
    np.put_along_axis(first, order[:, :n], 1, axis=1)
    np.put_along_axis(second, order[:, n : 2 * n], 1, axis=1)
    return first, second


def bootstrap(rng: np.random.Generator, images: int, n: int, draws: int) -> tuple[Weights, Weights]:
    """How often each image is in the first and in the second set of n, drawn with replacement."""
    share = np.full(images, 1 / images)
    return rng.multinomial(n, share, size=draws), rng.multinomial(n, share, size=draws)


def overlaps(
    first: Float[np.ndarray, "draws layers"], second: Float[np.ndarray, "draws layers"], k: int
) -> Int[np.ndarray, " draws"]:
    """Of each pair of rows, how many of the ``k`` highest stand in the same place."""
    a, b = top(first, k), top(second, k)
    return (a[:, :, None] == b[:, None, :]).sum((1, 2))


def enough(curves: pd.DataFrame, k: int) -> int | None:
    """The smallest n from which on two disjoint sets of n images have, in the mean, ``ENOUGH`` of the top-K layers in
    common; None where they have not even at the largest n. ``curves`` is what :func:`curve` gives."""
    rows = curves[(curves["way"] == DISJOINT) & (curves["k"] == k)].sort_values("n", ascending=False)
    reached = np.logical_and.accumulate(rows["overlap"].to_numpy() >= ENOUGH * k)
    return int(rows["n"].to_numpy()[reached].min()) if reached.any() else None


def _by_image(
    iou: Float[np.ndarray, "objects layers heads"], image_ids: Int[np.ndarray, " objects"]
) -> tuple[Float[np.ndarray, "images layers"], Int[np.ndarray, " images"]]:
    """Per image the sum of its objects' layer scores, and their number: HI is a mean over objects, not over images."""
    _, codes, counts = np.unique(image_ids, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), iou.shape[1]))
    np.add.at(sums, codes, iou.mean(2, dtype=np.float64))
    return sums, counts


def _layer_scores(
    weights: Weights, sums: Float[np.ndarray, "images layers"], counts: Int[np.ndarray, " images"]
) -> Float[np.ndarray, "draws layers"]:
    return (weights @ sums) / (weights @ counts)[:, None]


@dataclass(frozen=True)
class VarianceSplit:
    """Where Head Impact's variance between heads lies; variances in squared HI.

    Attributes:
        layers: of the layers, beyond what heads within layers and the choice of images bring about; can be below 0.
        heads: of the heads within a layer, beyond what the choice of images brings about; can be below 0.
        images: of one head's HI from one choice of images to another: the mean square of its standard error.
        share: layers / (layers + heads), negative parts taken as 0: the intraclass correlation of heads of one layer.
            None where both are 0: heads differ by no more than the choice of images brings about.
        low, high: its 95 % interval over choices of images (jackknife), within 0..1. The layers and heads of a model
            are all that it has: they are no sample.
        eta_squared: between-layer share of the sum of squares, with nothing taken off.
        eta_squared_by_chance: its mean where heads are put into layers at random.
    """

    layers: float
    heads: float
    images: float
    share: float | None
    low: float | None
    high: float | None
    eta_squared: float | None
    eta_squared_by_chance: float


def variance_split(
    iou: Float[np.ndarray, "objects layers heads"], image_ids: Int[np.ndarray, " objects"]
) -> VarianceSplit:
    """Split the variance between heads into layers and heads within layers (nested random effects, balanced).

    HI(l, h) = mean + layer(l) + head(l, h) + what the choice of images left. A head's index means nothing across
    layers (any order of a layer's heads is the same model), so there is no effect of the index. The components follow
    from the mean squares of one-way analysis of variance over layers; what the choice of images adds to each mean
    square is estimated clustered by image (an image's objects are not independent, nor are heads), and taken off.

    Raises:
        InputError: fewer than two layers or heads, or than three images.
    """
    if min(iou.shape[1:]) < 2:
        raise InputError(f"There is no variance to split: {iou.shape[1]} layers x {iou.shape[2]} heads are too few.")
    _, codes, counts = np.unique(image_ids, return_inverse=True, return_counts=True)
    if len(counts) < 3:
        raise InputError(f"What images leave to chance takes 3 images at least, not {len(counts)}.")
    sums = np.zeros((len(counts), *iou.shape[1:]))
    np.add.at(sums, codes, iou.astype(np.float64))
    layers, heads, images = components(sums, counts)
    share = _share(layers, heads)
    low, high = (None, None) if share is None else _interval(share, sums, counts)
    hi = sums.sum(0) / counts.sum()
    return VarianceSplit(
        layers=layers,
        heads=heads,
        images=images,
        share=share,
        low=low,
        high=high,
        eta_squared=float(hi.mean(1).var() / hi.var()) if np.ptp(hi) else None,
        eta_squared_by_chance=(hi.shape[0] - 1) / (hi.size - 1),
    )


def components(
    sums: Float[np.ndarray, "images layers heads"], counts: Int[np.ndarray, " images"]
) -> tuple[float, float, float]:
    """Variance of layers, of heads within layers, and of one head over choices of images; unbiased, so that the first
    two can be below 0.

    Args:
        sums: per image the sum of its objects' IoU.
        counts: per image the number of its objects.
    """
    images = len(counts)
    hi = sums.sum(0) / counts.sum()
    # An image's part in the error of the ratio mean (statistics.clustered_means): their squares add up to its variance.
    parts = (sums - counts[:, None, None] * hi) / counts.sum() * np.sqrt(images / (images - 1))
    squares = zip(mean_squares(hi), mean_squares(parts), strict=True)
    between, within = (whole - of_images.sum() for whole, of_images in squares)
    return float((between - within) / hi.shape[1]), float(within), float((parts**2).sum(0).mean())


def mean_squares(
    hi: Float[np.ndarray, "*tables layers heads"],
) -> tuple[Float[np.ndarray, "*tables"], Float[np.ndarray, "*tables"]]:
    """Mean squares between layers and within them, of one table or several."""
    return np.asarray(hi.shape[-1] * hi.mean(-1).var(-1, ddof=1)), np.asarray(hi.var(-1, ddof=1).mean(-1))


def _share(layers: float, heads: float) -> float | None:
    above = max(layers, 0.0), max(heads, 0.0)
    return above[0] / sum(above) if any(above) else None


def _interval(
    share: float, sums: Float[np.ndarray, "images layers heads"], counts: Int[np.ndarray, " images"]
) -> tuple[float, float]:
    """Jackknife: every image is left out once. Where that leaves no variance to split, anything is possible."""
    every = np.arange(len(counts))
    left = [_share(*components(sums[every != i], counts[every != i])[:2]) for i in every]
    if None in left:
        return 0.0, 1.0
    error = np.sqrt((len(left) - 1) * np.var(np.array(left, dtype=np.float64)))
    half = float(stats.t(len(left) - 1).ppf(0.975)) * float(error)
    return max(share - half, 0.0), min(share + half, 1.0)
