"""Qwen2.5-VL."""

import dataclasses

from transformers import Qwen2_5_VLConfig

from facts import qwen2_vl
from headimpact.lifecycle.rehearsal.checkpoints import published
from headimpact.tiny import bases


def _settings():
    """Windows of 2 x 2 tokens in two of its vision layers, whole images in the others."""
    config, tokenizer, image_processor = bases.TINY["tiny-qwen2-vl"]()
    config = Qwen2_5_VLConfig(
        text_config=config.text_config.to_dict() | {"model_type": "qwen2_5_vl_text"},
        vision_config=qwen2_vl.vision(config)
        | {
            "window_size": 4 * config.vision_config.patch_size,
            "fullatt_block_indexes": [1, 3],
        },
        **qwen2_vl.tokens(config),
        tie_word_embeddings=True,
    )
    return config, tokenizer, image_processor


FACTS = dataclasses.replace(
    qwen2_vl.FACTS,
    settings=_settings,
    real_settings=published()["Qwen/Qwen2.5-VL-3B-Instruct"].settings,
    layers=36,
    heads=16,
    parameters=3_754_622_976,
    adapted_layer=8 * (2 * 2048 + 2 * (2048 + 256)),
)
