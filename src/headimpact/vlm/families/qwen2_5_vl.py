"""Qwen2.5-VL: Qwen2-VL with a vision tower that attends in windows; it puts its patches back in order itself."""

from transformers import Qwen2_5_VLForConditionalGeneration

from headimpact.vlm.families.qwen2_vl import Qwen2Vl


class Qwen25Vl(Qwen2Vl):
    """``Qwen2_5_VLForConditionalGeneration``."""

    model_class = Qwen2_5_VLForConditionalGeneration
