"""Checkpoints in folders that are not right: what is wrong is said, before the weights are read where it can be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_folders import INDEX, change, copied, shard

from headimpact.errors import InputError
from headimpact.vlm import loading


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """Gives a copy of the folder of a family's tiny model, to be changed."""
    return lambda family: copied(family, tmp_path)


def lose(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def lose_shard(folder: Path) -> None:
    (folder / shard(folder)[1]).unlink()


def escape(folder: Path) -> None:
    shard(folder)
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"] = dict.fromkeys(content["weight_map"], "../other.safetensors")
    (folder / INDEX).write_text(json.dumps(content))


def empty_index(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).write_text("{}")


def pickle_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_shapes(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    key = next(key for key in sorted(tensors) if key.endswith("q_proj.weight") and "vis" not in key)
    save_file(tensors | {key: torch.zeros(3, 5)}, folder / "model.safetensors", {"format": "pt"})


def fewer_tensors(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(key for key in sorted(tensors) if key.endswith("q_proj.weight") and "vis" not in key)]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def settings(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "preprocessor_config.json", **values)


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "config.json", **values)


def vision(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        change(folder / "config.json", vision_config=content["vision_config"] | values)

    return apply


def decoder(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        change(folder / "config.json", text_config=content["text_config"] | values)

    return apply


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


LIGHT = [
    ("idefics3", lose("config.json"), "is no checkpoint: it has no config.json"),
    ("idefics3", write("config.json", "{"), "is not valid JSON"),
    ("idefics3", lose("tokenizer.json"), "has no tokenizer"),
    ("idefics3", write("tokenizer.json", "{}"), "its tokenizer cannot be used"),
    ("idefics3", lose("preprocessor_config.json"), "has no image processor settings"),
    ("idefics3", write("preprocessor_config.json", "[]"), "image processor settings cannot be used"),
    (
        "idefics3",
        config(model_type="sesame"),
        r"its model type is sesame; supported are (\S+, )*idefics3, (\S+, )*paligemma, (\S+, )*qwen2_vl",
    ),
    ("idefics3", config(model_type=None), "its model type is None"),
    ("idefics3", config(model_type="own", auto_map={"AutoConfig": "evil.Config"}), "its model type is own"),
    ("qwen2_vl", config(architectures=["Qwen2VLForReward"]), "holds a Qwen2VLForReward"),
    ("idefics3", config(text_config="small"), "its config.json cannot be used"),
    ("idefics3", config(image_token_id=7), "<image> is token 4 of its tokenizer, and 7 in its config"),
    ("paligemma", decoder(model_type="llama"), "has a llama decoder, and no PaliGemma with such a one is supported"),
    (
        "paligemma",
        settings(size={"height": 224, "width": 224}),
        "makes images of 224x224 pixels, its vision tower takes 112x112",
    ),
    ("paligemma", settings(do_resize=False), "images must be resized to whole patches"),
    ("paligemma", vision(patch_size=15), "images must be resized to whole patches"),
    (
        "idefics3",
        settings(max_image_size={"longest_edge": 64}),
        "cuts crops of 64 pixels, its vision tower takes 66",
    ),
    ("gemma3", settings(do_pan_and_scan=True), r"pan and scan \(do_pan_and_scan\) is not supported"),
    ("gemma3", settings(size={"height": 224, "width": 224}), "makes images of 224x224 pixels"),
    ("gemma3", config(mm_tokens_per_image=60), "16 patches along a side .* cannot be pooled to 60 tokens in a square"),
    ("gemma3", config(mm_tokens_per_image=25), "16 patches along a side .* cannot be pooled to 25 tokens in a square"),
    ("gemma3", decoder(use_bidirectional_attention=True), "its text attends in both directions"),
    ("gemma3", decoder(final_logit_softcapping=30.0), "transformers ignores final_logit_softcapping"),
    ("idefics3", vision(patch_size=7), r"9 patches along a crop's side .* cannot be merged 2 by 2"),
    ("idefics3", config(scale_factor=3), r"8 patches along a crop's side .* cannot be merged 3 by 3"),
    ("idefics3", settings(size={"height": 132, "width": 132}), "must resize images by their longest_edge"),
    ("qwen2_vl", settings(patch_size=14), "patch_size is 14 in its image processor's settings and 8 in its model"),
    ("qwen2_vl", settings(merge_size=1), "merge_size is 1 in its image processor's settings and 2 in its model"),
    ("qwen2_vl", settings(temporal_patch_size=1), "temporal_patch_size is 1"),
    ("qwen2_vl", settings(size={"shortest_edge": 4096, "longest_edge": 64}), "between min_pixels and max_pixels"),
    (
        "qwen2_vl",
        settings(image_processor_type="SiglipImageProcessor", size={"height": 112, "width": 112}),
        "its image processor is a SiglipImageProcessorPil, where the model takes the images of a Qwen2VL",
    ),
]


@pytest.mark.parametrize(("family", "spoil", "message"), LIGHT)
def test_what_does_not_fit_is_told_before_the_weights_are_touched(family, spoil, message, folder):
    copy = folder(family)
    (copy / "model.safetensors").write_bytes(b"never read")
    spoil(copy)
    for use in (loading.skeleton, loading.load):
        with pytest.raises(InputError, match=message):
            use(str(copy))


HEAVY = [
    ("qwen2_vl", lose("model.safetensors"), "holds no model.safetensors. Other formats are not loaded"),
    ("qwen2_vl", pickle_alone, r"Its weights are pickles \(pytorch_model.bin\), which are not loaded"),
    ("qwen2_vl", lose_shard, r"lacks model-00002-of-00003.safetensors, which its .* names \(1 of 3\)"),
    ("qwen2_vl", escape, "does not name safetensors files beside it: '../other.safetensors'"),
    ("qwen2_vl", empty_index, "does not name safetensors files beside it"),
    ("qwen2_vl", cut_weights, "its weights are damaged"),
    ("qwen2_vl", write("model.safetensors", "not safetensors"), "its weights are damaged"),
    (
        "qwen2_vl",
        other_shapes,
        r"1 tensors are missing or of another shape, the first is .*layers.0.self_attn.q_proj",
    ),
    ("qwen2_vl", fewer_tensors, r"1 tensors are missing or of another shape"),
]


@pytest.mark.parametrize(("family", "spoil", "message"), HEAVY)
def test_weights_that_cannot_be_used_are_told(family, spoil, message, folder):
    copy = folder(family)
    spoil(copy)
    with pytest.raises(InputError, match=message):
        loading.load(str(copy), device="cpu")
