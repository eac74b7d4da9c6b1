"""How much the rules of selection agree about the layers of a model."""

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from headimpact.selection.selection import Measured, check_setup, priority, select
from headimpact.statistics import spearman


def agreement(setups: Sequence[str], measured: Measured, seed: int) -> pd.DataFrame:
    """How much setups agree about the layers of one model, for every pair of them.

    Columns: a, b, spearman (rank correlation of what the two rules go by, over all layers, -1..1, average ranks for
    ties; NaN where a rule is no ranking or ranks all alike), overlap (how many of the layers that they choose are the
    same), expected (how many would be by chance).

    Raises:
        InputError: as for :func:`selection.select`.
    """
    chosen = {setup: set(select(setup, measured, seed).layers) for setup in setups}
    ranking = {setup: priority(check_setup(setup).kind, measured) for setup in setups}
    rows = [
        {
            "a": a,
            "b": b,
            "spearman": spearman(ranking[a], ranking[b]),
            "overlap": len(chosen[a] & chosen[b]),
            "expected": len(chosen[a]) * len(chosen[b]) / len(measured["hi"]),
        }
        for a, b in combinations(setups, 2)
    ]
    return pd.DataFrame(rows, columns=["a", "b", "spearman", "overlap", "expected"])
