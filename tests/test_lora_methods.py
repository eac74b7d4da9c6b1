"""Wider adapters: o and the MLP beside q, k and v; DoRA and rank-stabilised LoRA."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from family_facts import fresh, tiny
from peft import PeftModel
from PIL import Image
from training_runs import SETTINGS

from headimpact.adapters import cell, cost, lora
from headimpact.data import coco
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine.forward import Engine
from headimpact.engine.watch import unwatched
from headimpact.errors import InputError
from headimpact.vlm.base import Vlm
from headimpact.vlm.layers import PROJECTIONS

WIDE = tuple(PROJECTIONS)
METHODS = ("lora", "dora", "rslora")
TRAIN = replace(SETTINGS, checkpoint_steps=9)


def logits(model, vlm: Vlm) -> torch.Tensor:
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    encoded = vlm.encode_image(Image.fromarray(picture))
    inputs = vlm.native_inputs(vlm.tokenize(vlm.caption("red circle"), encoded.grid), encoded)
    with torch.inference_mode():
        return model(**inputs).logits[0]


@pytest.mark.parametrize("method", METHODS)
def test_it_trains_is_alive_and_peft_alone_loads_it(method: str, tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", {"impact": 1, "train": 4, "val": 2, "test": 1}, seed=0)
    parts = (coco.read_part(tmp_path / "data", part) for part in ("train", "val"))
    vlm = fresh("idefics3")
    before = logits(vlm.model, vlm)
    settings = lora.LoraSettings(4, 8, WIDE, method)
    trained, history = cell.train_adapter(
        Engine(vlm),
        cell.Placement((1, 3)),
        settings,
        TRAIN,
        cell.TrainingData(*parts),
        tmp_path / "state",
        "fingerprint",
        unwatched,
    )
    perplexities = [measured.value for measured in history if measured.metric == "val/perplexity"]
    assert min(perplexities[1:]) < perplexities[0]
    after = logits(vlm.model, vlm)
    assert not torch.equal(before, after)
    lora.save(trained, tmp_path / "adapter", {"base_digest": ""})
    plain = fresh("idefics3")
    plain.model.set_attn_implementation({"text_config": "eager"})
    loaded = PeftModel.from_pretrained(plain.model, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded, plain), after, atol=1e-4, rtol=0)


def test_what_trains_is_counted() -> None:
    """r (in + out) of every projection; DoRA has the length of each row beside it."""
    vlm = tiny("idefics3")
    shapes = [vlm.model.get_submodule(name).weight.shape for name in vlm.projections([1, 3], WIDE)]
    counted = {
        method: cost.count_parameters(vlm, [1, 3], lora.LoraSettings(4, 8, WIDE, method)).trainable
        for method in METHODS
    }
    expected = sum(4 * (rows + columns) for rows, columns in shapes)
    assert counted["lora"] == counted["rslora"] == expected
    assert counted["dora"] == expected + sum(rows for rows, _ in shapes)


@pytest.mark.parametrize(("method", "scale"), [("lora", 8 / 4), ("dora", 8 / 4), ("rslora", 8 / math.sqrt(4))])
def test_ranks_of_their_own_scale_an_update_as_the_others(method: str, scale: float) -> None:
    vlm = fresh("idefics3")
    lora.attach(vlm, [1, 3], lora.LoraSettings(4, 8, ("q_proj",), method), seed=0, ranks={1: 1, 3: 9})
    scales = {
        name: module.scaling["default"] for name, module in vlm.model.named_modules() if hasattr(module, "lora_A")
    }
    assert scales == pytest.approx(dict.fromkeys(scales, scale))
    assert len(scales) == 2


def test_what_cannot_be_adapted_is_refused() -> None:
    vlm = tiny("idefics3")
    with pytest.raises(InputError, match="There is no projection out_proj: layers have q_proj, k_proj"):
        lora.attach(vlm, [1], lora.LoraSettings(4, 8, ("out_proj",)), seed=0)
    with pytest.raises(InputError, match=r"Single heads are not adapted with lora\.method dora"):
        lora.attach_heads(vlm, [(1, 0)], lora.LoraSettings(4, 8, ("q_proj",), "dora"), seed=0)
    with pytest.raises(InputError, match="not of o_proj"):
        lora.attach_heads(vlm, [(1, 0)], lora.LoraSettings(4, 8, ("q_proj", "o_proj")), seed=0)
