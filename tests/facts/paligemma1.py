"""PaliGemma 1."""

import dataclasses

from transformers import GemmaConfig, PaliGemmaConfig

from facts import paligemma
from headimpact.lifecycle.rehearsal.checkpoints import published
from headimpact.tiny import bases
from headimpact.vlm.tokengrid import TokenGrid


def _settings():
    """PaliGemma 2's over another decoder, with one key-value head."""
    base, tokenizer, image_processor = bases.TINY["tiny-paligemma2"]()
    text = base.text_config
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")
    config = PaliGemmaConfig(
        vision_config=base.vision_config.to_dict(),
        text_config=GemmaConfig(
            **{name: getattr(text, name) for name in names},
            num_attention_heads=8,
            num_key_value_heads=1,
            head_dim=16,
            initializer_range=bases.INITIALIZER_RANGE,
        ).to_dict(),
        **{name: getattr(base, name) for name in ("image_token_index", "projection_dim", "hidden_size")},
        vocab_size=text.vocab_size,
    )
    return config, tokenizer, image_processor


FACTS = dataclasses.replace(
    paligemma.FACTS,
    settings=_settings,
    real_settings=published()["google/paligemma-3b-mix-224"].settings,
    layers=18,
    heads=8,
    parameters=2_923_466_480,
    adapted_layer=8 * (2048 + 8 * 256 + 2 * (2048 + 256)),
    grid_at_640x480=TokenGrid(16, 16),
    visual_tokens={(640, 480): 256, (37, 911): 256},
)
