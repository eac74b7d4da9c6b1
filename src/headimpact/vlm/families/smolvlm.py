"""SmolVLM2: SmolVLM's architecture under a name of its own."""

from transformers import SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil

from headimpact.vlm.families.idefics3 import Idefics3


class SmolVlm2(Idefics3):
    """``SmolVLMForConditionalGeneration``."""

    model_class = SmolVLMForConditionalGeneration
    image_processor_class = SmolVLMImageProcessorPil
