"""params.yaml as it is read: every mistake is told with its key, its value, and what is allowed."""

from pathlib import Path

import pytest

from headimpact.errors import InputError
from headimpact.lifecycle import layout
from headimpact.lifecycle.params import check_model, is_own, load


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("params.yaml")
    path.write_text((project_root / "params.yaml").read_text())
    return path


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
            "[q_proj, out_proj]",
            "command line: lora.targets.1 is 'out_proj' (text). Needed: list of",
        ),
        ("lora.targets", "[]", "lora.targets is [] (a list). Needed: list of q_proj | k_proj | v_proj | o_proj"),
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
        ("seed: 0", "seed: [0", "params.yaml is not valid YAML"),
        ("model: tiny-smolvlm\n", "model: tiny-smolvlm\nmodel: smolvlm\n", "not valid YAML: the key model comes twice"),
        ("setup: top-4", "setup: topp-4", "params.yaml: Unknown setup 'topp-4'"),
        ("setup: top-4", "setup: top-0", "params.yaml: Setup 'top-0' selects no layer"),
        (
            "model: tiny-smolvlm",
            "model: tiny-smol",
            "params.yaml: model: unknown model 'tiny-smol'. Did you mean t",
        ),
        ("setups: [original, top-4,", "setups: [original, top4,", "params.yaml: Unknown setup 'top4'"),
        ("setups: [original,", "setups: [", "params.yaml: grid.setups lacks original, which all others are compared"),
        (
            "setups: [original, top-4,",
            "setups: [original, 'layers:1,2',",
            "params.yaml: grid.setups cannot hold layers:1,2. Run it directly: headimpact finetune --setup layers:1,2",
        ),
        ("setups: [original, top-4,", "setups: [original, 'heads:1.2',", "grid.setups cannot hold heads:1.2"),
        ("setups: [original, top-4,", "setups: [original, knockout-4,", "grid.setups cannot hold knockout-4"),
        (
            "setups: [original, top-4,",
            "setups: [original, soft-top-4,",
            "grid.setups cannot hold soft-top-4. Run it directly: headimpact soften --setup top-4",
        ),
        ("setups: [original, top-4,", "setups: [original, full,", "grid.setups names one of them twice"),
        ("models: [tiny-paligemma2,", "models: [nothing,", "grid.models: unknown model 'nothing'"),
        (
            "pretrain:\n  models: [tiny-paligemma2,",
            "pretrain:\n  models: [smolvlm,",
            "params.yaml: pretrain.models names smolvlm, whose source is not the folder models/bases/smolvlm: only",
        ),
        (
            "pretrain:\n  models: [tiny-paligemma2,",
            "pretrain:\n  models: [nothing,",
            "pretrain.models: unknown model 'nothing'",
        ),
        (
            "tournament:\n  models: [tiny-p",
            "tournament:\n  models: [p",
            "tournament.models: unknown model 'paligemma2'",
        ),
        ("rules: [top,", "rules: [topp,", "params.yaml: tournament.rules: unknown rule 'topp'. Did you mean top?"),
        ("rules: [top,", "rules: [top, whole-to,", "unknown rule 'whole-to'. Did you mean whole-top?"),
        ("rules: [top,", "rules: [top, whole-draw,", "unknown rule 'whole-draw'"),
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
    params.write_text(text.replace(old, new, 1))
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


def test_a_checkpoint_of_the_hub_can_be_in_the_grid(params: Path) -> None:
    config = load(params, {"grid.models": "[smolvlm, tiny-smolvlm]", "tournament.models": "[smolvlm]"})
    assert (config.grid.models, config.tournament.models) == (("smolvlm", "tiny-smolvlm"), ("smolvlm",))
    assert layout.base("smolvlm").as_posix() != config.models["smolvlm"].source
    assert "smolvlm" not in config.pretrain.models


def test_unknown_model(params: Path) -> None:
    with pytest.raises(InputError) as error:
        check_model(load(params), "tiny-qwen2")
    known = ", ".join(load(params).models)
    assert str(error.value) == f"--model: unknown model 'tiny-qwen2'. Did you mean tiny-qwen2-vl? Known: {known}."


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


def test_data_of_ones_own_are_known_by_their_path() -> None:
    assert [name for name in ("scenes", "published", "coco", "my/photos", ".", "/photos") if is_own(name)] == [
        "my/photos",
        ".",
        "/photos",
    ]
