"""PaliGemma 2: squashed images, image and prompt attend in both directions, softcapped attention and logits."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import PaliGemmaForConditionalGeneration, SiglipImageProcessorPil

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.conversations import OPTION_LABELS, Conversation
from headimpact.vlm.geometry import Geometry, plane
from headimpact.vlm.packing import Tokens
from headimpact.vlm.tokengrid import TokenGrid


class PaliGemma2(Vlm):
    """``PaliGemmaForConditionalGeneration`` over a Gemma 2 decoder."""

    model_class = PaliGemmaForConditionalGeneration
    image_processor_class = SiglipImageProcessorPil
    decoder_path = "model.language_model"
    bidirectional_prompt = True
    image_placeholder = "<image>"
    image_token = "<image>"
    own_template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if message['role'] == 'user' %}{{ '<image><bos>' if part['type'] == 'image' else part['text'] + '\n' }}"
        "{% else %}{{ part['text'] + '<eos>' }}{% endif %}{% endfor %}{% endfor %}"
    )

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """See ``Vlm.encode_image``: squashed to the vision tower's square."""
        pixels = self.image_processor(image, return_tensors="pt")["pixel_values"]
        side = pixels.shape[-1] // self.model.config.vision_config.patch_size
        return EncodedImage({"pixel_values": pixels}, TokenGrid(side, side))

    def grid(self, width: int, height: int) -> TokenGrid:
        """See ``Vlm.grid``: the same for every size."""
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return TokenGrid(side, side)

    @property
    def patches_per_token(self) -> int:
        """See ``Vlm.patches_per_token``."""
        return 1

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``; PaliGemma 1 has another decoder."""
        if self.text_config.model_type != "gemma2":
            raise InputError(
                f"{self.source} has a {self.text_config.model_type} decoder; PaliGemma 2 has gemma2, and no other is "
                f"supported."
            )
        vision, size = self.model.config.vision_config, self.image_processor.size
        if (size.height, size.width) != (vision.image_size, vision.image_size):
            raise InputError(
                f"{self.source}: its image processor makes images of {size.width}x{size.height} pixels, its vision "
                f"tower takes {vision.image_size}x{vision.image_size}. The settings belong to another checkpoint."
            )
        if not self.image_processor.do_resize or vision.image_size % vision.patch_size:
            raise InputError(
                f"{self.source}: images must be resized to whole patches (do_resize "
                f"{self.image_processor.do_resize}, image_size {vision.image_size}, patch_size {vision.patch_size})."
            )

    def geometry(self, width: int, height: int) -> Geometry:
        """See ``Vlm.geometry``: one patch a token."""
        vision, grid = self.model.config.vision_config, self.grid(width, height)
        sizes = [(height, width), (vision.image_size, vision.image_size)]
        squashed = plane(sizes, self.resample, vision.patch_size, (grid.rows, grid.cols))
        return Geometry(width, height, (squashed,))

    def expand_image(self, grid: TokenGrid) -> str:
        """See ``Vlm.expand_image``: the visual tokens and nothing else."""
        return self.image_token * grid.tokens

    def image_features(self, images: Sequence[EncodedImage]) -> list[Tensor]:
        """See ``Vlm.image_features``."""
        pixels = torch.cat([image.pixels["pixel_values"] for image in images]).to(self.device, self.model.dtype)
        return list(self.model.get_image_features(pixels).pooler_output)

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
