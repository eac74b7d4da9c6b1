"""Setups and the layers they choose."""

import json
import re

import numpy as np
import pytest
from scipy import stats

from headimpact.errors import InputError
from headimpact.selection.selection import RULES, Selection, Setup, alias, check_setup, parse_setup, priority, select

# ranks from the best: 5, 2, 9, 0 ... and 11, 7, 3, 1 from the worst
SCORES = np.array([0.60, 0.13, 0.80, 0.12, 0.30, 0.90, 0.40, 0.11, 0.35, 0.70, 0.45, 0.10])

HI = {"hi": SCORES}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("original", Setup("original", "original")),
        ("full", Setup("full", "full")),
        ("full-4", Setup("full-4", "full", count=4)),
        ("top-4", Setup("top-4", "top", count=4)),
        ("bottom-12", Setup("bottom-12", "bottom", count=12)),
        ("random-4", Setup("random-4", "random", count=4)),
        ("layers:6,8,9,11", Setup("layers:6,8,9,11", "layers", layers=(6, 8, 9, 11))),
        ("layers:0", Setup("layers:0", "layers", layers=(0,))),
        ("excess-4", Setup("excess-4", "excess", count=4)),
        ("localisation-1", Setup("localisation-1", "localisation", count=1)),
        ("middle-12", Setup("middle-12", "middle", count=12)),
        ("draw-4-0", Setup("draw-4-0", "draw", count=4)),
        ("draw-12-37", Setup("draw-12-37", "draw", count=12, draw=37)),
    ],
)
def test_setups_are_read(text: str, expected: Setup):
    assert check_setup(text) == expected
    assert parse_setup(text, 12) == expected


def test_named_heads_are_read():
    assert check_setup("heads:top-32") == Setup("heads:top-32", "heads", count=32)
    assert check_setup("heads:8.3,8.5,10.0") == Setup("heads:8.3,8.5,10.0", "heads", heads=((8, 3), (8, 5), (10, 0)))


UNKNOWN = {
    "topp-4": " Did you mean top-4?",
    "top": " Did you mean top-4?",
    "top-": " Did you mean top-4?",
    "top-x": " Did you mean top-4?",
    "top--1": " Did you mean top-4?",
    "Top-8": " Did you mean top-8?",
    "": "",
    "xyz-4": "",
    "random": " Did you mean random-4?",
    "original-4": " Did you mean original?",
    "top-9999999": " Did you mean top-4?",
    "gradients-2": " Did you mean gradient-2?",
    "localization-3": " Did you mean localisation-3?",
    "centre-1": "",
    "head:top-4": " Did you mean heads:top-32?",
    "layer:6": " Did you mean layers:6,8?",
    "draw-4": " Did you mean draw-4-0?",
    "draw-4.1": " Did you mean draw-4-0?",
    " full": " Did you mean full?",
    "ful-4": " Did you mean full-4?",
    "top-4 ": " Did you mean top-4?",
    "top-4\n": " Did you mean top-4?",
    "top-\u0664": " Did you mean top-4?",
}


@pytest.mark.parametrize(("text", "hint"), UNKNOWN.items())
def test_unknown_setups_name_the_nearest_and_list_what_exists(text: str, hint: str):
    message = (
        f"Unknown setup {text!r}.{hint} The setups are: original, full, full-K, top-K, bottom-K, random-K, excess-K, "
        "auroc-K, mass-K, share-K, gradient-K, knockout-K, localisation-K, first-K, middle-K, last-K, uniform-K, "
        "draw-K-S, layers:6,8,9,11, heads:top-32, heads:8.3,8.5 (K is a whole number from 1, S one from 0)."
    )
    for read in (check_setup, lambda text: parse_setup(text, 12)):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            read(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top-0", "Setup 'top-0' selects no layer: K is a whole number from 1, as in top-4."),
        ("random-00", "Setup 'random-00' selects no layer: K is a whole number from 1, as in random-4."),
        ("bottom-04", "Setup 'bottom-04': write it as bottom-4."),
        ("full-0", "Setup 'full-0' selects no layer: K is a whole number from 1, as in full-4."),
        ("knockout-0", "Setup 'knockout-0' selects no layer: K is a whole number from 1, as in knockout-4."),
        ("uniform-0", "Setup 'uniform-0' selects no layer: K is a whole number from 1, as in uniform-4."),
        ("draw-0-2", "Setup 'draw-0-2' selects no layer: K is a whole number from 1, as in draw-4-2."),
        ("draw-04-2", "Setup 'draw-04-2': write it as draw-4-2."),
        ("draw-4-02", "Setup 'draw-4-02': write it as draw-4-2."),
        ("heads:top-0", "Setup 'heads:top-0' selects no head: K is a whole number from 1, as in heads:top-4."),
        ("heads:top-032", "Setup 'heads:top-032': write it as heads:top-32."),
        ("heads:8.3,8.3", "Setup 'heads:8.3,8.3' names head 8.3 twice."),
        ("heads:8.10,8.9", "Setup 'heads:8.10,8.9': write it as heads:8.9,8.10."),
        ("heads:8.03", "Setup 'heads:8.03': write it as heads:8.3."),
        *(
            (
                text,
                f"Setup {text!r}: write the number of heads as in heads:top-32, or name them by layer and head, with "
                "commas and nothing else, as in heads:8.3,8.5.",
            )
            for text in ("heads:", "heads:8", "heads:8.3,", "heads:8.3, 8.5", "heads:bottom-4", "heads:top-x")
        ),
        ("layers:6,8,6", "Setup 'layers:6,8,6' names layer 6 twice."),
        ("layers:9,6", "Setup 'layers:9,6': write it as layers:6,9."),
        ("layers:06", "Setup 'layers:06': write it as layers:6."),
        *(
            (
                text,
                f"Setup {text!r}: name layers by index, with commas and nothing else, as in layers:6,8,9,11.",
            )
            for text in ("layers:", "layers:6,", "layers:6, 8", "layers:-1", "layers:a", "layers:6-8")
        ),
    ],
)
def test_wrong_texts_fail_before_the_model_is_known(text: str, message: str):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_setup(text)


@pytest.mark.parametrize(
    ("text", "layers", "message"),
    [
        ("top-99", 12, "Setup 'top-99' asks for 99 layers, but the model has 12."),
        ("bottom-13", 12, "Setup 'bottom-13' asks for 13 layers, but the model has 12."),
        (
            "random-5",
            12,
            "Setup 'random-5' needs 5 layers outside top-5 and bottom-5, but the model has 12 "
            "layers, which leaves 2: K can be at most 4.",
        ),
        (
            "random-7",
            12,
            "Setup 'random-7' needs 7 layers outside top-7 and bottom-7, but the model has 12 "
            "layers, which leaves 0: K can be at most 4.",
        ),
        ("knockout-13", 12, "Setup 'knockout-13' asks for 13 layers, but the model has 12."),
        ("uniform-13", 12, "Setup 'uniform-13' asks for 13 layers, but the model has 12."),
        ("draw-13-0", 12, "Setup 'draw-13-0' asks for 13 layers, but the model has 12."),
        ("heads:top-2", 12, "Setup 'heads:top-2' needs the Head Impact of every head, not of layers alone."),
        ("layers:6,12", 12, "Setup 'layers:6,12' names layer 12, but the model has 12 layers, 0 to 11."),
    ],
)
def test_setups_that_the_model_is_too_small_for(text: str, layers: int, message: str):
    check_setup(text)
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        parse_setup(text, layers)
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        select(text, {"hi": SCORES[:layers]}, seed=0)


def test_alias_holds_only_what_mlflow_allows():
    setups = ["original", "top-4", "bottom-4", "random-4", "full", "layers:6,8", "layers:68", "layers:6"]
    setups += ["draw-4-2", "heads:top-4", "heads:8.3,8.5", "heads:83.8", *(f"{rule}-1" for rule in RULES)]
    aliases = [alias(setup) for setup in setups]
    assert aliases[5] == "layers-6-8"
    assert aliases[:5] == setups[:5]
    assert len(set(aliases)) == len(setups)
    for name in aliases:
        assert re.fullmatch(r"[\w-]{1,255}", name)
        assert not re.fullmatch(r"[vV]\d+|latest", name)
    assert aliases[8:12] == ["draw-4-2", "heads-top-4", "heads-8-3-8-5", "heads-83-8"]
    with pytest.raises(InputError, match="Unknown setup"):
        alias("top 4")


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


@pytest.mark.parametrize("setup", ["original", "top-4", "random-3", "layers:1,5", "last-2", "draw-3-1"])
def test_selection_survives_json(setup: str):
    selection = select(setup, HI, seed=5)
    data = json.loads(json.dumps(selection.to_dict(), allow_nan=False))
    assert Selection.from_dict(data) == selection
    assert Selection.from_dict({**data, "model": "tiny-smolvlm", "table_digest": "00"}) == selection


def measured(layers: int = 12, heads: int = 4) -> dict[str, np.ndarray]:
    """Scores that all rank differently, some a head and some a layer."""
    rng = np.random.default_rng(3)
    found = {name: rng.random((layers, heads)) for name in ("hi", "excess", "auroc", "mass", "share")}
    return found | {name: rng.random(layers) for name in ("gradient", "knockout", "localisation")}


@pytest.mark.parametrize("rule", ["excess", "auroc", "mass", "share", "gradient", "knockout", "localisation"])
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


@pytest.mark.parametrize("setup", ["heads:top-5", "heads:1.2,8.0,8.3"])
def test_selected_heads_survive_json(setup: str):
    selection = select(setup, measured(), seed=5)
    data = json.loads(json.dumps(selection.to_dict(), allow_nan=False))
    assert Selection.from_dict(data) == selection
    with pytest.raises(InputError, match=r"^The selection names heads but gives reasons for others\. Select again\.$"):
        Selection.from_dict({**data, "heads": data["heads"][1:]})


def test_edited_json_is_refused():
    data = select("top-2", HI, seed=0).to_dict()
    with pytest.raises(InputError, match=r"^This is not a selection \(KeyError: 'rule'\)\. Select again\.$"):
        Selection.from_dict({key: value for key, value in data.items() if key != "rule"})
    with pytest.raises(InputError, match="This is not a selection"):
        Selection.from_dict({**data, "layers": ["two"]})
    with pytest.raises(InputError, match=r"names the layers \[2, 6\] but gives reasons for others"):
        Selection.from_dict({**data, "layers": [2, 6]})
