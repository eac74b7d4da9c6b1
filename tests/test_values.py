"""Which step uses which value of params.yaml, and for which command it can be changed."""

import ast

import pytest

from headimpact.errors import InputError
from headimpact.lifecycle.code import SOURCE
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.documentation import documentation
from headimpact.lifecycle.registry import STEPS
from headimpact.lifecycle.values import check_override, overridable, tracked_keys, tracks, uses

# What a command works on, which the command line or the graph takes from params.yaml, and not a step.
CHOICES = {"model", "setup", "grid.models", "grid.setups", "pretrain.models"}
# What a step names in its log and summary, or reads through a value that it declares; no output depends on it.
SHOWN = {
    "download": {"min_score"},
    "data": {"grid", "impact", "model", "models"},  # the contact sheet
    "segment": {"min_score"},
    "measure": {"dataset"},
    "examine": {"dataset"},
    "evaluate": {"dataset"},
    "answer": {"dataset"},
    "tournament": {"dataset", "models"},  # a source is in the identity
    "report": {"grid", "model"},
}
KEYS = [parameter.key for parameter in documentation()]


def _within(key: str, name: str) -> bool:
    return f"{key}.".startswith(f"{name}.")


def test_every_value_is_used_by_a_step() -> None:
    assert {key for key in KEYS if not any(uses(step, key) for step in STEPS.values())} == CHOICES


@pytest.mark.parametrize("name", STEPS)
def test_steps_name_values_that_exist(name: str) -> None:
    step = STEPS[name]
    for named in (*step.values, *step.untracked, *step.unused):
        assert any(_within(key, named) for key in KEYS), named
    for named in step.unused:
        assert any(_within(named, section) for section in step.values), named


@pytest.mark.parametrize("name", STEPS)
def test_the_sections_that_the_code_of_a_step_reads_are_its_own(name: str) -> None:
    """A value that is read and not named would change a result that DVC takes for current."""
    step = STEPS[name]
    tree = ast.parse(SOURCE.joinpath(*step.module.split(".")).with_suffix(".py").read_text())
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in Config.model_fields
        if (isinstance(node.value, ast.Name) and node.value.id == "config")
        or (isinstance(node.value, ast.Attribute) and node.value.attr == "config")
    }
    named = {value.partition(".")[0] for value in (*step.values, *step.untracked)}
    assert read - named <= SHOWN.get(name, set())


@pytest.mark.parametrize(
    ("step", "key", "used", "tracked"),
    [
        ("score", "impact.mask_threshold", True, True),
        ("score", "compute.batch_tokens", True, False),
        ("score", "compute.dtype", True, True),
        ("score", "compute.device", True, False),
        ("score", "train.lr", False, False),
        ("finetune", "train.seed", True, True),
        ("tournament", "train.seed", False, False),  # tournament.seeds stand in its place
        ("tournament", "train.lr", True, True),
        ("tournament", "tournament.workers", True, False),
        ("pretrain", "pretrain.seed", True, True),
        ("pretrain", "pretrain.models", False, False),
        ("identify", "models.smolvlm.revision", True, True),
        ("score", "models.smolvlm.revision", False, False),
        ("evaluate", "serve.max_new_tokens", True, False),
        ("download", "coco.images", True, True),
        ("select", "seed", True, True),
        ("report", "seed", False, False),
        ("select", "seeds", False, False),  # not every name that begins alike
    ],
)
def test_uses_and_tracks(step: str, key: str, used: bool, tracked: bool) -> None:
    assert (uses(STEPS[step], key), tracks(STEPS[step], key)) == (used, tracked)


def test_what_a_stage_lists() -> None:
    assert tracked_keys(STEPS["select"]) == ["seed"]
    assert tracked_keys(STEPS["report"]) == ["dataset", "forgetting", "lora"]
    assert tracked_keys(STEPS["identify"]) == ["models"]
    assert tracked_keys(STEPS["finetune"]) == ["compute.dtype", "dataset", "lora", "train"]
    assert tracked_keys(STEPS["measure"]) == ["compute.dtype", "measure", "seed"]
    listed = tracked_keys(STEPS["tournament"])
    assert {"lora", "tournament.differences", "tournament.draws", "train.lr"} <= set(listed)
    assert not {"train", "train.seed", "tournament", "tournament.workers"} & set(listed)


@pytest.mark.parametrize("name", STEPS)
def test_a_stage_lists_exactly_what_its_step_tracks(name: str) -> None:
    listed = tracked_keys(STEPS[name])
    assert listed == sorted(set(listed))
    plain = {key: key.partition(".<")[0] for key in KEYS}
    for key in KEYS:
        assert any(_within(plain[key], entry) for entry in listed) == tracks(STEPS[name], key), key


@pytest.mark.parametrize(
    ("key", "step", "allowed"),
    [
        ("train.lr", "finetune", True),
        ("train.lr", "score", False),
        ("train.lr", "evaluate", False),
        ("train.lr", "tournament", False),
        ("serve.max_new_tokens", "evaluate", True),
        ("serve.max_new_tokens", "finetune", True),  # which evaluates
        ("serve.max_new_tokens", "score", False),
        ("impact.mask_threshold", "score", True),
        ("impact.mask_threshold", "examine", False),
        ("impact.mask_threshold", "finetune", False),
        ("compute.batch_tokens", "finetune", True),  # changes how, not what
        ("scenes.sizes.train", "data", True),
        ("scenes.sizes.train", "finetune", False),
        ("published.source", "download", True),
        ("published.source", "data", False),
        ("seed", "data", True),
        ("seed", "finetune", False),  # the data and the scores would be those of another seed
        ("compute.device", "finetune", True),
        ("compute.batch_tokens", "data", False),
        ("compute.dtype", "finetune", False),
        ("models.smolvlm.revision", "identify", True),
        ("models.smolvlm.revision", "score", False),
        ("models.smolvlm.revision", "finetune", False),
        ("grid.models", "report", False),
        ("pretrain.seed", "pretrain", True),
        ("pretrain.models", "pretrain", False),
        ("tournament.seeds", "tournament", True),
        ("answer.images", "answer", False),  # setups are compared
        ("compute.batch_tokens", "answer", True),
        ("train.lr", "main", False),
        ("train.lr", "register", False),
    ],
)
def test_only_the_owner_of_a_value_can_override_it(key: str, step: str, allowed: bool) -> None:
    if allowed:
        check_override(key, step, "5")
        return
    with pytest.raises(InputError, match=rf"--{key}: this value belongs to .*\n    dvc exp run -S '{key}=5'$"):
        check_override(key, step, "5")


def test_the_owner_is_named() -> None:
    with pytest.raises(InputError, match="belongs to the step identify and cannot be changed for one run of score"):
        check_override("models.smolvlm.source", "score")
    with pytest.raises(InputError, match="belongs to the whole grid"):
        check_override("answer.images", "answer")


def test_selectors_are_refused_where_they_select_nothing() -> None:
    with pytest.raises(InputError, match="score works on no single setup: leave --setup out"):
        check_override("setup", "score", "top-4")
    with pytest.raises(InputError, match=r"leave --model out, name models as in --tournament.models '\[smolvlm\]'\.$"):
        check_override("model", "tournament", "smolvlm")


def test_what_can_be_overridden_is_listed() -> None:
    parts = ("impact", "train", "val", "test")
    assert [parameter.key for parameter in overridable("data")] == [
        "seed",
        *(f"scenes.sizes.{part}" for part in parts),
        *(f"split.{part}" for part in parts),
        "min_score",
    ]
    assert [parameter.key for parameter in overridable("identify")] == [
        "models.<name>.source",
        "models.<name>.revision",
    ]
    assert overridable("select") == overridable("main") == []
