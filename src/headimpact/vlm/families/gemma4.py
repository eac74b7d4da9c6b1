"""Gemma 4: images near their shape in whole tokens; heads of two widths, and keys and values that layers share."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Gemma4ForConditionalGeneration, Gemma4ImageProcessorPil
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.geometry import Geometry, plane
from headimpact.vlm.layers import PROJECTIONS
from headimpact.vlm.packing import Batch, PromptAttention, Tokens
from headimpact.vlm.prompts import PhotoPromptVlm
from headimpact.vlm.tokengrid import TokenGrid


class Gemma4(PhotoPromptVlm):
    """``Gemma4ForConditionalGeneration``."""

    model_class = Gemma4ForConditionalGeneration
    image_processor_class = Gemma4ImageProcessorPil
    decoder_path = "model.language_model"
    image_placeholder = "<|image|>"
    image_token = "<|image|>"
    own_template = (
        "{{ bos_token }}{% for message in messages %}"
        "<|turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
        "{% for part in message['content'] %}"
        "{{ '<|image|>' if part['type'] == 'image' else part['text'] | trim }}{% endfor %}<turn|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
    )

    @property
    def prompt_attention(self) -> PromptAttention:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See ``Vlm.prompt_attention``: the image's to itself where the checkpoint says so, in sliding layers alone."""
        looks_back_and_forth = self.text_config.use_bidirectional_attention == "vision"
        return PromptAttention.IMAGE_BLOCK if looks_back_and_forth else PromptAttention.CAUSAL

    @property
    def _token_pixels(self) -> int:
        """Pixels along each side of what a visual token sees."""
        return self.image_processor.patch_size * self.image_processor.pooling_kernel_size

    def projections_of(self, layer: int) -> tuple[str, ...]:
        """See ``DecoderLayers.projections_of``: the last layers take keys and values from an earlier one, and where
        these are the same there is one projection for both."""
        text = self.text_config
        lacking: tuple[str, ...] = ()
        if text.kv_sharing_modes[layer] == "reuse":
            lacking = ("k_proj", "v_proj")
        elif text.attention_k_eq_v and text.layer_types[layer] == "full_attention":
            lacking = ("v_proj",)
        return tuple(name for name in PROJECTIONS if name not in lacking)

    def begins_at(self, first: int) -> int:
        """See ``DecoderLayers.begins_at``: what later layers take from a layer is computed in every forward."""
        modes = self.text_config.kv_sharing_modes
        return min(first, modes.index("store")) if "store" in modes else first

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """See ``Vlm.encode_image``: patches row by row, filled up to as many as there can be."""
        encoded = self.image_processor(image, return_tensors="pt")
        pixels = {name: encoded[name] for name in ("pixel_values", "image_position_ids")}
        cols, rows = (pixels["image_position_ids"][0].amax(0) + 1).tolist()
        merged = self.image_processor.pooling_kernel_size
        return EncodedImage(pixels, TokenGrid(rows // merged, cols // merged))

    def grid(self, width: int, height: int) -> TokenGrid:
        """See ``Vlm.grid``."""
        processor, side = self.image_processor, self._token_pixels
        patches = processor.max_soft_tokens * self.patches_per_token
        sizes = get_aspect_ratio_preserving_size(
            height, width, processor.patch_size, patches, processor.pooling_kernel_size
        )
        return TokenGrid(sizes[0] // side, sizes[1] // side)

    @property
    def patches_per_token(self) -> int:
        """See ``Vlm.patches_per_token``."""
        return self.image_processor.pooling_kernel_size**2

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``; what else would not be as in this class is refused, too."""
        vision, processor = self.model.config.vision_config, self.image_processor
        if vision is None:
            raise InputError(f"{self.source} has no vision tower.")
        for name in ("patch_size", "pooling_kernel_size"):
            if getattr(processor, name) != getattr(vision, name):
                raise InputError(
                    f"{self.source}: {name} is {getattr(processor, name)} in its image processor's settings and "
                    f"{getattr(vision, name)} in its model. The settings belong to another checkpoint."
                )
        if not processor.do_resize:
            raise InputError(f"{self.source}: images must be resized to whole tokens (do_resize).")
        if self.text_config.use_bidirectional_attention == "all":
            raise InputError(f"{self.source}: its text attends in both directions (use_bidirectional_attention).")

    def geometry(self, width: int, height: int) -> Geometry:
        """See ``Vlm.geometry``: resized once to whole tokens."""
        side, grid = self._token_pixels, self.grid(width, height)
        sizes = [(height, width), (grid.rows * side, grid.cols * side)]
        return Geometry(width, height, (plane(sizes, self.resample, side, (grid.rows, grid.cols)),))

    def expand_image(self, grid: TokenGrid) -> str:
        """See ``Vlm.expand_image``: the visual tokens between their markers."""
        return f"<|image>{self.image_token * grid.tokens}<image|>"

    def image_features(self, images: Sequence[EncodedImage]) -> list[Tensor]:
        """See ``Vlm.image_features``."""
        pixels, positions = (
            torch.cat([image.pixels[name] for image in images]).to(self.device)
            for name in ("pixel_values", "image_position_ids")
        )
        return list(self.model.get_image_features(pixels.to(self.model.dtype), positions).pooler_output)

    def decoder_mask(self, mask: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """A mask per layer type, as Gemma 3's; full layers are causal in the image, too."""
        where = positions[0, :, None]
        within = where[:, :, None, :] > where[:, :, :, None] - self.text_config.sliding_window
        return {"full_attention": mask.tril(), "sliding_attention": mask & within}

    def embeddings(self, batch: Batch, features: Sequence[Tensor]) -> Tensor:
        """See ``Vlm.embeddings``; once more as further columns where every layer gets an input made of them."""
        embeddings = super().embeddings(batch, features)
        return torch.cat([embeddings, embeddings], dim=-1) if self._per_layer else embeddings

    @property
    def _per_layer(self) -> bool:
        return bool(self.text_config.hidden_size_per_layer_input)

    def added_from(self, layer: int, added: Sequence[Tensor]) -> Sequence[Tensor]:
        """See ``Vlm.added_from``: every layer's input is made of the same."""
        return added

    def added_inputs(self, batch: Batch, added: Sequence[Tensor], first: int) -> dict[str, Any]:
        """See ``Vlm.added_inputs``: each layer's own input is made of the embeddings and of the token's id, which for
        the image is that of padding."""
        ids = batch.ids.to(self.device)
        ids = torch.where(ids == self.image_token_id, self.text_config.pad_token_id, ids)
        return {
            "inputs_embeds": added[0],
            "per_layer_inputs": self.model.model.language_model.get_per_layer_inputs(ids),
        }

    def native_inputs(self, tokens: Tokens, encoded: EncodedImage) -> dict[str, Tensor]:
        """See ``Vlm.native_inputs``."""
        return {
            "input_ids": tokens.ids[None],
            "attention_mask": torch.ones_like(tokens.ids)[None],
            "mm_token_type_ids": (tokens.ids == self.image_token_id).long()[None],
            **encoded.pixels,
        }
