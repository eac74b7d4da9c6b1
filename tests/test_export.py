"""Delivering an adapter: the card, what a server makes of it, and merged weights."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from family_facts import fresh
from peft import PeftModel
from safetensors.torch import load_file, save_file

from headimpact.adapters import lora, merging, servers
from headimpact.errors import InputError
from headimpact.files import write_json
from headimpact.lifecycle import layout, params
from headimpact.lifecycle.card import Facts, card
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.steps import export
from headimpact.statistics import Difference
from headimpact.tiny import bases
from headimpact.vlm import loading
from headimpact.vlm.packing import PromptAttention

JOB = Job("tiny", "top-2")
SETTINGS = lora.LoraSettings(rank=2, alpha=4, targets=("q_proj", "v_proj"))
HEADER: dict[str, Any] = {
    "base": "tiny",
    "source": "bases/tiny",
    "revision": None,
    "base_digest": "b" * 64,
    "dataset": "scenes",
    "dataset_digest": "d" * 64,
    "table_digest": "t",
    "setup": "top-2",
    "layers": [1, 3],
    "trainable": 64,
}
RESULTS = {
    "parameters": {"total": 6400, "trainable": 64, "percent": 1.0},
    "metrics": {name: {"value": 0.5, "se": 0.01, "n": 30} for name in ("accuracy", "ans_prob", "perplexity")},
}
CONFIG = {"r": 2, "lora_alpha": 4, "target_modules": ["model.layers.1.q_proj"], "rank_pattern": {}}
WORSE = Difference(value=-0.2, se=0.02, low=-0.25, high=-0.15, p_value=0.001, n=30, clusters=10)
FACTS = Facts(HEADER, CONFIG, 4, PromptAttention.CAUSAL, RESULTS, RESULTS, {"accuracy": WORSE}, (4.5, 2.5))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with a base and an adapter that was moved away from zero."""
    root = tmp_path_factory.mktemp("export")
    bases.save(fresh("idefics3"), root / "bases/tiny")
    base = loading.load(str(root / "bases/tiny"), device="cpu", dtype="float32")
    peft_model = lora.attach(base, [1, 3], SETTINGS, seed=5)
    with torch.no_grad():
        for name, weight in peft_model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    base.source = "bases/tiny"
    lora.save(
        peft_model,
        root / layout.adapter(*vars(JOB).values()),
        HEADER | {"base_digest": base.digest, "base_settings": base.settings},
    )
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to change, as the working directory."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    write_json(layout.results(JOB.model, JOB.setup), RESULTS)
    return tmp_path / "project"


@pytest.fixture
def config(project_root: Path) -> Config:
    return params.load(project_root / "params.yaml")


def code(text: str) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return found


def test_what_is_delivered_loads_by_the_lines_of_its_card_and_computes_the_same(
    project: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o022)
    try:
        monkeypatch.setattr(export.registration, "differences", lambda model, setup: {})
        summary = export.run(config, JOB, merged=True)
    finally:
        os.umask(before)
    rows = dict(summary.rows)
    assert (rows["tensors"], rows["under vLLM's names"]) == ("8 of 8 belong to modules of the base", "8 of 8")
    assert "--max-lora-rank 8" in rows["vLLM"]
    assert "hf upload YOUR-NAME/tiny-top-2 outputs/delivered/tiny/top-2/adapter" in str(summary.next)
    models = []
    for folder in summary.files:
        assert {oct(path.stat().st_mode)[-3:] for path in folder.iterdir()} == {"644"}
        (folder / "tiny").symlink_to(project / "bases/tiny")
        monkeypatch.chdir(project / folder)
        found: dict[str, Any] = {}
        exec(code(Path("README.md").read_text()), found)
        monkeypatch.chdir(project)
        models.append(found["model"].get_base_model() if isinstance(found["model"], PeftModel) else found["model"])
    vlm, logits = loading.load("bases/tiny", device="cpu", dtype="float32"), []
    original = merging.logits(vlm)
    for vlm.model in models:
        vlm.model.eval()
        logits.append(merging.logits(vlm))
    assert (logits[0] - logits[1]).abs().max() < 1e-4
    assert (logits[0] - original).abs().max() > 1e-2
    weights = [folder / "adapter_model.safetensors" for folder in (layout.adapter("tiny", "top-2"), summary.files[0])]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    settings = json.loads((summary.files[0] / "adapter_config.json").read_text())
    assert (settings["task_type"], settings["base_model_name_or_path"]) == ("CAUSAL_LM", "tiny")


def test_merged_weights_that_compute_something_else_are_refused() -> None:
    merging.check(merging.Merged(1e-6, 5.0, torch.float32))
    for difference in (0.1, float("nan")):
        with pytest.raises(InputError, match=r"0\.001 is allowed"):
            merging.check(merging.Merged(difference, 5.0, torch.float32))


def test_what_cannot_be_delivered_is_refused(project: Path, config: Config) -> None:
    with pytest.raises(InputError, match="nothing to deliver"):
        export.run(config, Job("tiny", "original"), merged=False)
    with pytest.raises(InputError, match="headimpact finetune --model tiny --setup full"):
        export.check(Job("tiny", "full"))


def test_a_check_counts_what_a_server_would_skip(project: Path) -> None:
    assert export.check(JOB).rows[1] == ("under vLLM's names", "8 of 8")
    weights = layout.adapter_weights(JOB.model, JOB.setup)
    tensors = load_file(weights)
    old, other = [name for name in tensors if "lora_A" in name][:2]
    renamed = {old.replace("model.text_model", "language_model"): tensors[old], other: tensors[other][:, :-1]}
    tensors.pop(old)
    save_file({name: tensor.contiguous() for name, tensor in (tensors | renamed).items()}, weights)
    fit = servers.fit(loading.skeleton("bases/tiny"), weights.parent)
    assert (fit.tensors, fit.in_base, fit.on_server) == (8, 6, 7)
    with pytest.raises(InputError, match="vLLM would skip 1 of 8 tensors without a word"):
        export.check(JOB)


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({}, ""),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"bias": "all"}, "biases"),
        ({"rank_pattern": {"a": 1}, "alpha_pattern": {"a": 2}}, ""),  # every update is doubled, as elsewhere
        ({"rank_pattern": {"a": 1}}, "scaled differently"),
        ({"use_rslora": True, "rank_pattern": {"a": 8}, "alpha_pattern": {"a": 8}}, ""),
    ],
)
def test_what_a_server_refuses(changed: dict[str, Any], refused: str) -> None:
    found = servers.refusals(CONFIG | changed, 8)
    assert (len(found), refused in " ".join(found)) == (bool(refused), True)
    assert servers.refusals(CONFIG, 600) == ["rank 600: vLLM takes 512 at most"]


def test_the_card_of_an_adapter_of_a_folder_says_so() -> None:
    text = card(FACTS)
    front = yaml.safe_load(text.split("---")[1])
    assert (front["library_name"], front["pipeline_tag"]) == ("peft", "image-text-to-text")
    assert "base_model" not in front
    assert "Its base is a folder" in text
    assert "| accuracy ↑ | forgetting | 0.500 ± 0.010 | 0.500 ± 0.010 | -0.200 (-0.250 to -0.150) |" in text
    assert "- It is worse than the original in accuracy: -0.200." in text
    assert len(code(text).splitlines()) == 3


def test_the_card_of_an_adapter_of_the_hub_names_its_base() -> None:
    header = HEADER | {"source": "owner/name", "revision": "abc", "overrides": {"train.lr": 0.01}}
    text = card(replace(FACTS, header=header, prompt_attention=PromptAttention.PREFIX, pictured=True))
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "owner/name"
    assert 'from_pretrained("owner/name", revision="abc")' in code(text)
    assert "| other values than recorded | train.lr 0.01 |" in text
    assert "![Head Impact of every layer](layers.png)" in text
    assert "within the image alone (vLLM)" in text


def test_the_card_of_what_was_not_measured_says_so() -> None:
    text = card(replace(FACTS, results=None, original=None, changes=None, perplexity=None, merged=True))
    assert "Not measured." in text
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "transformers"


def test_the_card_tells_the_ranks_that_are_there() -> None:
    """Not the rank of no module, as where all layers share a budget."""
    own = {"r": 8, "target_modules": ["a.0.q_proj", "a.1.q_proj"], "rank_pattern": {r"a\.0\.q_proj": 2}}
    assert "rank 2, 8, alpha" in card(replace(FACTS, config=CONFIG | own))
    own["rank_pattern"] |= {r"a\.1\.q_proj": 3}
    assert "rank 2, 3, alpha" in card(replace(FACTS, config=CONFIG | own))


def test_a_softened_adapter_is_delivered_unless_it_is_the_original(project: Path) -> None:
    text = card(replace(FACTS, header=HEADER | {"setup": "soft-top-2", "scale": 0.6, "bound": 0.05}))
    assert "| scaled down | to 0.6 of what was trained, the largest scale at which accuracy" in text
    soft = Job(JOB.model, "soft-top-2")
    with pytest.raises(InputError, match=r"Make it: headimpact soften --model tiny --setup top-2$"):
        export.check(soft)
    shutil.copytree(layout.adapter(*vars(JOB).values()), layout.adapter(*vars(soft).values()))
    write_json(layout.adapter(*vars(soft).values()) / "header.json", HEADER | {"setup": "soft-top-2", "scale": 0})
    with pytest.raises(InputError, match=r"softened to scale 0, where it is the original: there is nothing"):
        export.check(soft)
