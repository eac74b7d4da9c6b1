"""The layers and heads that setups choose, and the reasons given."""

import re

import numpy as np
import pytest
from scipy import stats

from headimpact.errors import InputError
from headimpact.selection.choice import priority, select

# ranks from the best: 5, 2, 9, 0 ... and 11, 7, 3, 1 from the worst
SCORES = np.array([0.60, 0.13, 0.80, 0.12, 0.30, 0.90, 0.40, 0.11, 0.35, 0.70, 0.45, 0.10])

HI = {"hi": SCORES}


@pytest.mark.parametrize(
    ("setup", "layers"),
    [
        ("original", ()),
        ("top-1", (5,)),
        ("top-4", (0, 2, 5, 9)),
        ("top-12", tuple(range(12))),
        ("bottom-1", (11,)),
        ("bottom-4", (1, 3, 7, 11)),
        ("full", tuple(range(12))),
        ("full-4", tuple(range(12))),
        ("layers:1,5", (1, 5)),
        ("random-4", (4, 6, 8, 10)),  # all that top-4 and bottom-4 leave of 12
        ("first-3", (0, 1, 2)),
        ("last-3", (9, 10, 11)),
        ("middle-1", (5,)),
        ("middle-3", (4, 5, 6)),
        ("middle-4", (4, 5, 6, 7)),
        ("uniform-1", (6,)),
        ("uniform-4", (1, 4, 7, 10)),
        ("uniform-5", (1, 3, 6, 8, 10)),
        ("uniform-12", tuple(range(12))),
        ("draw-12-3", tuple(range(12))),
    ],
)
def test_layers_chosen(setup: str, layers: tuple[int, ...]):
    selection = select(setup, HI, seed=0)
    assert selection.layers == layers
    assert selection.setup == setup
    assert [reason.layer for reason in selection.why] == list(layers)
    assert [reason.score for reason in selection.why] == [SCORES[layer] for layer in layers]


def test_ties_go_to_the_lower_index():
    assert select("top-2", {"hi": np.array([0.1, 0.5, 0.5, 0.5])}, seed=0).layers == (1, 2)
    assert select("bottom-2", {"hi": np.array([0.5, 0.1, 0.1, 0.1])}, seed=0).layers == (1, 2)
    assert select("top-3", {"hi": np.full(9, 0.5)}, seed=0).layers == (0, 1, 2)
    assert select("bottom-3", {"hi": np.full(9, 0.5)}, seed=0).layers == (0, 1, 2)
    assert not {0, 1, 2} & set(select("random-3", {"hi": np.full(9, 0.5)}, seed=0).layers)


def test_random_is_disjoint_seeded_and_reaches_every_other_layer():
    scores = np.random.default_rng(7).random(26)
    top, bottom = (set(select(f"{kind}-4", {"hi": scores}, seed=0).layers) for kind in ("top", "bottom"))
    drawn = [select("random-4", {"hi": scores}, seed=seed).layers for seed in range(40)]
    assert drawn == [select("random-4", {"hi": scores}, seed=seed).layers for seed in range(40)]
    assert all(len(set(layers)) == 4 and layers == tuple(sorted(layers)) for layers in drawn)
    assert len(set(drawn)) > 30
    assert set().union(*drawn) == set(range(26)) - top - bottom


def test_random_depends_on_nothing_but_seed_and_ranks():
    scores = np.random.default_rng(7).random(26)
    np.random.seed(0)  # the global state must not matter
    before = select("random-4", {"hi": scores}, seed=3).layers
    np.random.seed(1)
    assert select("random-4", {"hi": scores}, seed=3).layers == before
    assert select("random-4", {"hi": scores * 0.5 + 0.1}, seed=3).layers == before


def test_why_states_rank_rule_and_seed():
    top = select("top-4", HI, seed=0)
    assert top.rule == "the 4 layers with the highest mean Head Impact"
    assert [reason.reason for reason in top.why] == [f"rank {rank} of 12 by mean HI" for rank in (4, 2, 1, 3)]
    assert select("bottom-4", HI, seed=0).rule == "the 4 layers with the lowest mean Head Impact"
    drawn = select("random-2", HI, seed=11)
    assert drawn.rule == "2 of the 8 layers outside top-2 and bottom-2, drawn with seed 11"
    assert all(reason.reason.startswith("drawn with seed 11; rank ") for reason in drawn.why)
    assert select("layers:5", HI, seed=0).why[0].reason == "named in the setup; rank 1 of 12 by mean HI"
    assert select("original", HI, seed=0).rule == "no layer: the base as it is"


def test_a_missing_score_is_refused():
    scores = SCORES.copy()
    scores[4] = np.nan
    with pytest.raises(InputError, match=r"^Layer 4 has no score \(nan\): score the model again\.$"):
        select("top-4", {"hi": scores}, seed=0)


def measured(layers: int = 12, heads: int = 4) -> dict[str, np.ndarray]:
    """Scores that all rank differently, some a head and some a layer."""
    rng = np.random.default_rng(3)
    found = {name: rng.random((layers, heads)) for name in ("hi", "excess", "auroc", "mass", "share")}
    return found | {name: rng.random(layers) for name in ("gradient", "knockout", "localisation", "kappa")}


@pytest.mark.parametrize("rule", ["excess", "auroc", "mass", "share", "gradient", "knockout", "localisation", "kappa"])
def test_a_measured_rule_takes_the_layers_of_its_own_highest_scores(rule: str):
    scores = measured()[rule]
    wanted = scores.mean(axis=1) if scores.ndim > 1 else scores
    best = sorted(range(12), key=lambda layer: -wanted[layer])
    found = select(f"{rule}-3", measured(), seed=0)
    assert found.layers == tuple(sorted(best[:3]))
    assert list(found.scores) == wanted.tolist()
    for reason in found.why:
        assert reason.score == wanted[reason.layer]
        assert reason.reason.startswith(f"rank {best.index(reason.layer) + 1} of 12 by ")
    assert found.rule.startswith("the 3 layers with the highest ")
    ties = {**measured(), rule: np.full(12, 0.5)}
    assert select(f"{rule}-2", ties, seed=0).layers == (0, 1)


def test_a_rule_without_its_measure_is_refused():
    with pytest.raises(InputError, match=r"^Setup 'knockout-4' goes by the loss of .*, which was not measured"):
        select("knockout-4", HI, seed=0)
    with pytest.raises(InputError, match=r"^Layer 2 has no score \(nan\)"):
        select("gradient-1", {**HI, "gradient": np.array([1.0, 2, np.nan])}, seed=0)


def test_positions_need_no_score_but_tell_it():
    found = select("last-2", HI, seed=0)
    assert found.rule == "the 2 last layers"
    assert [reason.reason for reason in found.why] == [
        "by position (last); rank 5 of 12 by mean HI",
        "by position (last); rank 12 of 12 by mean HI",
    ]
    assert select("uniform-2", HI, seed=0).rule == "2 layers spaced evenly over the depth"
    flipped = {"hi": SCORES[::-1].copy()}
    for rule in ("first", "middle", "last", "uniform"):
        assert select(f"{rule}-4", HI, seed=0).layers == select(f"{rule}-4", flipped, seed=9).layers


@pytest.mark.parametrize("layers", [5, 12, 26])
def test_uniform_spreads_over_the_depth_for_every_count(layers: int):
    for count in range(1, layers + 1):
        chosen = select(f"uniform-{count}", {"hi": np.zeros(layers)}, seed=0).layers
        assert len(set(chosen)) == count
        gaps = np.diff([-(chosen[0] + 1), *chosen, 2 * layers - chosen[-1]])[1:-1]
        assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_draws_are_unconditional_seeded_and_nested():
    scores = {"hi": np.random.default_rng(7).random(14)}
    drawn = [select(f"draw-4-{draw}", scores, seed=0).layers for draw in range(200)]
    assert drawn == [select(f"draw-4-{draw}", {"hi": np.zeros(14)}, seed=0).layers for draw in range(200)]
    assert drawn[0] != select("draw-4-0", scores, seed=1).layers
    times = np.bincount(np.concatenate(drawn), minlength=14)
    assert stats.chisquare(times).pvalue > 0.01  # every layer alike, those of top-4 and bottom-4 among them
    for draw in range(5):
        assert set(select(f"draw-2-{draw}", scores, seed=0).layers) < set(drawn[draw])
    found = select("draw-4-3", scores, seed=5)
    assert found.rule == "4 of all 14 layers, draw 3 with seed 5"
    assert all(reason.reason.startswith("drawn with seed 5; rank ") for reason in found.why)


def test_what_rules_rank_by():
    scores = measured()
    assert np.array_equal(priority("top", scores), scores["hi"].mean(axis=1))
    assert np.array_equal(priority("bottom", scores), -scores["hi"].mean(axis=1))
    assert np.array_equal(priority("knockout", scores), scores["knockout"])
    assert all(priority(kind, scores) is None for kind in ("uniform", "random", "draw", "full", "layers"))


# ---- single heads


def test_the_heads_of_highest_impact():
    grid = np.array([[0.1, 0.8, 0.2], [0.7, 0.7, 0.3], [0.1, 0.2, 0.9]])
    found = select("heads:top-3", {"hi": grid}, seed=0)
    assert found.heads == ((0, 1), (1, 0), (2, 2))  # of the equal ones the lower index
    assert found.layers == (0, 1, 2)
    assert found.rule == "the 3 heads with the highest Head Impact"
    assert [(r.layer, r.head, r.score) for r in found.why] == [(0, 1, 0.8), (1, 0, 0.7), (2, 2, 0.9)]
    assert [r.reason for r in found.why] == [f"rank {rank} of 9 heads by HI" for rank in (2, 3, 1)]
    assert list(found.scores) == pytest.approx([1.1 / 3, 1.7 / 3, 1.2 / 3])
    named = select("heads:1.2,2.0", {"hi": grid}, seed=0)
    assert named.heads == ((1, 2), (2, 0))
    assert named.layers == (1, 2)
    assert named.why[0].reason == "named in the setup; rank 5 of 9 heads by HI"


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ("heads:top-49", "Setup 'heads:top-49' asks for 49 heads, but the model has 48."),
        (
            "heads:3.4",
            "Setup 'heads:3.4' names head 3.4, but the model has 12 layers of 4 heads, both counted from 0.",
        ),
        ("heads:12.0", "Setup 'heads:12.0' names head 12.0, but the model has 12 layers of 4 heads, both counted"),
    ],
)
def test_heads_that_the_model_has_not(setup: str, message: str):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        select(setup, measured(), seed=0)
