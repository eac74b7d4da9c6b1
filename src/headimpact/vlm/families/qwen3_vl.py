"""Qwen3-VL: Qwen2-VL with patches of 16 pixels, whose decoder gets features of several depths of the vision tower."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.families.qwen2_vl import Qwen2Vl
from headimpact.vlm.packing import Batch


class Qwen3Vl(Qwen2Vl):
    """``Qwen3VLForConditionalGeneration``."""

    model_class = Qwen3VLForConditionalGeneration
    own_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
        "{{ '<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``; every depth has a layer of the decoder to be added after."""
        super().check_geometry()
        vision = self.model.config.vision_config
        depths = len(vision.deepstack_visual_indexes)
        if vision.out_hidden_size != self.text_config.hidden_size or depths > self.layers:
            raise InputError(
                f"{self.source}: its vision tower gives features of {depths} depths and width "
                f"{vision.out_hidden_size}, its decoder has {self.layers} layers of width "
                f"{self.text_config.hidden_size}. The settings belong to another checkpoint."
            )

    def image_features(self, images: Sequence[EncodedImage]) -> list[Tensor]:
        """See ``Vlm.image_features``; the features of each depth (deepstack) are further columns."""
        pixels = torch.cat([image.pixels["pixel_values"] for image in images]).to(self.device, self.model.dtype)
        grid = torch.cat([image.pixels["image_grid_thw"] for image in images]).to(self.device)
        output = self.model.get_image_features(pixels, grid)
        depths = [output.pooler_output, *output.deepstack_features]
        return [torch.cat(of_image, dim=1) for of_image in zip(*depths, strict=True)]

    def added_inputs(self, batch: Batch, added: Sequence[Tensor], first: int) -> dict[str, Any]:
        """See ``Vlm.added_inputs``: the decoder takes the features of all visual tokens in one list a layer."""
        visual = torch.zeros(batch.ids.shape, dtype=torch.bool)
        for row, index in enumerate(batch.visual):
            visual[row, index] = True
        visual = visual.to(self.device)
        nothing = added[0].new_zeros(1, 1)
        return {
            "visual_pos_masks": visual,
            "deepstack_visual_embeds": [nothing] * first + [of_layer[visual] for of_layer in added],
        }
