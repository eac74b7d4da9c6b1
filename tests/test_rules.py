"""A rule is one object, a measure another: whatever knows of rules reads the two tables.

``depth`` is a measure that no step computes, ``odd`` a rule that takes a set. They stand nowhere but in the tables.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headimpact.errors import InputError
from headimpact.impact.head_impact import Impact
from headimpact.lifecycle import layout, params
from headimpact.lifecycle.steps.measured import read_measured
from headimpact.selection.agreement import with_champion
from headimpact.selection.choice import select
from headimpact.selection.grammar import alias
from headimpact.selection.measured import measured_layers
from headimpact.selection.measures import LayerMeasures
from headimpact.selection.rules import BY_MEASURE, BY_POSITION, GROUPS, MEASURES, RULES, Measure, Rule, by_measure
from headimpact.selection.setups import check_setup, needs_measures, parse_setup
from headimpact.tournament import figure as tournament_figure


@pytest.fixture
def depth(monkeypatch: pytest.MonkeyPatch) -> Rule:
    """A measure that the HI table does not hold, and its rule."""
    monkeypatch.setitem(MEASURES, "depth", Measure("depth", "depth of what it sees"))
    monkeypatch.setitem(RULES, "depth", by_measure("depth"))
    return RULES["depth"]


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Rule:
    """A rule without a measure, by position, that takes a set."""
    rule = Rule(
        "odd",
        "{k} of {layers} layers, every second one",
        BY_POSITION,
        takes=lambda candidates: range(1, 2 * candidates.count, 2),
        lacks=lambda count, layers: None if 2 * count <= layers else f"needs {2 * count} layers.",
    )
    monkeypatch.setitem(RULES, "odd", rule)
    return rule


@pytest.fixture
def impact() -> pd.DataFrame:
    """An HI table of six layers with two heads."""
    shape = (5, 6, 2)
    rng = np.random.default_rng(0)
    ids = np.arange(5)
    return Impact(ids, ids, *(rng.random(shape, dtype=np.float32) for _ in range(4))).table()


def test_a_new_rule_is_a_setup(depth: Rule, odd: Rule) -> None:
    assert (check_setup("depth-2").kind, check_setup("odd-3").count) == ("depth", 3)
    assert alias("depth-2") == "depth-2"
    assert needs_measures("depth-2")
    assert not needs_measures("odd-2")
    with pytest.raises(InputError, match=r"Did you mean depth-3\? The setups are: .*, depth-K, odd-K, layers:6"):
        check_setup("dept-3")
    with pytest.raises(InputError, match=r"^Setup 'odd-4' needs 8 layers\.$"):
        parse_setup("odd-4", 6)


def test_a_new_measure_is_read_and_ranked_by(depth: Rule, impact: pd.DataFrame) -> None:
    scores = np.array([3.0, 9.0, 1.0, 9.0, 0.0, 4.0])
    table = LayerMeasures({"depth": scores}, {}).table()
    measured = measured_layers(impact, table)
    selection = select("depth-3", measured, seed=0)
    assert selection.layers == (1, 3, 5)
    assert selection.scores == tuple(scores)
    assert selection.rule == "the 3 layers with the highest depth of what it sees"
    assert selection.why[0].reason == "rank 1 of 6 by depth of what it sees"
    with pytest.raises(InputError, match=r"^Setup 'depth-3' goes by the depth of what it sees, which was not measured"):
        select("depth-3", measured_layers(impact), seed=0)


def test_a_new_rule_chooses_and_says_why(odd: Rule, impact: pd.DataFrame) -> None:
    selection = select("odd-2", measured_layers(impact), seed=0)
    assert selection.layers == (1, 3)
    assert selection.rule == "2 of 6 layers, every second one"
    assert all(re.fullmatch(r"by position \(odd\); rank \d of 6 by mean HI", why.reason) for why in selection.why)


def test_a_new_rule_is_compared_with_the_champion(depth: Rule, odd: Rule, impact: pd.DataFrame) -> None:
    hi = impact.groupby("layer")["hi"].mean().to_numpy()
    measured = measured_layers(impact, pd.DataFrame({"layer": range(6), "depth": -hi}))
    found = with_champion(measured, 3).set_index("rule")
    assert found.loc["depth"].tolist() == [pytest.approx(-1), 0]
    assert np.isnan(found.loc["odd", "spearman"])
    assert {"top", "bottom", "random", "full", "draw", "knockout"}.isdisjoint(found.index)
    assert "depth" not in with_champion(measured_layers(impact), 3)["rule"].tolist()


def test_a_new_rule_has_its_groups_colour_and_shape_in_the_figure(depth: Rule, odd: Rule) -> None:
    changes = pd.DataFrame(
        [
            ("tiny", rule, 4, metric, value, value - 0.1, value + 0.1)
            for value, rule in enumerate(("top", "depth", "odd"))
            for metric in ("perplexity", "accuracy", "ans_prob")
        ],
        columns=["model", "rule", "k", "metric", "value", "low", "high"],
    )
    axes = tournament_figure.draw(changes).axes[0]
    drawn = {
        float(bars.lines[0].get_xdata()[0]): (bars.lines[0].get_color(), bars.lines[0].get_marker())
        for bars in axes.containers
    }
    assert drawn[1] == (BY_MEASURE.colour, BY_MEASURE.marker)
    assert drawn[2] == (BY_POSITION.colour, BY_POSITION.marker)
    assert drawn[0] not in {(group.colour, group.marker) for group in GROUPS}


def test_a_new_rule_can_take_part_in_a_tournament(
    depth: Rule, tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("params.yaml")
    path.write_text((project_root / "params.yaml").read_text().replace("rules: [top,", "rules: [top, depth,"))
    assert "depth" in params.load(path).tournament.rules
    path.write_text(path.read_text().replace("setups: [original,", "setups: [original, depth-4,"))
    with pytest.raises(InputError, match=r"grid\.setups cannot hold depth-4"):
        params.load(path)


def test_a_new_measure_is_read_from_the_steps_files(
    depth: Rule, impact: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    measures = pd.DataFrame({"layer": [0], "depth": [7]})
    for path, table in ((layout.impact_table("tiny"), impact), (layout.measures("tiny"), measures)):
        path.parent.mkdir(parents=True)
        table.to_csv(path, index=False)
    assert set(read_measured("tiny", with_measures=True)) == {"hi", "excess", "auroc", "mass", "depth"}
    assert set(read_measured("tiny", with_measures=False)) == {"hi", "excess", "auroc", "mass"}


def test_every_rule_goes_by_a_known_measure_and_is_in_a_legend() -> None:
    for name, rule in RULES.items():
        assert rule.name == name
        assert rule.measure is None or MEASURES[rule.measure.name] == rule.measure
        assert rule.group in GROUPS
    assert len({(group.colour, group.marker) for group in GROUPS}) == len(GROUPS)


def test_the_impact_table_holds_the_measures_that_it_is_said_to_hold(impact: pd.DataFrame) -> None:
    assert {name for name in MEASURES if name in impact} == {
        name for name, measure in MEASURES.items() if measure.in_impact_table
    }


def test_a_rule_either_ranks_or_takes() -> None:
    for both in ({}, {"ranks": list, "takes": lambda candidates: [0]}):
        with pytest.raises(ValueError, match="The rule vague must either rank layers or take a set"):
            Rule("vague", "some layers", BY_MEASURE, **both)
