"""SmolVLM2."""

import dataclasses

from transformers import SmolVLMConfig, SmolVLMImageProcessorPil

from facts import idefics3
from headimpact.lifecycle.rehearsal.checkpoints import published
from headimpact.tiny import bases


def _settings():
    config, tokenizer, image_processor = bases.TINY["tiny-smolvlm"]()
    values = config.to_dict()
    config = SmolVLMConfig(
        **{name: values[name] for name in ("image_token_id", "scale_factor", "tie_word_embeddings")},
        text_config=values["text_config"],
        vision_config=values["vision_config"] | {"model_type": "smolvlm_vision"},
    )
    return config, tokenizer, SmolVLMImageProcessorPil.from_dict(image_processor.to_dict())


FACTS = dataclasses.replace(
    idefics3.FACTS,
    settings=_settings,
    real_settings=published()["HuggingFaceTB/SmolVLM2-2.2B-Instruct"].settings,
    parameters=2_246_784_880,
)
