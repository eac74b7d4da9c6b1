"""How much the rules of selection agree about the layers of a model."""

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from headimpact.selection.choice import priority, select
from headimpact.selection.measured import Measured, attending
from headimpact.selection.rules import BY_MEASURE, BY_POSITION, CHAMPION, HI, RULES
from headimpact.selection.setups import check_setup
from headimpact.statistics import spearman


def agreement(setups: Sequence[str], measured: Measured, seed: int) -> pd.DataFrame:
    """How much setups agree about the layers of one model, for every pair of them.

    Columns: a, b, spearman (rank correlation of what the two rules go by, over all layers, -1..1, average ranks for
    ties; NaN where a rule is no ranking or ranks all alike), overlap (how many of the layers that they choose are the
    same), expected (how many would be by chance).

    Raises:
        InputError: as for :func:`choice.select`.
    """
    chosen = {setup: set(select(setup, measured, seed).layers) for setup in setups}
    ranking = {setup: priority(check_setup(setup).kind, measured) for setup in setups}
    rows = [
        {
            "a": a,
            "b": b,
            "spearman": spearman(ranking[a], ranking[b]),
            "overlap": len(chosen[a] & chosen[b]),
            "expected": len(chosen[a]) * len(chosen[b]) / len(attending(measured)),
        }
        for a, b in combinations(setups, 2)
    ]
    return pd.DataFrame(rows, columns=["a", "b", "spearman", "overlap", "expected"])


def with_champion(measured: Measured, k: int) -> pd.DataFrame:
    """The champion beside every rule that goes by something else than HI: by another measure, if it was measured, or
    by position.

    Columns: rule, and spearman and overlap as in :func:`agreement`, at ``k`` layers.

    Raises:
        InputError: as for :func:`choice.select`.
    """
    rules = [
        rule.name
        for rule in RULES.values()
        if rule.group in (BY_MEASURE, BY_POSITION)
        and (rule.measure is None or (rule.measure != HI and rule.measure.name in measured))
    ]
    champion = f"{CHAMPION}-{k}"
    pairs = agreement([champion, *(f"{rule}-{k}" for rule in rules)], measured, seed=0)  # none of them draws
    return pairs[pairs["a"] == champion].assign(rule=rules)[["rule", "spearman", "overlap"]]
