"""How many test images a comparison would take, and what it can see as it is."""

from typing import cast

import numpy as np
from scipy import optimize, special

from headimpact.errors import InputError
from headimpact.tournament.comparison import Comparison

_MANY = 1e9  # test images that nobody will ever have


def images_needed(comparison: Comparison, difference: float, power: float = 0.8) -> float:
    """Test images with which a true ``difference`` would be claimed with probability ``power``, all runs as now.

    With g = images now / images then and the comparison's :class:`Spread`, the variance then is
    V = (images + both) g + runs and the interval's half width H = sqrt(t_images^2 images g + t_runs^2 (both g +
    runs)), at the corrected level. Wanted is H + z(power) sqrt(V) = difference, z the normal quantile: where
    ``runs`` is 0 and t the same for both, images now x (images + both) ((t + z(power)) / difference)^2. Infinite
    where the runs alone vary too much: then it takes more seeds or draws, not images.
    The spread is itself estimated from few runs, so read the answer as an order of size. Infinite, too, for rules
    that took the same layers.

    Raises:
        InputError: ``difference`` is not above 0, or ``power`` is below 0.5 or not below 1.
    """
    if not difference > 0:
        raise InputError(f"The difference to be seen is {difference}: give a number above 0.")
    if _visible(comparison, _MANY, power) > difference:
        return float("inf")
    if _visible(comparison, 2.0, power) <= difference:
        return 2.0

    def short(log_images: float) -> float:
        return _visible(comparison, np.exp(log_images), power) - difference

    images = np.exp(cast(float, optimize.brentq(short, np.log(2), np.log(_MANY))))
    return float(np.ceil(images * (1 - 1e-9)))


def smallest_visible(comparison: Comparison, power: float = 0.8) -> float:
    """The true difference that this comparison, as it is, would claim with probability ``power``.

    Raises:
        InputError: ``power`` is not between 0.5 and 1.
    """
    return _visible(comparison, float(comparison.images), power)


def _visible(comparison: Comparison, images: float, power: float) -> float:
    if not 0.5 <= power < 1:
        raise InputError(f"power is {power}; give a share from 0.5 to below 1, such as 0.8.")
    if comparison.same:
        return float("inf")
    spread, share = comparison.spread, comparison.images / images
    alike, apart = spread.images * share, spread.both * share + spread.runs
    half = np.sqrt(spread.t_images**2 * alike + spread.t_runs**2 * apart)
    return float(half + special.ndtri(power) * np.sqrt(alike + apart))
