"""Whether Head Impact differs between layers, and between head positions: the tests of the paper's table 2."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from headimpact.errors import InputError


@dataclass(frozen=True)
class KruskalTest:
    """One Kruskal-Wallis test: H statistic, degrees of freedom (groups - 1), p-value."""

    statistic: float
    df: int
    p_value: float


@dataclass(frozen=True)
class KruskalWallis:
    """Whether Head Impact differs between layers, and between head positions (paper, table 2)."""

    layers: KruskalTest
    heads: KruskalTest

    def to_dict(self) -> dict[str, Any]:
        """As written to JSON: {layers: {statistic, df, p_value}, heads: {...}}."""
        return asdict(self)


def kruskal_wallis(hi: Float[np.ndarray, "layers heads"]) -> KruskalWallis:
    """Kruskal-Wallis test across layers (a group is a layer) and across heads (a group is a head position).

    Raises:
        InputError: fewer than two layers or heads, a NaN, or one value throughout: the test is not defined.
    """
    if min(hi.shape) < 2:
        raise InputError(f"Kruskal-Wallis compares groups: {hi.shape[0]} layers x {hi.shape[1]} heads are too few.")
    if not np.isfinite(hi).all():
        raise InputError("Kruskal-Wallis needs a Head Impact for every head; some are not numbers.")
    if np.ptp(hi) == 0:
        raise InputError(f"Every head has the same Head Impact ({hi.flat[0]:.4g}): there is nothing to compare.")
    return KruskalWallis(layers=_kruskal(hi), heads=_kruskal(hi.T))


def _kruskal(groups: Float[np.ndarray, "groups members"]) -> KruskalTest:
    statistic, p_value = stats.kruskal(*groups)
    return KruskalTest(statistic=float(statistic), df=len(groups) - 1, p_value=float(p_value))
