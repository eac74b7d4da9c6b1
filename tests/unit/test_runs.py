"""Runs from tables, and tables that do not fit."""

import numpy as np
import pandas as pd
import pytest
from tournaments import make, only, seeded, tables

from headimpact.errors import InputError
from headimpact.tournament.comparison import analyse
from headimpact.tournament.runs import from_tables


def test_a_shuffled_table_gives_the_same_analysis():
    runs = make([*seeded("top", "last"), *(("random", 4, seed, draw) for draw in range(3) for seed in range(2))])
    table, original = tables(runs)
    plain = analyse(from_tables(table, original))
    mixed = analyse(from_tables(table.sample(frac=1, random_state=0), original.sample(frac=1, random_state=1)))
    given = analyse(runs)
    for other in (mixed, given):
        assert {(c.rule, c.k) for c in other.changes} == {("top", 4), ("last", 4), ("random", 4)}
        for change in plain.changes:
            same = only(other.changes, rule=change.rule, k=change.k, metric=change.metric)
            assert (same.value, same.low, same.runs) == pytest.approx((change.value, change.low, change.runs))
        for wanted in plain.comparisons:
            same = only(other.comparisons, rival=wanted.rival, metric=wanted.metric)
            assert (same.advantage, same.low) == pytest.approx((wanted.advantage, wanted.low))


def test_tables_that_do_not_fit_are_refused():
    table, original = tables(make(seeded("top", "last", seeds=2)))
    with pytest.raises(InputError, match=r"The table of runs lacks the columns rule, draw: evaluate again\."):
        from_tables(table.drop(columns=["rule", "draw"]), original)
    with pytest.raises(InputError, match=r"The table of the original lacks the columns nll"):
        from_tables(table, original.drop(columns="nll"))
    with pytest.raises(InputError, match=r"a run without a rule, K, seed or draw: write 0 where nothing is drawn"):
        from_tables(table.assign(draw=np.nan), original)
    with pytest.raises(InputError, match=r"top-4 \(seed 1, draw 0\) was evaluated on other objects"):
        from_tables(table.drop(index=table.index[(table["rule"] == "top") & (table["seed"] == 1)][0]), original)
    with pytest.raises(InputError, match=r"last-4 \(seed 0, draw 0\) was evaluated on other objects"):
        from_tables(table.assign(object_id=table["object_id"] + (table["rule"] == "last") * 1000), original)
    with pytest.raises(InputError, match=r"last-4 \(seed 0, draw 0\) holds object \(.*\) twice"):
        from_tables(pd.concat([table, table[table["rule"] == "last"].head(1)]), original)
    with pytest.raises(InputError, match=r"The original holds object \(.*\) twice"):
        from_tables(table, pd.concat([original, original.head(1)]))
    with pytest.raises(InputError, match=r"top-4 \(seed 0, draw 0\) holds a figure that is not a finite number"):
        from_tables(table.assign(nll=table["nll"].where(table.index != table.index[0])), original)
    with pytest.raises(InputError, match=r"The original holds a figure that is not a finite number"):
        from_tables(table, original.assign(ans_prob=np.inf))
    with pytest.raises(InputError, match=r"There is no run to compare"):
        from_tables(table.head(0), original)
