"""GLM-4.1V."""

import dataclasses
from typing import Any

from transformers import Glm4vConfig, Glm4vImageProcessorPil

from facts import qwen2_vl
from headimpact.lifecycle.rehearsal.checkpoints import make_tokenizer, published
from headimpact.tiny import bases
from headimpact.vlm.tokengrid import TokenGrid

REAL = published()["zai-org/GLM-4.1V-9B-Thinking"]

# The real checkpoint's, as far as text and images go. It repeats an answer's content as it is, and writes nothing
# behind it.
TEMPLATE = (
    "[gMASK]<sop>{%- for msg in messages %}{%- if msg.role == 'user' %}<|user|>{{ '\n' }}"
    "{%- if msg.content is string %}{{ msg.content }}{%- else %}{%- for item in msg.content %}"
    "{%- if item.type == 'image' or 'image' in item %}<|begin_of_image|><|image|><|end_of_image|>"
    "{%- elif item.type == 'text' %}{{ item.text }}{%- endif %}{%- endfor %}{%- endif %}"
    "{%- elif msg.role == 'assistant' %}<|assistant|>\n{{ msg.content }}{%- endif %}{%- endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def _settings():
    """Half of a head's width is rotated, by three positions."""
    tokenizer = make_tokenizer(REAL.tiny, REAL.tokens)
    base, _, _ = bases.TINY[REAL.tiny]()
    ids, text, vision = tokenizer.get_vocab(), base.text_config, base.vision_config
    config = Glm4vConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "max_position_embeddings": text.max_position_embeddings,
            "initializer_range": bases.INITIALIZER_RANGE,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [1, 1, 2],
            },
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|endoftext|>"],
        },
        vision_config=qwen2_vl.vision(base) | {"image_size": 96},
        image_token_id=ids["<|image|>"],
        tie_word_embeddings=False,
    )
    # The bounds are of two frames' pixels.
    size = {"shortest_edge": 2 * 64 * 64, "longest_edge": 2 * 192 * 192}
    settings: dict[str, Any] = {"patch_size": vision.patch_size, "size": size}
    return config, tokenizer, Glm4vImageProcessorPil(**settings)


FACTS = dataclasses.replace(
    qwen2_vl.FACTS,
    settings=_settings,
    real_settings=REAL.settings,
    template=TEMPLATE,
    caption="[gMASK]<sop><|user|>\n<|begin_of_image|><image><|end_of_image|>What is this photo?<|assistant|>\n"
    "This is a photo of {phrase}.",
    layers=40,
    heads=32,
    parameters=10_292_777_472,
    adapted_layer=8 * (4096 + 4096 + 2 * (4096 + 256)),
    grid_at_640x480=TokenGrid(17, 23),
    visual_tokens={
        (37, 911): 33,
        (1920, 1080): 2691,
        (28, 28): 9,
        (333, 777): 336,
        (4000, 300): 1573,
        (640, 480): 391,
        (640, 640): 529,
        (640, 427): 345,
        (200, 145): 35,
    },
    closing="",
)
