"""Setups are read, and what is no setup is refused before anything is loaded."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import headimpact
from headimpact.errors import InputError
from headimpact.selection.choice import select
from headimpact.selection.grammar import Setup, alias, is_softened, read_setup, softened, trained
from headimpact.selection.rules import RULES
from headimpact.selection.setups import check_setup, needs_measures, parse_setup


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
        ("soft-top-4", Setup("soft-top-4", "top", count=4)),
        ("soft-full", Setup("soft-full", "full")),
        ("soft-layers:6,8", Setup("soft-layers:6,8", "layers", layers=(6, 8))),
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
        "auroc-K, mass-K, share-K, gradient-K, knockout-K, localisation-K, kappa-K, first-K, middle-K, last-K, "
        "uniform-K, draw-K-S, layers:6,8,9,11, heads:top-32, heads:8.3,8.5 (K is a whole number from 1, S one from 0), "
        "and each that is trained, softened, as in soft-top-4."
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
        select(text, {"hi": np.linspace(0, 1, layers)}, seed=0)


def test_a_long_setup_has_a_short_alias_of_its_own():
    """File systems and MLflow take 255 characters."""
    every = [f"{layer}.{head}" for layer in range(14) for head in range(5)]
    one, other = (alias(f"heads:{','.join(heads)}") for heads in (every, every[:-1]))
    assert len(one) == len(other) == 100
    assert one != other
    assert one.startswith("heads-0-0-0-1-0-2")


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
    with pytest.raises(InputError, match=r"^'top 4' is not a setup: write original, or "):
        alias("top 4")


@pytest.mark.parametrize("text", ["top-4", "full", "full-3", "draw-4-2", "layers:6,8", "heads:top-2", "heads:8.3"])
def test_the_grammar_reads_what_was_checked_the_same(text: str):
    assert read_setup(text) == check_setup(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("soft-original", "Setup 'soft-original': the original has no adapter to soften."),
        (
            "soft-soft-top-4",
            "Setup 'soft-soft-top-4': soft-top-4 is softened already; it is made from the setup top-4.",
        ),
        ("soft-top-0", "Setup 'top-0' selects no layer: K is a whole number from 1, as in top-4."),
    ],
)
def test_what_cannot_be_softened_is_refused(text: str, message: str):
    for read in (check_setup, alias):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            read(text)


def test_a_softened_setup_has_a_name_that_folders_stages_and_aliases_take():
    assert [softened(setup) for setup in ("top-4", "layers:6,8")] == ["soft-top-4", "soft-layers:6,8"]
    assert [trained(setup) for setup in ("soft-top-4", "top-4")] == ["top-4", "top-4"]
    assert [is_softened(setup) for setup in ("soft-top-4", "top-4", "original")] == [True, False, False]
    assert [alias(setup) for setup in ("soft-top-4", "soft-heads:8.3")] == ["soft-top-4", "soft-heads-8-3"]
    with pytest.raises(InputError, match=r"^Unknown setup 'topp-4'\. Did you mean top-4\?"):
        check_setup("soft-topp-4")


def test_the_budget_is_that_of_all_layers_alone():
    assert [read_setup(text).budget for text in ("full", "full-4", "top-4", "layers:4", "original")] == [0, 4, 0, 0, 0]


def test_which_setups_go_by_more_than_the_impact_table():
    measured = [
        rule for rule, found in RULES.items() if needs_measures(found.forms[-1].replace("K", "2").replace("S", "0"))
    ]
    assert measured == ["share", "gradient", "knockout", "localisation", "kappa"]
    assert not any(map(needs_measures, ["original", "full", "layers:1", "heads:top-4", "heads:8.3"]))


def test_setups_are_read_without_the_libraries_that_compute():
    """Every command reads setups when it starts."""
    code = "import sys, headimpact.selection.setups; print({'numpy', 'pandas', 'scipy', 'torch'} & set(sys.modules))"
    folder = Path(headimpact.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
