"""What the contract tests know of every family: a tiny model with random weights, and facts of the real checkpoint.

A family that stands in ``headimpact.vlm.families.FAMILIES`` needs an entry in ``FACTS`` here: the contract tests
(``test_family_contract.py``, and what else asks for ``families()``) run on it, and fail without one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from headimpact.lifecycle.rehearsal.checkpoints import published
from headimpact.tiny import bases
from headimpact.vlm import attention
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.families import FAMILIES, family_class
from headimpact.vlm.tokengrid import TokenGrid

TINY_LAYERS = 4


@dataclass(frozen=True)
class Facts:
    """What is known of a family beside its code.

    Attributes:
        settings: configuration, tokenizer and image processor of a tiny model; its decoder has at least TINY_LAYERS.
        real_settings: configuration and image processor of the real checkpoint.
        template: the real checkpoint's chat template, as far as text and images go; None where it has none.
        caption: what that template makes of a description, with {phrase} and the image as <image>.
        layers, heads, parameters: of the real checkpoint's language model, and of all of it.
        adapted_layer: trainable parameters of LoRA of rank 8 on q, k and v of one of its layers (table 5).
        grid_at_640x480: where the visual tokens of an image of 640 x 480 lie.
        visual_tokens: their number by width and height of an image, as the real checkpoint's own processor gives it.
        patches_per_token: patches of its vision tower in one visual token.
        seen: of what its image processor gives for an image, the pixels that each visual token sees.
    """

    settings: Callable[[], tuple[Any, Any, Any]]
    real_settings: Callable[[], tuple[Any, Any]]
    template: str | None
    caption: str
    layers: int
    heads: int
    parameters: int
    adapted_layer: int
    grid_at_640x480: TokenGrid
    visual_tokens: Mapping[tuple[int, int], int]
    patches_per_token: int
    seen: Callable[[Vlm, EncodedImage], Float[Tensor, "tokens pixels"]]


def _paligemma_seen(vlm: Vlm, encoded: EncodedImage):
    rows, cols = encoded.grid.rows, encoded.grid.cols
    pixels = encoded.pixels["pixel_values"][0]
    channels, height, width = pixels.shape
    patches = pixels.reshape(channels, rows, height // rows, cols, width // cols)
    return patches.permute(1, 3, 0, 2, 4).reshape(rows * cols, -1)


def _qwen2_vl_seen(vlm: Vlm, encoded: EncodedImage):
    """The processor lists patches merge block by merge block."""
    return encoded.pixels["pixel_values"].reshape(encoded.grid.tokens, -1)


def _idefics3_seen(vlm: Vlm, encoded: EncodedImage):
    """The last pixels of a block that fill no whole patch are seen by no token."""
    pixels = encoded.pixels["pixel_values"][0]
    blocks, channels = pixels.shape[:2]
    side, width = encoded.grid.rows, vlm.model.config.vision_config.patch_size * vlm.model.config.scale_factor
    seen = pixels[:, :, : side * width, : side * width].reshape(blocks, channels, side, width, side, width)
    return seen.permute(0, 2, 4, 1, 3, 5).reshape(encoded.grid.tokens, -1)


# The chat templates of the real checkpoints, as far as text and images go (PaliGemma's has none).
QWEN2_VL_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

FACTS = {
    "paligemma": Facts(
        settings=bases.TINY["tiny-paligemma2"],
        real_settings=published()["google/paligemma2-3b-mix-448"].settings,
        template=None,
        caption="<image><bos>describe en\n{phrase}<eos>",
        layers=26,
        heads=8,
        parameters=3_033_127_152,
        adapted_layer=352_256 // 4,
        grid_at_640x480=TokenGrid(32, 32),
        visual_tokens={(640, 480): 1024, (200, 145): 1024},
        patches_per_token=1,
        seen=_paligemma_seen,
    ),
    "qwen2_vl": Facts(
        settings=bases.TINY["tiny-qwen2-vl"],
        real_settings=published()["Qwen/Qwen2-VL-2B-Instruct"].settings,
        template=QWEN2_VL_TEMPLATE,
        caption="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        "<image><|vision_end|>What is this photo?<|im_end|>\n<|im_start|>assistant\n"
        "This is a photo of {phrase}.<|im_end|>\n",
        layers=28,
        heads=12,
        parameters=2_208_985_600,
        adapted_layer=212_992 // 4,
        grid_at_640x480=TokenGrid(17, 23),
        visual_tokens={(640, 480): 391, (640, 640): 529, (640, 427): 345, (200, 145): 35},
        patches_per_token=4,
        seen=_qwen2_vl_seen,
    ),
    "idefics3": Facts(
        settings=bases.TINY["tiny-smolvlm"],
        real_settings=published()["HuggingFaceTB/SmolVLM-Instruct"].settings,
        template=SMOLVLM_TEMPLATE,
        caption="<|im_start|>User:<image>What is this photo?<end_of_utterance>\n"
        "Assistant: This is a photo of {phrase}.<end_of_utterance>\n",
        layers=24,
        heads=32,
        parameters=2_246_272_880,
        adapted_layer=393_216 // 4,
        grid_at_640x480=TokenGrid(9, 9, 3, 4),
        visual_tokens={(640, 480): 1053, (640, 640): 1377, (200, 145): 1053},
        patches_per_token=9,
        seen=_idefics3_seen,
    ),
}
"""By ``model_type``, as ``FAMILIES``."""


def facts(family: str) -> Facts:
    """The facts of a family; without them the test fails."""
    if family not in FACTS:
        pytest.fail(f"The family {family} stands in FAMILIES: give its tiny model and its facts in {__name__}.FACTS.")
    return FACTS[family]


def families() -> pytest.MarkDecorator:
    """Runs a test once for every family of the table, by the argument ``family``."""
    return pytest.mark.parametrize("family", FAMILIES)


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
    tokenizer.chat_template = kind.own_template
    return kind(model, tokenizer, image_processor, None, f"tiny {family}", None, "")


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
