"""Where a metric's figures vary: over test images, over the runs of a rule, and jointly.

* *Images.* As in :mod:`headimpact.statistics`, an object's figures are linearised (perplexity by the delta method),
  summed over the objects of its image, and give the covariance of all runs under resampling of images.
* *Runs.* A rule's runs are its training seeds or, where it draws layers at random, its draws, each draw the mean
  over its seeds. The spread of the runs' own figures already holds what images and runs do jointly.

With R runs, spread s2 and mean covariance c of two different runs, the variance of the rule's mean is
s2 / R + c: the crossed random effects of *Hypothesis testing of diagnostic accuracy for multiple readers and
multiple tests* (1995), whose readers are our runs and whose cases are our images. With images of equal size and a
plain mean it is (MS runs + MS images - MS both) / (R G).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headimpact.evaluation.metrics import Metric
from headimpact.tournament.design import Design, by_image
from headimpact.tournament.runs import Runs


@dataclass(frozen=True, eq=False)
class Moments:
    """One metric of every group, adapter minus original.

    Attributes:
        change: mean over the group's units.
        spread: variance of its units.
        covariance: of different units over images; on the diagonal of two units of the same group.
        alone: what a single unit has beyond that covariance: its own variance over images.
        images: how many images have it.
    """

    change: Float[np.ndarray, " groups"]
    spread: Float[np.ndarray, " groups"]
    covariance: Float[np.ndarray, "groups groups"]
    alone: Float[np.ndarray, " groups"]
    images: int


def moments(runs: Runs, design: Design, metric: Metric) -> Moments:
    """The moments of one metric."""
    having = runs.having(metric)
    order, starts = (design.order, design.starts) if having.all() else by_image(runs.images[having])
    original = runs.original[metric.column][having]
    values = np.vstack([original, runs.adapted[metric.column][:, having]])
    mean = values.mean(1, keepdims=True)
    figure, slope = (np.exp(mean), np.exp(mean)) if metric.exponential else (mean, 1.0)
    images = len(starts)
    sums = np.add.reduceat((slope * (values - mean))[:, order], starts, axis=1) / len(original)
    units = design.units_from_runs @ (figure[1:, 0] - figure[0, 0])
    influence = design.units_from_runs @ (sums[1:] - sums[0])
    of_units = images / (images - 1) * (influence @ influence.T)
    average, counts = design.groups_from_units, design.counts
    change = average @ units
    residual = units - average.T.astype(bool) @ change
    covariance = average @ of_units @ average.T
    # The mean covariance of two different units; on the diagonal the average above counts each with itself, too.
    own = average @ np.diag(of_units)
    np.fill_diagonal(covariance, (counts * np.diag(covariance) - own) / (counts - 1))
    spread = average @ residual**2 * counts / (counts - 1)
    return Moments(change, spread, covariance, np.maximum(own - np.diag(covariance), 0), images)


def shared_spread(
    of_groups: Moments, design: Design
) -> tuple[Float[np.ndarray, " groups"], Float[np.ndarray, " groups"]]:
    """Spread and degrees of freedom of every group in a comparison.

    Rules that vary by seed share the mean spread of their K, where their own is not larger, with Satterthwaite's
    degrees of freedom; a rule that draws keeps its own.
    """
    spread, df = of_groups.spread.copy(), design.counts - 1.0
    ks = np.array([group.k for group in design.groups])
    drawn = np.array([group.drawn for group in design.groups])
    for k in np.unique(ks):
        alike = (ks == k) & ~drawn
        if not alike.any():
            continue
        own, freedom = of_groups.spread[alike], design.counts[alike] - 1.0
        total = (freedom * own).sum()
        spread[alike] = np.maximum(own, total / freedom.sum())
        df[alike] = total**2 / (freedom * own**2).sum() if total > 0 else freedom.sum()
    return spread, df
