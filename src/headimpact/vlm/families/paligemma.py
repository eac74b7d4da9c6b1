"""PaliGemma 2: squashed images, image and prompt attend in both directions, softcapped attention and logits."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PaliGemmaForConditionalGeneration, SiglipImageProcessorPil

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.conversations import OPTION_LABELS, Conversation
from headimpact.vlm.packing import PromptAttention, Tokens
from headimpact.vlm.squashed import SquashedImageVlm
from headimpact.vlm.tokengrid import TokenGrid


class PaliGemma2(SquashedImageVlm):
    """``PaliGemmaForConditionalGeneration`` over a Gemma 2 decoder."""

    model_class = PaliGemmaForConditionalGeneration
    image_processor_class = SiglipImageProcessorPil
    decoder_type = "gemma2"
    decoder_path = "model.language_model"
    prompt_attention = PromptAttention.PREFIX
    image_placeholder = "<image>"
    image_token = "<image>"
    own_template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if message['role'] == 'user' %}{{ '<image><bos>' if part['type'] == 'image' else part['text'] + '\n' }}"
        "{% else %}{{ part['text'] + '<eos>' }}{% endif %}{% endfor %}{% endfor %}"
    )

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``; the decoder has to be the one that this class is for, too."""
        if self.text_config.model_type != self.decoder_type:
            raise InputError(
                f"{self.source} has a {self.text_config.model_type} decoder, and no PaliGemma with such a one is "
                f"supported: PaliGemma 2 has gemma2, PaliGemma 1 gemma."
            )
        super().check_geometry()

    def expand_image(self, grid: TokenGrid) -> str:
        """See ``Vlm.expand_image``: the visual tokens and nothing else."""
        return self.image_token * grid.tokens

    def position_ids(self, ids: Tensor, grid: TokenGrid) -> Tensor:
        """See ``Vlm.position_ids``: positions start at 1."""
        return torch.arange(1, len(ids) + 1)[None]

    def decoder_mask(self, mask: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """Gemma 2 takes a mask per layer type. Within the sliding window both are the same.

        Raises:
            InputError: a conversation is longer than the window.
        """
        window = self.text_config.sliding_window
        if window is not None and int(positions.max()) > window:
            raise InputError(
                f"A conversation of {int(positions.max())} tokens is longer than the decoder's window of {window}."
            )
        return {"full_attention": mask, "sliding_attention": mask}

    def caption(self, phrase: str) -> Conversation:
        """See ``Vlm.caption``."""
        phrase = phrase.strip()
        return Conversation("describe en", phrase, (0, len(phrase)))

    def question(self, options: Sequence[str], label: str) -> Conversation:
        """See ``Vlm.question``."""
        listed = " ".join(f"{name}) {option}" for name, option in zip(OPTION_LABELS, options, strict=False))
        return Conversation(f"answer en\n{listed}", f"{label}.", (0, len(label)))

    def native_inputs(self, tokens: Tokens, encoded: EncodedImage) -> dict[str, Tensor]:
        """See ``Vlm.native_inputs``: token type 0 marks the part that attends in both directions."""
        prompt = tokens.prompt_length if len(tokens.answer) else len(tokens.ids)
        kinds = (torch.arange(len(tokens.ids)) >= prompt).long()
        return {
            "input_ids": tokens.ids[None],
            "attention_mask": torch.ones_like(tokens.ids)[None],
            "token_type_ids": kinds[None],
            **encoded.pixels,
        }
