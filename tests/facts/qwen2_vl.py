"""Qwen2-VL."""

from facts import Facts
from headimpact.lifecycle.rehearsal.checkpoints import published
from headimpact.tiny import bases
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.tokengrid import TokenGrid

# The real checkpoint's, as far as text and images go.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vision(config) -> dict:
    """The tiny model's vision tower, by the names that the families after it have."""
    vision = config.vision_config
    return {
        "depth": vision.depth,
        "hidden_size": vision.embed_dim,
        "intermediate_size": 2 * vision.embed_dim,
        "out_hidden_size": config.text_config.hidden_size,
        "num_heads": vision.num_heads,
        "patch_size": vision.patch_size,
        "initializer_range": bases.INITIALIZER_RANGE,
    }


def tokens(config) -> dict:
    """The ids of the tokens of images."""
    return {name: getattr(config, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id")}


def seen(vlm: Vlm, encoded: EncodedImage):
    """The processor lists patches merge block by merge block."""
    return encoded.pixels["pixel_values"].reshape(encoded.grid.tokens, -1)


FACTS = Facts(
    settings=bases.TINY["tiny-qwen2-vl"],
    real_settings=published()["Qwen/Qwen2-VL-2B-Instruct"].settings,
    template=TEMPLATE,
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
    seen=seen,
)
