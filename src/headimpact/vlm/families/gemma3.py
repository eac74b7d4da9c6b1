"""Gemma 3: squashed images, 4x4 patches pooled into a token; the image attends to itself in both directions."""

import torch
from torch import Tensor
from transformers import Gemma3ForConditionalGeneration, Gemma3ImageProcessorPil

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.packing import PromptAttention, Tokens
from headimpact.vlm.prompts import PhotoPromptVlm
from headimpact.vlm.squashed import SquashedImageVlm
from headimpact.vlm.tokengrid import TokenGrid


class Gemma3(SquashedImageVlm, PhotoPromptVlm):
    """``Gemma3ForConditionalGeneration``."""

    model_class = Gemma3ForConditionalGeneration
    image_processor_class = Gemma3ImageProcessorPil
    decoder_path = "model.language_model"
    prompt_attention = PromptAttention.IMAGE_BLOCK
    image_placeholder = "<start_of_image>"
    image_token = "<image_soft_token>"
    own_template = (
        "{{ bos_token }}{% for message in messages %}"
        "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
        "{% for part in message['content'] %}"
        "{{ '<start_of_image>' if part['type'] == 'image' else part['text'] | trim }}{% endfor %}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )

    @property
    def _side(self) -> int:
        """Visual tokens along each side of the image."""
        return int(self.model.config.mm_tokens_per_image**0.5)

    @property
    def merged(self) -> int:
        """See ``SquashedImageVlm.merged``."""
        vision = self.model.config.vision_config
        return vision.image_size // vision.patch_size // self._side

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``; what else would not be as in this class is refused, too."""
        vision, tokens = self.model.config.vision_config, self.model.config.mm_tokens_per_image
        if self._side**2 != tokens or vision.image_size // vision.patch_size % self._side:
            raise InputError(
                f"{self.source}: {vision.image_size // vision.patch_size} patches along a side (image_size "
                f"{vision.image_size}, patch_size {vision.patch_size}) cannot be pooled to {tokens} tokens in a square."
            )
        super().check_geometry()
        if self.image_processor.do_pan_and_scan:
            raise InputError(
                f"{self.source}: pan and scan (do_pan_and_scan) is not supported: it is off in the checkpoints, and "
                f"its crops are images of their own among the text. Turn it off."
            )
        if self.text_config.use_bidirectional_attention:
            raise InputError(f"{self.source}: its text attends in both directions (use_bidirectional_attention).")
        if self.text_config.final_logit_softcapping is not None:
            raise InputError(f"{self.source}: transformers ignores final_logit_softcapping in Gemma 3; set it to null.")

    def expand_image(self, grid: TokenGrid) -> str:
        """See ``Vlm.expand_image``: the visual tokens between their markers and empty lines."""
        return f"\n\n<start_of_image>{self.image_token * grid.tokens}<end_of_image>\n\n"

    def decoder_mask(self, mask: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """A mask per layer type. The window is one of positions: where branches are packed behind each other, a token
        stands further from the trunk than it is."""
        where = positions[0, :, None]
        within = where[:, :, None, :] > where[:, :, :, None] - self.text_config.sliding_window
        return {"full_attention": mask, "sliding_attention": mask & within}

    def native_inputs(self, tokens: Tokens, encoded: EncodedImage) -> dict[str, Tensor]:
        """See ``Vlm.native_inputs``: token type 1 marks the image, which attends in both directions."""
        return {
            "input_ids": tokens.ids[None],
            "attention_mask": torch.ones_like(tokens.ids)[None],
            "token_type_ids": (tokens.ids == self.image_token_id).long()[None],
            **encoded.pixels,
        }
