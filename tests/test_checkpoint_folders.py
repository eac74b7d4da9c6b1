"""Checkpoints in folders, whatever form their files have: the same model, the same pixels, the same tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_facts import facts, families, kinds
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_folders import change, copied, same_weights, saved, shard

from headimpact import hub
from headimpact.errors import InputError
from headimpact.vlm import loading, packing


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """Gives a copy of the folder of a family's tiny model, to be changed."""
    return lambda family: copied(family, tmp_path)


@kinds()
def test_sharded_weights_are_the_same_weights(family, folder):
    copy = folder(family)
    shard(copy)
    whole, cut = loading.load(str(saved(family)), device="cpu"), loading.load(str(copy), device="cpu")
    assert same_weights(whole, cut)
    assert whole.digest != cut.digest
    assert cut.digest == loading.load(str(copy), device="cpu").digest
    assert cut.revision is None


def test_other_weights_in_the_folder_change_nothing(folder):
    copy = folder("idefics3")
    save_file({"x": torch.zeros(1)}, copy / "consolidated.safetensors")
    assert loading.load(str(copy), device="cpu").digest == loading.load(str(saved("idefics3")), device="cpu").digest


def put_template(folder: Path, where: str, template: str | None) -> None:
    (folder / "chat_template.jinja").unlink()
    if template is None:
        return
    if where == "chat_template.jinja":
        (folder / where).write_text(template)
    elif where == "chat_template.json":
        (folder / where).write_text(json.dumps({"chat_template": template}))
    elif where == "named":
        named = [{"name": "rag", "template": "no"}, {"name": "default", "template": template}]
        change(folder / "tokenizer_config.json", chat_template=named)
    elif where == "both":
        change(folder / "tokenizer_config.json", chat_template="{{ messages[0]['content'] + 'text alone' }}")
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    else:
        change(folder / where, chat_template=template)


def test_tensors_that_nothing_uses_do_no_harm_and_those_of_another_config_are_refused(folder):
    copy = folder("idefics3")
    path = copy / "model.safetensors"
    tensors = load_file(path)
    block = "model.text_model.layers"
    constants = [f"{block}.0.self_attn.rotary_emb.inv_freq", "model.vision_model.embeddings.position_ids"]
    heads = ["model.vision_model.head.probe", "score.weight"]
    for name in (*constants, *heads):
        save_file(tensors | {name: torch.ones(4)}, path, metadata={"format": "pt"})
        loading.load(str(copy), device="cpu")
    wrong = {f"{block}.99.mlp.up_proj.weight": "no place", f"{block}.0.self_attn.q_proj.bias": "no place"}
    for name, reason in (wrong | {"lm_head.weight": "tied to"}).items():
        save_file(tensors | {name: torch.ones(4)}, path, metadata={"format": "pt"})
        with pytest.raises(InputError, match=reason):
            loading.load(str(copy), device="cpu")


@pytest.mark.parametrize("family", ["qwen2_vl", "idefics3"])
@pytest.mark.parametrize(
    "where", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json", "named", "both", "absent"]
)
def test_the_chat_template_is_found_wherever_it_is(family, where, folder):
    copy = folder(family)
    template = None if where == "absent" else facts(family).template + "{# the checkpoint's #}"
    put_template(copy, where, template)
    base = loading.skeleton(str(copy))
    assert base.template == (template or base.own_template)
    conversation = base.caption("red dog")
    tokens = base.tokenize(conversation, base.encode_image(Image.new("RGB", (160, 96))).grid)
    assert base.tokenizer.decode(tokens.ids[tokens.target]).strip() == "red dog"


def test_named_templates_without_a_default_are_refused(folder):
    copy = folder("idefics3")
    (copy / "chat_template.jinja").unlink()
    change(copy / "tokenizer_config.json", chat_template=[{"name": "rag", "template": "x"}])
    with pytest.raises(InputError, match="chat templates rag, none named default"):
        loading.skeleton(str(copy))


def test_a_template_without_the_image_is_refused_before_the_weights(folder):
    copy = folder("idefics3")
    (copy / "model.safetensors").unlink()
    (copy / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}")
    with pytest.raises(InputError, match=r"the chat template places no image \(<image>\)"):
        loading.load(str(copy))


# The settings files of the real checkpoints, at the tiny size.
REAL_SETTINGS = {
    "qwen2_vl": {
        "min_pixels": 64 * 64,
        "max_pixels": 192 * 192,
        "patch_size": 8,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
    },
    "idefics3": {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "Idefics3ImageProcessor",
        "max_image_size": {"longest_edge": 66},
        "processor_class": "Idefics3Processor",
        "resample": 1,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": 132},
    },
    "paligemma": {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_seq_length": 64,
        "processor_class": "PaliGemmaProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 112, "width": 112},
    },
}


@pytest.mark.parametrize("family", REAL_SETTINGS)
@pytest.mark.parametrize("ending", ["", "Fast", "nested"])
def test_real_settings_give_the_pil_image_processor_and_the_same_pixels(family, ending, folder):
    copy, settings = folder(family), dict(REAL_SETTINGS[family])
    if ending == "nested":  # as transformers 5 saves a processor
        (copy / "preprocessor_config.json").unlink()
        kind = settings.pop("processor_class")
        (copy / "processor_config.json").write_text(json.dumps({"processor_class": kind, "image_processor": settings}))
    else:
        settings["image_processor_type"] += ending
        (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    base, plain = loading.skeleton(str(copy)), loading.skeleton(str(saved(family)))
    assert type(base.image_processor).__name__ == settings["image_processor_type"].removesuffix("Fast") + "Pil"
    pixels = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    one, other = (b.encode_image(Image.fromarray(pixels)) for b in (base, plain))
    assert one.grid == other.grid
    assert torch.equal(one.pixels["pixel_values"], other.pixels["pixel_values"])


def older_form(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json as the real checkpoints have it: written by older releases of transformers."""
    text, vision = config.pop("text_config"), config["vision_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.41.2"
    if config["model_type"] == "qwen2_vl":  # flat: the decoder's values stand beside the vision tower
        del vision["model_type"]
        vision |= {"in_chans": 3, "spatial_patch_size": vision["patch_size"]}
        scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        own = {k: v for k, v in text.items() if k not in ("model_type", "tie_word_embeddings")}
        return own | config | {"rope_scaling": scaling, "tie_word_embeddings": True}
    text["torch_dtype"] = "bfloat16"
    if config["model_type"] == "idefics3":
        text |= {"architectures": ["VLlama3ForCausalLM"], "_flash_attn_2_enabled": True, "qk_layer_norms": False}
        vision |= {"max_image_size": {"longest_edge": 66}, "size": {"longest_edge": 132}, "model_type": "idefics3"}
    else:
        config |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "num_hidden_layers": 14}
        vision |= {"num_image_tokens": 64, "num_positions": 64, "projection_dim": 96}
    return config | {"text_config": text}


@pytest.mark.parametrize("family", REAL_SETTINGS)
def test_a_config_of_an_older_form_gives_the_same_model(family, folder):
    copy = folder(family)
    old = older_form(json.loads((copy / "config.json").read_text()))
    (copy / "config.json").write_text(json.dumps(old))
    results = []
    for path in (copy, saved(family)):
        base = loading.load(str(path), device="cpu")
        image = base.encode_image(Image.new("RGB", (160, 96), (200, 40, 40)))
        packed = packing.pack_images([[base.tokenize(base.caption("red dog"), image.grid)]], base.prompt_attention)
        with torch.no_grad():
            embeddings = base.embeddings(packed.batch, base.image_features([image]))
            results.append(base.hidden_states(packed.batch, embeddings))
    assert torch.equal(*results)


@families()
def test_a_skeleton_does_all_that_needs_no_weights(family, folder):
    copy = folder(family)
    (copy / "model.safetensors").unlink()
    base, whole = loading.skeleton(str(copy)), loading.load(str(saved(family)), device="cpu")
    assert base.digest == ""
    assert base.device.type == "meta"
    assert (base.layers, base.heads) == (whole.layers, whole.heads)
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 255, (90, 150, 3), dtype=np.uint8))
    mask = np.zeros((90, 150), dtype=bool)
    mask[20:60, 40:100] = True
    encoded = base.encode_image(image)
    assert encoded.grid == whole.encode_image(image).grid
    assert torch.equal(base.coverages([mask]), whole.coverages([mask]))
    for conversation in (base.caption("red dog"), base.question(["a", "b", "c", "d"], "B")):
        one, other = base.tokenize(conversation, encoded.grid), whole.tokenize(conversation, encoded.grid)
        for field_name in ("ids", "positions", "visual", "answer", "target"):
            assert torch.equal(getattr(one, field_name), getattr(other, field_name))
    count = [sum(p.numel() for p in b.model.parameters()) for b in (base, whole)]
    assert count[0] == count[1]


def test_an_index_is_read_where_there_is_no_single_file(folder):
    copy = folder("paligemma")
    names = shard(copy)
    assert hub.fetch_weights(str(copy), copy, None) == [copy / name for name in names]
