"""Qwen3.5."""

import dataclasses

from transformers import Qwen3_5Config

from facts import qwen3_vl
from headimpact.lifecycle.rehearsal.checkpoints import published
from headimpact.tiny import bases

# The real checkpoint's, as far as text and images go; that of 2B has an empty thought unless it is asked for one.
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- if message['content'] is string %}{{- message['content'] | trim }}{%- else %}"
    "{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif 'text' in part %}{{ part['text'] | trim }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is true %}{{- '<think>\n' }}"
    "{%- else %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)


def _settings():
    """Every other layer is an attention layer, the last one too; half of a head's width is rotated."""
    base, tokenizer, image_processor = bases.TINY["tiny-qwen2-vl"]()
    text, vision = base.text_config, base.vision_config
    config = Qwen3_5Config(
        text_config={
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "full_attention_interval": 2,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "head_dim": 24,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "max_position_embeddings": text.max_position_embeddings,
            "initializer_range": bases.INITIALIZER_RANGE,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [2, 2, 2],
                "mrope_interleaved": True,
            },
            "pad_token_id": text.pad_token_id,
            "bos_token_id": text.bos_token_id,
            "eos_token_id": text.eos_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": vision.depth,
            "hidden_size": vision.embed_dim,
            "intermediate_size": 2 * vision.embed_dim,
            "out_hidden_size": text.hidden_size,
            "num_heads": vision.num_heads,
            "patch_size": vision.patch_size,
            "num_position_embeddings": 64,
            "initializer_range": bases.INITIALIZER_RANGE,
        },
        **{name: getattr(base, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id")},
        vision_end_token_id=tokenizer.get_vocab()["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return config, tokenizer, image_processor


FACTS = dataclasses.replace(
    qwen3_vl.FACTS,
    settings=_settings,
    real_settings=published()["Qwen/Qwen3.5-2B"].settings,
    template=TEMPLATE,
    caption="<|im_start|>user\n<|vision_start|><image><|vision_end|>What is this photo?<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\nThis is a photo of {phrase}.<|im_end|>\n",
    layers=24,
    heads=8,
    parameters=2_213_241_664,
    adapted_layer=8 * (2048 + 2 * 8 * 256) + 2 * 8 * (2048 + 2 * 256),
)
