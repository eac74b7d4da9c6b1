"""Intervals and p-values of figures whose variance has several parts, each with its own degrees of freedom.

Few runs and many images have different t quantiles. The interval of a single figure weights the quantiles with the
parts' variances (*Experimental Designs*, 1950): in simulations with three runs it covers 95 % to 97.1 %, the most where
runs and images matter alike; Satterthwaite's degrees of freedom go down to 92 %. Corrected intervals, whose
quantiles lie far apart, take the root of the sum of the parts' squared half widths, which never covers too little
(*On confidence interval for two-means problem*, 1961) and never shrinks when a part grows.
"""

import numpy as np
from jaxtyping import Float
from scipy import special


def critical_values(df: np.ndarray, level: np.ndarray | float) -> np.ndarray:
    """Two-sided critical values of Student's t."""
    return -special.stdtrit(df, np.asarray(level) / 2)


def single_half_width(
    t: Float[np.ndarray, "n parts"], variance: Float[np.ndarray, "n parts"]
) -> Float[np.ndarray, " n"]:
    """Of the interval of a figure alone: the critical values, weighted by the parts' variances, in standard errors."""
    se = np.sqrt(variance.sum(1))
    return (t * variance).sum(1) / np.where(se > 0, se, 1)


def corrected_half_width(
    t: Float[np.ndarray, "n parts"], variance: Float[np.ndarray, "n parts"]
) -> Float[np.ndarray, " n"]:
    """Of a corrected interval: root of the sum of the parts' squared half widths."""
    return np.sqrt((t**2 * variance).sum(1))


def corrected_p_value(
    size: Float[np.ndarray, " n"], variance: Float[np.ndarray, "n parts"], df: Float[np.ndarray, "n parts"]
) -> Float[np.ndarray, " n"]:
    """The level at which a corrected interval just reaches 0, by bisection on its logarithm; nothing below 1e-16."""
    low, high = np.full(len(size), -16.0), np.zeros(len(size))
    for _ in range(26):
        middle = (low + high) / 2
        beyond = size > corrected_half_width(critical_values(df, 10 ** middle[:, None]), variance)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    # Without any spread a difference is certain, and none is none.
    return np.where(size > 0, 10**high, 1.0)
