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
from transformers import (
    Idefics3Config,
    Idefics3ImageProcessorPil,
    LlamaConfig,
    PaliGemmaConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
    SmolVLMConfig,
    SmolVLMImageProcessorPil,
)

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


def _paligemma2_3b():
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 448,
            "patch_size": 14,
            "vision_use_head": False,
        },
        text_config={"model_type": "gemma2", "vocab_size": 257216},
        image_token_index=257152,
        projection_dim=2304,
        hidden_size=2304,
    )
    return config, SiglipImageProcessorPil(size={"height": 448, "width": 448})


def _qwen2_vl_2b():
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": True,
        },
        vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "num_heads": 16},
        tie_word_embeddings=True,
    )
    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    return config, Qwen2VLImageProcessorPil(size=size)


def _smolvlm():
    config = Idefics3Config(
        text_config=LlamaConfig(
            vocab_size=49155,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=24,
            num_attention_heads=32,
            num_key_value_heads=32,
            tie_word_embeddings=False,
        ).to_dict(),
        vision_config={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
        scale_factor=3,
        image_token_id=49153,
        tie_word_embeddings=False,
    )
    return config, Idefics3ImageProcessorPil(size={"longest_edge": 1536}, max_image_size={"longest_edge": 384})


def _tiny_qwen2_5_vl():
    """Windows of 2 x 2 tokens in two of its vision layers, whole images in the others."""
    config, tokenizer, image_processor = bases.TINY["tiny-qwen2-vl"]()
    text, vision = config.text_config, config.vision_config
    config = Qwen2_5_VLConfig(
        text_config=text.to_dict() | {"model_type": "qwen2_5_vl_text"},
        vision_config={
            "depth": vision.depth,
            "hidden_size": vision.embed_dim,
            "intermediate_size": 2 * vision.embed_dim,
            "out_hidden_size": text.hidden_size,
            "num_heads": vision.num_heads,
            "patch_size": vision.patch_size,
            "window_size": 4 * vision.patch_size,
            "fullatt_block_indexes": [1, 3],
            "initializer_range": bases.INITIALIZER_RANGE,
        },
        **{name: getattr(config, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id")},
        tie_word_embeddings=True,
    )
    return config, tokenizer, image_processor


def _qwen2_5_vl_3b():
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": True,
        },
        vision_config={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048},
        tie_word_embeddings=True,
    )
    _, image_processor = _qwen2_vl_2b()
    return config, image_processor


def _tiny_smolvlm2():
    config, tokenizer, image_processor = bases.TINY["tiny-smolvlm"]()
    values = config.to_dict()
    config = SmolVLMConfig(
        **{name: values[name] for name in ("image_token_id", "scale_factor", "tie_word_embeddings")},
        text_config=values["text_config"],
        vision_config=values["vision_config"] | {"model_type": "smolvlm_vision"},
    )
    return config, tokenizer, SmolVLMImageProcessorPil.from_dict(image_processor.to_dict())


def _smolvlm2_2b():
    config, image_processor = _smolvlm()
    values = config.to_dict()
    config = SmolVLMConfig(
        **{name: values[name] for name in ("scale_factor", "tie_word_embeddings")},
        image_token_id=49190,
        text_config=values["text_config"] | {"vocab_size": 49280},
        vision_config=values["vision_config"] | {"model_type": "smolvlm_vision"},
    )
    return config, SmolVLMImageProcessorPil.from_dict(image_processor.to_dict())


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
        real_settings=_paligemma2_3b,
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
        real_settings=_qwen2_vl_2b,
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
    "qwen2_5_vl": Facts(
        settings=_tiny_qwen2_5_vl,
        real_settings=_qwen2_5_vl_3b,
        template=QWEN2_VL_TEMPLATE,
        caption="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        "<image><|vision_end|>What is this photo?<|im_end|>\n<|im_start|>assistant\n"
        "This is a photo of {phrase}.<|im_end|>\n",
        layers=36,
        heads=16,
        parameters=3_754_622_976,
        adapted_layer=8 * (2 * 2048 + 2 * (2048 + 256)),
        grid_at_640x480=TokenGrid(17, 23),
        visual_tokens={(640, 480): 391, (640, 640): 529, (640, 427): 345, (200, 145): 35},
        patches_per_token=4,
        seen=_qwen2_vl_seen,
    ),
    "idefics3": Facts(
        settings=bases.TINY["tiny-smolvlm"],
        real_settings=_smolvlm,
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
    "smolvlm": Facts(
        settings=_tiny_smolvlm2,
        real_settings=_smolvlm2_2b,
        template=SMOLVLM_TEMPLATE,
        caption="<|im_start|>User:<image>What is this photo?<end_of_utterance>\n"
        "Assistant: This is a photo of {phrase}.<end_of_utterance>\n",
        layers=24,
        heads=32,
        parameters=2_246_784_880,
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
