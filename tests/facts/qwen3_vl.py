"""Qwen3-VL."""

import dataclasses

from transformers import Qwen3VLConfig

from facts import qwen2_vl
from headimpact.lifecycle.rehearsal.checkpoints import published
from headimpact.tiny import bases
from headimpact.vlm.tokengrid import TokenGrid

# The real checkpoint's, as far as text and images go: without the system turn that Qwen2-VL has.
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' }}{%- if message['content'] is string %}"
    "{{- message['content'] }}{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' and message['role'] == 'user' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif 'text' in part %}{{ part['text'] }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def _settings():
    """Features of two depths more, for the first two layers of the decoder, whose heads are wider than its share."""
    config, tokenizer, image_processor = bases.TINY["tiny-qwen2-vl"]()
    text = config.text_config
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "head_dim": 24,
            "max_position_embeddings": text.max_position_embeddings,
            "initializer_range": bases.INITIALIZER_RANGE,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 4, 4],
                "mrope_interleaved": True,
            },
            "pad_token_id": text.pad_token_id,
            "bos_token_id": text.bos_token_id,
            "eos_token_id": text.eos_token_id,
            "tie_word_embeddings": True,
        },
        vision_config=qwen2_vl.vision(config)
        | {
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 2],
        },
        **qwen2_vl.tokens(config),
        vision_end_token_id=tokenizer.get_vocab()["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return config, tokenizer, image_processor


FACTS = dataclasses.replace(
    qwen2_vl.FACTS,
    settings=_settings,
    real_settings=published()["Qwen/Qwen3-VL-2B-Instruct"].settings,
    template=TEMPLATE,
    caption="<|im_start|>user\n<|vision_start|><image><|vision_end|>What is this photo?<|im_end|>\n"
    "<|im_start|>assistant\nThis is a photo of {phrase}.<|im_end|>\n",
    layers=28,
    heads=16,
    parameters=2_127_532_032,
    adapted_layer=8 * (2048 + 2048) + 2 * 8 * (2048 + 1024),
    grid_at_640x480=TokenGrid(15, 20),
    visual_tokens={(640, 480): 300, (640, 640): 400, (640, 427): 260, (200, 145): 70},
)
