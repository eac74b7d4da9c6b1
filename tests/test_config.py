"""params.yaml: every mistake is told with its key, its value, and what is allowed."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from headimpact.errors import InputError
from headimpact.lifecycle.config import (
    STEPS,
    USES,
    Job,
    Step,
    check_model,
    check_override,
    documentation,
    load,
    tracked_values,
    use_of,
)


@pytest.fixture
def values(project_root: Path) -> dict[str, Any]:
    return yaml.safe_load((project_root / "params.yaml").read_text())


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("params.yaml")
    path.write_text((project_root / "params.yaml").read_text())
    return path


def _leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    inner = {k: v for k, v in values.items() if isinstance(v, dict)}
    return [f"{prefix}{k}" for k in values if k not in inner] + [
        leaf for k, v in inner.items() for leaf in _leaves(v, f"{prefix}{k}.")
    ]


def test_every_value_is_documented_and_used(values: dict[str, Any]) -> None:
    values["models"] = {"<name>": values["models"]["smolvlm"]}
    documented = documentation()
    assert sorted(parameter.key for parameter in documented) == sorted(_leaves(values))
    assert all(parameter.meaning for parameter in documented)
    for name in USES:
        assert any(f"{parameter.key}.".startswith(f"{name}.") for parameter in documented), name
    for parameter in documented:
        use = use_of(parameter.key)
        assert list(use.steps) == [step for step in STEPS if step in use.steps]  # the first one owns the value


def test_the_config_cannot_be_changed(params: Path) -> None:
    config = load(params)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.train.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (
            "trian.lr",
            "1.0",
            "--trian.lr: there is no value of this name in params.yaml. Did you mean train.lr?",
        ),
        (
            "train",
            "1",
            "--train: there is no value of this name in params.yaml. It is a section: name one value",
        ),
        ("train.lr", "[", "--train.lr: '[' is not a valid YAML value."),
        (
            "train.lr",
            "fast",
            "command line: train.lr is 'fast' (text). Needed: number above 0, up to 1 (peak",
        ),
        ("train.lr", "'1e-4'", "learning rate). Quotes make it text: write 1e-4 without them."),
        ("train.epochs", "'8'", "Quotes make it text: write 8 without them."),
        ("train.lr", "0", "train.lr is 0 (a whole number). Needed: number above 0, up to 1 (peak learning"),
        ("train.lr", ".nan", "train.lr is nan (a number)"),
        ("train.lr", "", "train.lr is empty. Needed"),
        ("train.epochs", "2.5", "train.epochs is 2.5 (a number). Needed: whole number above 0 (passes"),
        ("train.epochs", "yes", "train.epochs is True (true or false). Needed: whole number"),
        ("compute.device", "tpu", "compute.device is 'tpu' (text). Needed: auto | cpu | cuda | mps (device"),
        ("dataset", "coco2", "dataset is 'coco2' (text). Needed: text (scenes, published, coco, or the path"),
        (
            "lora.targets",
            "[q_proj, o_proj]",
            "command line: lora.targets.1 is 'o_proj' (text). Needed: list of",
        ),
        ("lora.targets", "[]", "lora.targets is [] (a list). Needed: list of q_proj | k_proj | v_proj (proj"),
        (
            "lora.targets",
            "q_proj",
            "lora.targets is 'q_proj' (text). Needed: list of q_proj | k_proj | v_proj",
        ),
    ],
)
def test_wrong_overrides(params: Path, key: str, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load(params, {key: text})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  epochs:", "  epoch:", "params.yaml: unknown key train.epoch. Did you mean train.epochs?"),
        ("\nlora:", "\nloar:", "params.yaml: unknown key loar. Did you mean lora?"),
        (
            "  epochs: 3\n",
            "",
            "params.yaml: train.epochs is missing. Needed: whole number above 0 (passes over",
        ),
        (
            "seed: 0",
            "seed: -1",
            "params.yaml: seed is -1 (a whole number). Needed: whole number from 0 (seed",
        ),
        ("seed: 0", "seed: 0\nlora: 3\n#", "params.yaml is not valid YAML"),
        ("model: tiny-smolvlm\n", "model: tiny-smolvlm\nmodel: smolvlm\n", "not valid YAML: the key model comes twice"),
        ("setup: top-4", "setup: topp-4", "params.yaml: Unknown setup 'topp-4'"),
        ("setup: top-4", "setup: top-0", "params.yaml: Setup 'top-0' selects no layer"),
        (
            "model: tiny-smolvlm",
            "model: tiny-smol",
            "params.yaml: model: unknown model 'tiny-smol'. Did you mean t",
        ),
        ("setups: [top-4,", "setups: [top4,", "params.yaml: Unknown setup 'top4'"),
        ("setups: [top-4,", "setups: [original,", "leave out original, it always runs"),
        ("setups: [top-4,", "setups: ['layers:1,2',", "headimpact finetune --setup layers:1,2"),
        ("setups: [top-4,", "setups: [full,", "grid.setups names one of them twice"),
        ("models: [tiny-paligemma2,", "models: [smolvlm,", "headimpact finetune --model smolvlm"),
        ("models: [tiny-paligemma2,", "models: [nothing,", "grid.models: unknown model 'nothing'"),
        ("rules: [top,", "rules: [topp,", "params.yaml: tournament.rules: unknown rule 'topp'. Did you mean top?"),
        ("rules: [top,", "rules: [", "tournament.rules lacks top, which all others are compared with"),
        ("ks: [1, 4]", "ks: [4, 4]", "params.yaml: tournament.ks names one of them twice: 4, 4."),
        ("ks: [1, 4]", "ks: [0]", "tournament.ks.0 is 0 (a whole number). Needed: list of whole number"),
        ("seeds: [0, 1, 2]", "seeds: [0]", "tournament.seeds is [0] (a list). Needed: list of whole number"),
        ("  smolvlm:", "  Smol VLM:", "params.yaml: models.Smol VLM is not a name for a model"),
        (
            "    revision: main",
            "    revision: 3",
            "models.paligemma2-3b.revision is 3 (a whole number). Needed: text",
        ),
    ],
)
def test_wrong_files(params: Path, old: str, new: str, message: str) -> None:
    text = params.read_text()
    assert old in text
    params.write_text(text.replace(old, new, 1) if "lora: 3" not in new else f"{text}\n  wrong: [")
    with pytest.raises(InputError) as error:
        load(params)
    assert message in str(error.value)


def test_several_mistakes_are_told_together(params: Path) -> None:
    params.write_text(params.read_text().replace("  rank: 8", "  rang: 8"))
    with pytest.raises(InputError) as error:
        load(params)
    assert str(error.value).splitlines() == [
        "params.yaml: lora.rank is missing. Needed: whole number above 0, up to 256 (rank of the update).",
        "params.yaml: unknown key lora.rang. Did you mean lora.rank? Correct it or remove it.",
    ]


def test_files_that_hold_no_values(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(InputError, match=r"does not exist. Run in the project root"):
        load(path)
    path.write_text("- 1")
    with pytest.raises(InputError, match=r"must hold keys and values, but holds \[1\] \(a list\)"):
        load(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="is not valid YAML"):
        load(path)


def test_an_override_replaces_one_value(params: Path) -> None:
    config, plain = load(params, {"train.lr": "2.5e-2", "models.smolvlm.revision": "abc"}), load(params)
    assert (config.train.lr, config.models["smolvlm"].revision) == (0.025, "abc")
    as_before = config.model_dump()
    as_before["train"]["lr"] = plain.train.lr
    as_before["models"]["smolvlm"]["revision"] = plain.models["smolvlm"].revision
    assert as_before == plain.model_dump()


@pytest.mark.parametrize("text", ["1e-5", "1e-05", "1E-5", "1.e-5", "1.0e-5", "0.00001"])
def test_every_way_to_write_a_number(params: Path, text: str) -> None:
    assert load(params, {"train.lr": text}).train.lr == 1e-5


@pytest.mark.parametrize(
    ("key", "step", "allowed"),
    [
        ("train.lr", "finetune", True),
        ("train.lr", "score", False),
        ("impact.mask_threshold", "score", True),
        ("impact.mask_threshold", "finetune", False),
        ("impact.batch_images", "finetune", False),
        ("scenes.sizes.train", "data", True),
        ("scenes.sizes.train", "finetune", False),
        ("seed", "data", True),
        ("seed", "finetune", False),  # the data and the scores would be those of another seed
        ("compute.device", "finetune", True),  # changes how, not what
        ("compute.dtype", "finetune", False),
        ("models.smolvlm.revision", "score", True),
        ("models.smolvlm.revision", "finetune", False),
        ("grid.models", "report", False),
        ("tournament.seeds", "tournament", True),
        ("answer.images", "answer", False),  # setups are compared
        ("answer.batch_images", "answer", True),
        ("train.lr", "main", False),
    ],
)
def test_only_the_owner_of_a_value_can_override_it(key: str, step: str, allowed: bool) -> None:
    if allowed:
        check_override(key, step, "5")
        return
    with pytest.raises(InputError, match=rf"--{key}: this value belongs to .*\n    dvc exp run -S '{key}=5'$"):
        check_override(key, step, "5")


def test_selectors_are_refused_where_they_select_nothing() -> None:
    with pytest.raises(InputError, match="score works on no single setup: leave --setup out"):
        check_override("setup", "score", "top-4")
    with pytest.raises(InputError, match=r"leave --model out, name models as in --tournament.models '\[smolvlm\]'\.$"):
        check_override("model", "tournament", "smolvlm")


def test_help_lists_what_can_be_overridden() -> None:
    keys = [parameter.key for parameter in documentation("data")]
    parts = ("impact", "train", "val", "test")
    assert keys == [
        "seed",
        *(f"scenes.sizes.{part}" for part in parts),
        *(f"split.{part}" for part in parts),
        "min_score",
    ]
    (lr,) = (parameter for parameter in documentation("finetune") if parameter.key == "train.lr")
    assert (lr.type, lr.allowed, lr.meaning) == ("number", " above 0, up to 1", "peak learning rate")


def test_unknown_model(params: Path) -> None:
    with pytest.raises(InputError) as error:
        check_model(load(params), "tiny-qwen2")
    assert str(error.value) == (
        "--model: unknown model 'tiny-qwen2'. Did you mean tiny-qwen2-vl? "
        "Known: tiny-paligemma2, tiny-qwen2-vl, tiny-smolvlm, paligemma2-3b, qwen2-vl-2b, smolvlm."
    )


@pytest.mark.parametrize(
    ("step", "setup", "expected"),
    [
        ("select", "top-4", {"seed"}),
        ("report", "top-4", {"dataset"}),
        ("score", "top-4", {"impact.mask_threshold", "impact.chance_draws"}),
        ("finetune", "original", set()),
        ("answer", "top-4", {"answer.images", "answer.generated_images", "answer.max_new_tokens"}),
    ],
)
def test_values_that_decide_a_result(params: Path, step: Step, setup: str, expected: set[str]) -> None:
    keys = set(tracked_values(load(params), step, Job("smolvlm", setup)))
    if step in ("score", "finetune", "answer"):
        base = {"seed", "dataset", "compute.dtype", "models.smolvlm.source", "models.smolvlm.revision"}
        assert keys == base | expected
    else:
        assert keys == expected


def test_hub_revisions_are_those_that_are_known(params: Path) -> None:
    models = load(params).models
    assert {name: (base.source, base.revision) for name, base in models.items() if base.revision} == {
        "paligemma2-3b": ("google/paligemma2-3b-mix-448", "main"),
        "qwen2-vl-2b": ("Qwen/Qwen2-VL-2B-Instruct", "895c3a49bc3fa70a340399125c650a463535e71c"),
        "smolvlm": ("HuggingFaceTB/SmolVLM-Instruct", "81cd9a775a4d644f2faf4e7becff4559b46b14c7"),
    }
    found = load(params)
    assert found.published.model_dump() == {
        "source": "alekosus/optimizing-mlms-icai2025",
        "index_revision": "368e7204f6612e540b39d6f3ca7b86b6fe5ee272",
        "index_sha256": "a5713624f7673af149945294da837fc2bf5161527dc353884fd8b64674d1e670",
        "masks_revision": "cc17af264b2d2cf2c474268ff646451ddc906bab",
    }
    assert (found.ground.source, found.ground.revision) == (
        "florence-community/Florence-2-large-ft",
        "26b734a54fdfbf9c398351eedfabb7f27fc470b7",
    )
    assert (found.segment.source, found.segment.revision) == (
        "facebook/sam2.1-hiera-large",
        "665f8e2ad61cf5f53d65644ff27c8ee525124610",
    )


@pytest.mark.parametrize("dataset", ["scenes", "published", "coco", "my/photos", "./photos", "/photos", "../x"])
def test_datasets(params: Path, dataset: str) -> None:
    assert load(params, {"dataset": dataset}).dataset == dataset


@pytest.mark.parametrize("dataset", ["data/dataset", "outputs/data", "./outputs/../data/dataset/sub", "reports/x"])
def test_data_of_ones_own_where_it_would_be_removed_are_refused(
    params: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    """Before DVC clears that folder for the stage that writes it."""
    monkeypatch.chdir(project_root)
    with pytest.raises(InputError, match=r"replaced by the steps\. Move your data elsewhere"):
        load(params, {"dataset": dataset})
