"""Mistral 3: a tiny Ministral 3, and the real Mistral Small 3.1."""

from transformers import Mistral3Config, PixtralImageProcessorPil

from facts import Facts
from headimpact.lifecycle.rehearsal.checkpoints import make_tokenizer, published
from headimpact.tiny import bases
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.tokengrid import TokenGrid

REAL = published()["mistralai/Mistral-Small-3.1-24B-Instruct-2503"]

# The real checkpoint's, as far as text and images go; before [INST] it has a system prompt with the day's date.
TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{%- if message['content'] is string %}{{- '[INST]' + message['content'] + '[/INST]' }}{%- else %}"
    "{{- '[INST]' }}{%- for part in message['content'] %}{%- if part['type'] == 'text' %}{{ part['text'] }}"
    "{%- elif part['type'] in ['image', 'image_url'] %}{{- '[IMG]' }}{%- endif %}{%- endfor %}{{- '[/INST]' }}"
    "{%- endif %}{%- elif message['role'] == 'assistant' %}"
    "{% for part in message['content'][:1] %}{{ part['text'] }}{% endfor %}{{- eos_token }}{%- endif %}{%- endfor %}"
)


def _settings():
    """Queries are scaled from position 16 on."""
    tokenizer = make_tokenizer(REAL.tiny, REAL.tokens)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    config = Mistral3Config(
        text_config={
            "model_type": "ministral3",
            "vocab_size": len(tokenizer),
            "hidden_size": bases.WIDTH,
            "intermediate_size": 224,
            "num_hidden_layers": bases.LAYERS,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "llama_4_scaling_beta": 0.1,
                "original_max_position_embeddings": 16,
            },
            "initializer_range": bases.INITIALIZER_RANGE,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": bases.VISION_WIDTH,
            "intermediate_size": 2 * bases.VISION_WIDTH,
            "num_hidden_layers": bases.VISION_LAYERS,
            "num_attention_heads": 4,
            "image_size": 192,
            "patch_size": 4,
            "initializer_range": bases.INITIALIZER_RANGE,
        },
        image_token_index=tokenizer.get_vocab()["[IMG]"],
        tie_word_embeddings=False,
    )
    patch = {"height": 4, "width": 4}
    return config, tokenizer, PixtralImageProcessorPil(size={"longest_edge": 192}, patch_size=patch)


def seen(vlm: Vlm, encoded: EncodedImage):
    """Nothing is left over."""
    rows, cols = encoded.grid.rows, encoded.grid.cols
    pixels = encoded.pixels["pixel_values"][0]
    channels, height, width = pixels.shape
    patches = pixels.reshape(channels, rows, height // rows, cols, width // cols)
    return patches.permute(1, 3, 0, 2, 4).reshape(rows * cols, -1)


FACTS = Facts(
    settings=_settings,
    real_settings=REAL.settings,
    template=TEMPLATE,
    caption="<s>[INST]<image>What is this photo?[/INST]This is a photo of {phrase}.</s>",
    layers=40,
    heads=32,
    parameters=24_011_361_280,
    adapted_layer=8 * (5120 + 4096 + 2 * (5120 + 1024)),
    grid_at_640x480=TokenGrid(18, 23),
    visual_tokens={
        (37, 911): 66,
        (1920, 1080): 1705,
        (28, 28): 1,
        (333, 777): 336,
        (4000, 300): 275,
        (640, 480): 414,
        (640, 640): 529,
        (640, 427): 368,
        (200, 145): 48,
    },
    patches_per_token=4,
    seen=seen,
)
