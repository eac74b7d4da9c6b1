"""Setups and the layers they choose."""

import json
import re

import numpy as np
import pytest

from headimpact.errors import InputError
from headimpact.selection import Selection, Setup, alias, check_setup, parse_setup, select

# ranks from the best: 5, 2, 9, 0 ... and 11, 7, 3, 1 from the worst
SCORES = np.array([0.60, 0.13, 0.80, 0.12, 0.30, 0.90, 0.40, 0.11, 0.35, 0.70, 0.45, 0.10])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("original", Setup("original", "original")),
        ("full", Setup("full", "full")),
        ("top-4", Setup("top-4", "top", count=4)),
        ("bottom-12", Setup("bottom-12", "bottom", count=12)),
        ("random-4", Setup("random-4", "random", count=4)),
        ("layers:6,8,9,11", Setup("layers:6,8,9,11", "layers", layers=(6, 8, 9, 11))),
        ("layers:0", Setup("layers:0", "layers", layers=(0,))),
    ],
)
def test_setups_are_read(text: str, expected: Setup):
    assert check_setup(text) == expected
    assert parse_setup(text, 12) == expected


UNKNOWN = ["topp-4", "top", "top-", "top-x", "top--1", "Top-4", "", "random", "original-4", "top-9999999"]
ALMOST = [" full", "top-4 ", "top-4\n", "top-\u0664"]


@pytest.mark.parametrize("text", [*UNKNOWN, *ALMOST])
def test_unknown_setups_list_what_exists(text: str):
    message = (
        f"Unknown setup {text!r}. The setups are: "
        "original, top-K, bottom-K, random-K, full, layers:6,8,9,11 (K is a whole number from 1)."
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
        ("layers:6,12", 12, "Setup 'layers:6,12' names layer 12, but the model has 12 layers, 0 to 11."),
    ],
)
def test_setups_that_the_model_is_too_small_for(text: str, layers: int, message: str):
    check_setup(text)
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        parse_setup(text, layers)
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        select(text, SCORES[:layers], seed=0)


def test_alias_holds_only_what_mlflow_allows():
    setups = ["original", "top-4", "bottom-4", "random-4", "full", "layers:6,8", "layers:68", "layers:6"]
    aliases = [alias(setup) for setup in setups]
    assert aliases[5] == "layers-6-8"
    assert aliases[:5] == setups[:5]
    assert len(set(aliases)) == len(setups)
    for name in aliases:
        assert re.fullmatch(r"[\w-]{1,255}", name)
        assert not re.fullmatch(r"[vV]\d+|latest", name)
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
        ("layers:1,5", (1, 5)),
        ("random-4", (4, 6, 8, 10)),  # all that top-4 and bottom-4 leave of 12
    ],
)
def test_layers_chosen(setup: str, layers: tuple[int, ...]):
    selection = select(setup, SCORES, seed=0)
    assert selection.layers == layers
    assert selection.setup == setup
    assert [reason.layer for reason in selection.why] == list(layers)
    assert [reason.score for reason in selection.why] == [SCORES[layer] for layer in layers]


def test_ties_go_to_the_lower_index():
    assert select("top-2", np.array([0.1, 0.5, 0.5, 0.5]), seed=0).layers == (1, 2)
    assert select("bottom-2", np.array([0.5, 0.1, 0.1, 0.1]), seed=0).layers == (1, 2)
    assert select("top-3", np.full(9, 0.5), seed=0).layers == (0, 1, 2)
    assert select("bottom-3", np.full(9, 0.5), seed=0).layers == (0, 1, 2)
    assert not {0, 1, 2} & set(select("random-3", np.full(9, 0.5), seed=0).layers)


def test_random_is_disjoint_seeded_and_reaches_every_other_layer():
    scores = np.random.default_rng(7).random(26)
    top, bottom = (set(select(f"{kind}-4", scores, seed=0).layers) for kind in ("top", "bottom"))
    drawn = [select("random-4", scores, seed=seed).layers for seed in range(40)]
    assert drawn == [select("random-4", scores, seed=seed).layers for seed in range(40)]
    assert all(len(set(layers)) == 4 and layers == tuple(sorted(layers)) for layers in drawn)
    assert len(set(drawn)) > 30
    assert set().union(*drawn) == set(range(26)) - top - bottom


def test_random_depends_on_nothing_but_seed_and_ranks():
    scores = np.random.default_rng(7).random(26)
    np.random.seed(0)  # the global state must not matter
    before = select("random-4", scores, seed=3).layers
    np.random.seed(1)
    assert select("random-4", scores, seed=3).layers == before
    assert select("random-4", scores * 0.5 + 0.1, seed=3).layers == before


def test_why_states_rank_rule_and_seed():
    top = select("top-4", SCORES, seed=0)
    assert top.rule == "the 4 layers with the highest mean Head Impact"
    assert [reason.reason for reason in top.why] == [f"rank {rank} of 12 by mean HI" for rank in (4, 2, 1, 3)]
    assert select("bottom-4", SCORES, seed=0).rule == "the 4 layers with the lowest mean Head Impact"
    drawn = select("random-2", SCORES, seed=11)
    assert drawn.rule == "2 of the 8 layers outside top-2 and bottom-2, drawn with seed 11"
    assert all(reason.reason.startswith("drawn with seed 11; rank ") for reason in drawn.why)
    assert select("layers:5", SCORES, seed=0).why[0].reason == "named in the setup; rank 1 of 12 by mean HI"
    assert select("original", SCORES, seed=0).rule == "no layer: the base as it is"


def test_a_missing_score_is_refused():
    scores = SCORES.copy()
    scores[4] = np.nan
    with pytest.raises(InputError, match=r"^Layer 4 has no score \(nan\): score the model again\.$"):
        select("top-4", scores, seed=0)


@pytest.mark.parametrize("setup", ["original", "top-4", "random-3", "layers:1,5"])
def test_selection_survives_json(setup: str):
    selection = select(setup, SCORES, seed=5)
    data = json.loads(json.dumps(selection.to_dict(), allow_nan=False))
    assert Selection.from_dict(data) == selection
    assert Selection.from_dict({**data, "model": "tiny-smolvlm", "table_digest": "00"}) == selection


def test_edited_json_is_refused():
    data = select("top-2", SCORES, seed=0).to_dict()
    with pytest.raises(InputError, match=r"^This is not a selection \(KeyError: 'rule'\)\. Select again\.$"):
        Selection.from_dict({key: value for key, value in data.items() if key != "rule"})
    with pytest.raises(InputError, match="This is not a selection"):
        Selection.from_dict({**data, "layers": ["two"]})
    with pytest.raises(InputError, match=r"names the layers \[2, 6\] but gives reasons for others"):
        Selection.from_dict({**data, "layers": [2, 6]})
