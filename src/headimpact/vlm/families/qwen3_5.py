"""Qwen3.5: Qwen3-VL's images without deepstack; most layers of the decoder are gated delta nets, without attention."""

from typing import Any

from torch import Tensor
from transformers import Qwen3_5ForConditionalGeneration

from headimpact.errors import InputError
from headimpact.vlm.families.qwen2_vl import Qwen2Vl
from headimpact.vlm.packing import PromptAttention

_ATTENTION, _RECURRENT = "full_attention", "linear_attention"


class Qwen35(Qwen2Vl):
    """``Qwen3_5ForConditionalGeneration``."""

    model_class = Qwen3_5ForConditionalGeneration
    prompt_attention = PromptAttention.RECURRENT
    no_single_heads = (
        "each head's rows of its q_proj hold a query and the gate of the head's output, so an adapter on them would "
        "move more than where the head looks"
    )
    # The answer follows an empty thought, as in the template of the small checkpoints.
    own_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{{ '<think>\n\n</think>\n\n' if message['role'] == 'assistant' else '' }}{% for part in message['content'] %}"
        "{{ '<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
        "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
    )

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """See ``Vlm.attention_layers``: every fourth layer."""
        return tuple(layer for layer, kind in enumerate(self.text_config.layer_types) if kind == _ATTENTION)

    @property
    def recurrent_numbers(self) -> float:
        """See ``Vlm.recurrent_numbers``: fitted to what transformers' own implementation, without kernels, keeps."""
        text = self.text_config
        keys = text.linear_num_value_heads * text.linear_key_head_dim
        values = text.linear_num_value_heads * text.linear_value_head_dim
        convolved = 2 * text.linear_num_key_heads * text.linear_key_head_dim + values
        return 3.6 * convolved + 14.6 * keys + 10.3 * values + 3 * 64 * text.linear_num_value_heads

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``; the decoder has layers of the two kinds that this class knows."""
        super().check_geometry()
        kinds = set(self.text_config.layer_types)
        if not self.attention_layers or kinds - {_ATTENTION, _RECURRENT}:
            raise InputError(
                f"{self.source}: its decoder must have layers of {_ATTENTION}, and no others but {_RECURRENT}, not of "
                f"{', '.join(sorted(kinds))}."
            )

    def decoder_mask(self, mask: Tensor, positions: Tensor) -> dict[str, Any]:
        """See ``Vlm.decoder_mask``: gated delta nets see what is before a token anyway, and padding is behind all."""
        return {_ATTENTION: mask, _RECURRENT: None}
