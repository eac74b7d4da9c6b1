"""What cannot work is refused with its reason, by the name of its architecture and by what its decoder is made of."""

import json
from pathlib import Path

import pytest
from family_facts import families, fresh, tiny
from transformers import CONFIG_MAPPING

from headimpact.errors import InputError
from headimpact.vlm import settings
from headimpact.vlm.families import FAMILIES, family_name
from headimpact.vlm.packing import PromptAttention
from headimpact.vlm.unsupported import REASONS

OF_THEIR_OWN_CODE = {"minicpmv", "phi4mm", "phi3_v"}


@pytest.mark.parametrize("kind", REASONS)
def test_a_known_architecture_is_refused_with_its_reason(kind: str, tmp_path: Path, project_root: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(InputError) as refused:
        settings.read_family("org/model", tmp_path)
    assert str(refused.value) == (
        f"org/model is not supported: its model type is {kind}, which {REASONS[kind]}; supported are "
        f"{', '.join(sorted(FAMILIES))}."
    )
    assert f"`{kind}`" in (project_root / "docs/models.md").read_text().split("## What does not work")[1]


def test_reasons_are_of_architectures_that_there_are_and_are_not_supported() -> None:
    assert not set(REASONS) & set(FAMILIES)
    assert set(REASONS) - set(CONFIG_MAPPING) == OF_THEIR_OWN_CODE


@pytest.mark.parametrize("config", [None, [], {}, {"model_type": None}, {"model_type": ["idefics2"]}])
def test_what_has_no_model_type_is_refused_in_a_sentence(config: object) -> None:
    with pytest.raises(InputError, match="is not supported: its model type is"):
        family_name("org/model", config)


@families()
def test_the_decoder_of_a_family_is_as_the_engine_takes_it(family: str) -> None:
    settings.check(tiny(family))


def test_only_a_family_that_says_so_has_layers_without_attention() -> None:
    hybrids = [family for family in FAMILIES if len(tiny(family).attention_layers) < tiny(family).layers]
    assert hybrids == ["qwen3_5"]
    assert all(tiny(family).prompt_attention is PromptAttention.RECURRENT for family in hybrids)


def test_a_decoder_with_other_layers_is_refused_whatever_the_family() -> None:
    vlm = fresh("qwen2_vl")
    vlm.text_config.layer_types = ["full_attention", "linear_attention", "full_attention", "conv"]
    with pytest.raises(InputError, match=r"its decoder has layers of conv, linear_attention\. No head looks"):
        settings.check(vlm)


@pytest.mark.parametrize("name", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_a_decoder_of_experts_is_refused_whatever_the_family(name: str) -> None:
    vlm = fresh("qwen2_vl")
    setattr(vlm.text_config, name, None)
    settings.check(vlm)
    setattr(vlm.text_config, name, 8)
    with pytest.raises(InputError, match="its decoder is a mixture of 8 experts, and none was tested"):
        settings.check(vlm)


def test_a_decoder_of_fused_projections_is_refused_whatever_the_family() -> None:
    vlm = fresh("qwen2_vl")
    attention = vlm.decoder.get_submodule("layers.2.self_attn")
    attention.add_module("qkv_proj", attention.get_submodule("q_proj"))
    del attention.q_proj
    with pytest.raises(InputError, match=r"no model.language_model.layers.2.self_attn.q_proj, .* but k_proj, .*qkv_"):
        settings.check(vlm)
