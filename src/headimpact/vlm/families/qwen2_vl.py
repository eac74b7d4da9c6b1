"""Qwen2-VL: images near their own size, 2x2 patches merged into a token, three-axis positions."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.geometry import Geometry, plane
from headimpact.vlm.packing import PromptAttention, Tokens
from headimpact.vlm.prompts import PhotoPromptVlm
from headimpact.vlm.tokengrid import TokenGrid


class Qwen2Vl(PhotoPromptVlm):
    """``Qwen2VLForConditionalGeneration``."""

    model_class = Qwen2VLForConditionalGeneration
    image_processor_class = Qwen2VLImageProcessorPil
    decoder_path = "model.language_model"
    prompt_attention = PromptAttention.CAUSAL
    image_placeholder = "<|image_pad|>"
    image_token = "<|image_pad|>"
    own_template = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
        "{{ '<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """See ``Vlm.encode_image``."""
        encoded = self.image_processor(image, return_tensors="pt")
        _, height, width = encoded["image_grid_thw"][0].tolist()
        merge = self.image_processor.merge_size
        return EncodedImage(dict(encoded), TokenGrid(height // merge, width // merge))

    def grid(self, width: int, height: int) -> TokenGrid:
        """See ``Vlm.grid``."""
        processor = self.image_processor
        side = processor.patch_size * processor.merge_size
        rows, cols = smart_resize(height, width, side, processor.size.shortest_edge, processor.size.longest_edge)
        return TokenGrid(rows // side, cols // side)

    @property
    def patches_per_token(self) -> int:
        """See ``Vlm.patches_per_token``."""
        return self.image_processor.merge_size**2

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``."""
        vision, processor = self.model.config.vision_config, self.image_processor
        pairs = {
            "patch_size": vision.patch_size,
            "merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
        }
        for name, expected in pairs.items():
            if (value := getattr(processor, name)) != expected:
                raise InputError(
                    f"{self.source}: {name} is {value} in its image processor's settings and {expected} in its "
                    f"model. The settings belong to another checkpoint."
                )
        if "sliding_attention" in (getattr(self.text_config, "layer_types", None) or ()):
            raise InputError(
                f"{self.source}: layers of its decoder attend within a window (use_sliding_window), which is not "
                "supported."
            )
        smallest, largest = processor.size.shortest_edge, processor.size.longest_edge
        if not processor.do_resize or not smallest or not largest or smallest > largest:
            raise InputError(
                f"{self.source}: its image processor must resize images to between min_pixels and max_pixels "
                f"(do_resize {processor.do_resize}, {smallest} to {largest})."
            )

    def geometry(self, width: int, height: int) -> Geometry:
        """See ``Vlm.geometry``: a merge block of patches a token, and nothing left over."""
        side, grid = self.image_processor.patch_size * self.image_processor.merge_size, self.grid(width, height)
        sizes = [(height, width), (grid.rows * side, grid.cols * side)]
        return Geometry(width, height, (plane(sizes, self.resample, side, (grid.rows, grid.cols)),))

    def expand_image(self, grid: TokenGrid) -> str:
        """See ``Vlm.expand_image``; the template itself writes the markers around the image."""
        return self.image_token * grid.tokens

    def image_features(self, images: Sequence[EncodedImage]) -> list[Tensor]:
        """See ``Vlm.image_features``."""
        pixels = torch.cat([image.pixels["pixel_values"] for image in images]).to(self.device, self.model.dtype)
        grid = torch.cat([image.pixels["image_grid_thw"] for image in images]).to(self.device)
        return list(self.model.get_image_features(pixels, grid).pooler_output)

    def _token_kinds(self, ids: Tensor) -> Tensor:
        return (ids == self.image_token_id).int()

    def position_ids(self, ids: Tensor, grid: TokenGrid) -> Tensor:
        """See ``Vlm.position_ids``: time, row and column, by the model's own ``get_rope_index``."""
        merge = self.model.config.vision_config.spatial_merge_size
        patches = torch.tensor([[1, grid.rows * merge, grid.cols * merge]])
        positions, _ = self.model.model.get_rope_index(ids[None], self._token_kinds(ids)[None], image_grid_thw=patches)
        return positions[:, 0]

    def decoder_positions(self, positions: Tensor) -> Tensor:
        """All three axes."""
        return positions

    def native_inputs(self, tokens: Tokens, encoded: EncodedImage) -> dict[str, Tensor]:
        """See ``Vlm.native_inputs``."""
        return {
            "input_ids": tokens.ids[None],
            "attention_mask": torch.ones_like(tokens.ids)[None],
            "mm_token_type_ids": self._token_kinds(tokens.ids)[None],
            **encoded.pixels,
        }
