"""What the layers of a model were measured as, from the tables that hold it."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from headimpact.impact.head_impact import head_grid
from headimpact.selection.rules import HI, MEASURES

Measured = Mapping[str, Shaped[np.ndarray, "..."]]
"""By name of the measure one score a layer, or one a layer and head, of which a layer's score is the mean; NaN for the
layers that have no attention."""


def measured_layers(impact: pd.DataFrame, measures: pd.DataFrame | None = None) -> dict[str, np.ndarray]:
    """Every measure of ``MEASURES`` that the tables hold.

    Args:
        impact: the HI table, one row a head.
        measures: what the step measure wrote, one row a layer; None where that is not there. It may be older than a
            measure, which is left out then.

    Raises:
        InputError: as for :func:`headimpact.impact.head_impact.head_grid`.
    """
    measured = {name: head_grid(impact, name) for name, measure in MEASURES.items() if measure.in_impact_table}
    if measures is not None:
        apart = [name for name, measure in MEASURES.items() if not measure.in_impact_table and name in measures]
        every = measures.set_index("layer").reindex(range(len(measured[HI.name])))
        measured |= {name: every[name].to_numpy() for name in apart}
    return measured


def attending(measured: Measured) -> Int[np.ndarray, " layers"]:
    """The layers that have attention, ascending: those whose heads have a Head Impact."""
    impact = measured[HI.name]
    return np.flatnonzero(~np.isnan(impact).all(axis=1)) if impact.ndim > 1 else np.arange(len(impact))
