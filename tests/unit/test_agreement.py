"""Agreement of rules, against scipy and by counting."""

import numpy as np
import pytest
from scipy import stats

from headimpact.selection.agreement import agreement
from headimpact.selection.choice import select


def test_agreement_of_every_pair():
    rng = np.random.default_rng(5)
    measured = {"hi": rng.random((12, 4)), "excess": rng.random(12), "mass": np.full(12, 1.0)}
    setups = ["top-4", "bottom-3", "excess-4", "mass-4", "last-4", "uniform-4", "draw-4-1"]
    table = agreement(setups, measured, seed=0)
    assert len(table) == 7 * 6 // 2
    assert list(table) == ["a", "b", "spearman", "overlap", "expected"]
    found = table.set_index(["a", "b"])
    hi = measured["hi"].mean(axis=1)
    assert found.loc[("top-4", "excess-4"), "spearman"] == pytest.approx(stats.spearmanr(hi, measured["excess"])[0])
    assert found.loc[("top-4", "bottom-3"), "spearman"] == pytest.approx(-1)
    assert found.loc[("top-4", "bottom-3"), ["overlap", "expected"]].tolist() == [0, 1]
    assert found.loc[("top-4", "last-4"), "spearman"] == pytest.approx(stats.spearmanr(hi, range(12))[0])
    assert found.loc[("mass-4", "last-4"), "overlap"] == 0  # all alike: the first four
    assert found["spearman"].isna().sum() == 6 + 5 + 4  # ranks all alike, or no ranking
    own = set(np.argsort(-hi)[:4].tolist()) & set(select("draw-4-1", measured, 0).layers)
    assert found.loc[("top-4", "draw-4-1"), "overlap"] == len(own)
