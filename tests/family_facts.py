"""Families in tests: their facts, and models of them, tiny with random weights and of real size without any."""

import importlib
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from facts import Facts
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from headimpact.tiny import bases
from headimpact.vlm import attention
from headimpact.vlm.base import Vlm
from headimpact.vlm.families import FAMILIES, family_class

TINY_LAYERS = 4
EMBEDDED = ("idefics3", "paligemma", "qwen2_vl")
"""Those of the embedded bases: ``fresh`` gives these bases, with fewer layers."""
KINDS = ("idefics3", "paligemma", "gemma3", "qwen3_5")
"""Families of every kind of decoder: every text causal; prompts seen in both directions; images seen so; and layers
without attention, with positions in three dimensions."""


def facts(family: str) -> Facts:
    """The facts of a family; without them the test fails."""
    file = FAMILIES[family].split(":")[0] if family in FAMILIES else family
    try:
        return importlib.import_module(f"facts.{file}").FACTS
    except ModuleNotFoundError:
        return pytest.fail(f"The family {family} stands in FAMILIES: give its FACTS in tests/facts/{file}.py.")


def families() -> pytest.MarkDecorator:
    """Runs a test once for every family of the table, by the argument ``family``."""
    return pytest.mark.parametrize("family", FAMILIES)


def kinds() -> pytest.MarkDecorator:
    """Runs a test on KINDS, by ``family``: of what all families share, or what differs by the kind of decoder alone."""
    return pytest.mark.parametrize("family", KINDS)


def fresh(family: str, seed: int = 3) -> Vlm:
    """A tiny model with random weights, the same for the same seed, to be changed at will.

    Its decoder is cut to TINY_LAYERS, for time.
    """
    config, tokenizer, image_processor = facts(family).settings()
    text = config.get_text_config()
    text.num_hidden_layers = TINY_LAYERS
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:TINY_LAYERS]
    config._attn_implementation = {"text_config": attention.NAME, "vision_config": "sdpa"}
    kind = family_class(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.model_class(config)
        # transformers begins some projections with zeros (Gemma 3's of the image): then nothing would be seen.
        for parameter in model.parameters():
            if parameter.ndim == 2 and not parameter.any():
                torch.nn.init.normal_(parameter, std=bases.INITIALIZER_RANGE)
    tokenizer.chat_template = kind.own_template
    return kind(model, tokenizer, image_processor, None, f"tiny {family}", None, "")


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture of random pixels, another one for every seed."""
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@cache
def tiny(family: str) -> Vlm:
    """As :func:`fresh`, built once a process: for tests that leave it as it is."""
    return fresh(family)


@cache
def real(family: str) -> Vlm:
    """A family at real size without weights, with the image processor of the real checkpoint; to be left as it is."""
    config, image_processor = facts(family).real_settings()
    kind = family_class(family)
    with torch.device("meta"):
        model = kind.model_class(config)
    return kind(model, None, image_processor, None, f"real {family}", None, "")


def processed_coverages(
    family: str, vlm: Vlm, masks: Sequence[Bool[np.ndarray, "height width"]]
) -> Float[Tensor, "objects tokens"]:
    """``Vlm.coverages`` the obvious way: every mask as a picture through the image processor itself."""
    settings = vlm.image_processor.to_dict() | {"do_rescale": False, "do_normalize": False}
    plain = type(vlm)(vlm.model, vlm.tokenizer, type(vlm.image_processor)(**settings), None, vlm.source, None, "")
    pictures = [Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB") for mask in masks]
    seen = [facts(family).seen(plain, plain.encode_image(picture)) for picture in pictures]
    return torch.stack([(pixels.float() / 255).mean(dim=1) for pixels in seen])
