"""LLaVA 1.5."""

from transformers import CLIPImageProcessorPil, LlavaConfig

from facts import Facts, paligemma
from headimpact.lifecycle.rehearsal.checkpoints import make_tokenizer, published
from headimpact.tiny import bases
from headimpact.vlm.tokengrid import TokenGrid

REAL = published()["llava-hf/llava-1.5-7b-hf"]

# The real checkpoint's, as far as text and images go. It writes nothing behind an answer.
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{{ ' ' }}"
    "{% endfor %}{% else %}{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ part['text'] }}{{ ' ' }}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def decoder(tokenizer) -> dict:
    """A small Llama."""
    return {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": bases.WIDTH,
        "intermediate_size": 224,
        "num_hidden_layers": bases.LAYERS,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "max_position_embeddings": 2048,
        "initializer_range": bases.INITIALIZER_RANGE,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }


def vision(size: int, patch: int) -> dict:
    """A small CLIP; the last of its layers is not used."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": bases.VISION_WIDTH,
        "intermediate_size": 2 * bases.VISION_WIDTH,
        "num_hidden_layers": bases.VISION_LAYERS,
        "num_attention_heads": 4,
        "image_size": size,
        "patch_size": patch,
        "initializer_range": bases.INITIALIZER_RANGE,
    }


def _settings():
    """Squares of 96 pixels, cut into 12x12 patches."""
    tokenizer = make_tokenizer(REAL.tiny)
    config = LlavaConfig(
        text_config=decoder(tokenizer),
        vision_config=vision(96, 8),
        image_token_index=tokenizer.get_vocab()["<image>"],
        image_seq_length=144,
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96})
    return config, tokenizer, processor


SIZES = [(37, 911), (1920, 1080), (28, 28), (333, 777), (4000, 300), (640, 480), (640, 640), (200, 145)]

FACTS = Facts(
    settings=_settings,
    real_settings=REAL.settings,
    template=TEMPLATE,
    caption="USER: <image>\nWhat is this photo? ASSISTANT: This is a photo of {phrase}. ",
    layers=32,
    heads=32,
    parameters=7_063_427_072,
    adapted_layer=8 * 3 * (4096 + 4096),
    grid_at_640x480=TokenGrid(24, 24, box=(0.0, 56 / 448, 1.0, 392 / 448)),
    visual_tokens=dict.fromkeys(SIZES, 576),
    patches_per_token=1,
    seen=paligemma.seen,
    closing="",
)
