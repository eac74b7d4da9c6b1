"""InternVL3."""

from transformers import GotOcr2ImageProcessorPil, InternVLConfig

from facts import Facts, llava
from headimpact.lifecycle.rehearsal.checkpoints import make_tokenizer, published
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.tokengrid import TokenGrid

REAL = published()["OpenGVLab/InternVL3-2B-hf"]

# The real checkpoint's, as far as text and images go.
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


def _settings():
    """Up to 4 tiles of 64 tokens."""
    tokenizer = make_tokenizer("tiny-qwen2-vl", REAL.tokens)
    ids = tokenizer.get_vocab()
    config = InternVLConfig(
        text_config=llava.decoder(tokenizer)
        | {
            "model_type": "qwen2",
            "num_key_value_heads": 2,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config=llava.vision(64, 4) | {"model_type": "internvl_vision", "attention_bias": True},
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=64,
        tie_word_embeddings=False,
    )
    return config, tokenizer, GotOcr2ImageProcessorPil(size={"height": 64, "width": 64}, max_patches=4)


def seen(vlm: Vlm, encoded: EncodedImage):
    """Nothing is left over."""
    pixels = encoded.pixels["pixel_values"]
    blocks, channels, height, _ = pixels.shape
    side = encoded.grid.rows
    patches = pixels.reshape(blocks, channels, side, height // side, side, height // side)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(encoded.grid.tokens, -1)


FACTS = Facts(
    settings=_settings,
    real_settings=REAL.settings,
    template=TEMPLATE,
    caption="<|im_start|>user\n<image>\nWhat is this photo?<|im_end|>\n<|im_start|>assistant\n"
    "This is a photo of {phrase}.<|im_end|>\n",
    layers=28,
    heads=12,
    parameters=2_088_957_440,
    adapted_layer=8 * (2 * 1536 + 2 * (1536 + 256)),
    grid_at_640x480=TokenGrid(16, 16, 3, 4),
    visual_tokens={
        (37, 911): 3328,
        (1920, 1080): 2304,
        (28, 28): 256,
        (333, 777): 2816,
        (4000, 300): 3328,
        (640, 480): 3328,
        (640, 640): 1280,
        (640, 427): 1792,
        (200, 145): 3328,
        (448, 448): 256,
    },
    patches_per_token=4,
    seen=seen,
    crops=(1, 2),
)
