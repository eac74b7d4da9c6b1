"""SmolVLM (Idefics3): the image in crops and once as a whole, 3x3 patches shuffled into a token."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Idefics3ForConditionalGeneration, Idefics3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.geometry import Geometry, plane
from headimpact.vlm.packing import PromptAttention
from headimpact.vlm.prompts import PhotoPromptVlm
from headimpact.vlm.tokengrid import TokenGrid


class Idefics3(PhotoPromptVlm):
    """``Idefics3ForConditionalGeneration``."""

    model_class = Idefics3ForConditionalGeneration
    image_processor_class = Idefics3ImageProcessorPil
    decoder_path = "model.text_model"
    prompt_attention = PromptAttention.CAUSAL
    image_placeholder = "<image>"
    image_token = "<image>"
    own_template = (
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
        "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}{% for part in message['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    )

    @property
    def _side(self) -> int:
        """Visual tokens along each side of a block."""
        vision = self.model.config.vision_config
        return vision.image_size // vision.patch_size // self.model.config.scale_factor

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """See ``Vlm.encode_image``; the crops come row by row, the whole image last."""
        encoded = self.image_processor(image, return_tensors="pt", return_row_col_info=True)
        crops = int(encoded["rows"][0][0]), int(encoded["cols"][0][0])
        return EncodedImage({"pixel_values": encoded["pixel_values"]}, TokenGrid(self._side, self._side, *crops))

    def grid(self, width: int, height: int) -> TokenGrid:
        """See ``Vlm.grid``."""
        _, *crops = self.image_processor.get_number_of_image_patches(height, width)
        return TokenGrid(self._side, self._side, *crops)

    @property
    def patches_per_token(self) -> int:
        """See ``Vlm.patches_per_token``."""
        return self.model.config.scale_factor**2

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``."""
        vision, scale = self.model.config.vision_config, self.model.config.scale_factor
        crop = self.image_processor.max_image_size["longest_edge"]
        if crop != vision.image_size:
            raise InputError(
                f"{self.source}: its image processor cuts crops of {crop} pixels, its vision tower takes "
                f"{vision.image_size}. The settings belong to another checkpoint."
            )
        if vision.image_size // vision.patch_size % scale:
            raise InputError(
                f"{self.source}: {vision.image_size // vision.patch_size} patches along a crop's side (image_size "
                f"{vision.image_size}, patch_size {vision.patch_size}) cannot be merged {scale} by {scale}."
            )
        if not self.image_processor.do_resize or not self.image_processor.size.longest_edge:
            raise InputError(f"{self.source}: its image processor must resize images by their longest_edge.")

    def geometry(self, width: int, height: int) -> Geometry:
        """See ``Vlm.geometry``: resized to the longest edge, then to whole crops, and these once more to one block.

        The last pixels of a block that fill no whole patch are seen by no token.
        """
        processor, grid = self.image_processor, self.grid(width, height)
        seen = self.model.config.vision_config.patch_size * self.model.config.scale_factor
        tokens, block = (self._side, self._side), processor.max_image_size["longest_edge"]
        # The function asks for an image and looks at its size alone.
        shape = np.broadcast_to(np.uint8(0), (height, width))
        sizes = [(height, width), get_resize_output_image_size(shape, processor.size.longest_edge)]
        planes = []
        if grid.blocks > 1:
            crops = (grid.crop_rows, grid.crop_cols)
            sizes.append((grid.crop_rows * block, grid.crop_cols * block))
            planes.append(plane(sizes, self.resample, seen, tokens, crops))
        planes.append(plane([*sizes, (block, block)], self.resample, seen, tokens))
        return Geometry(width, height, tuple(planes))

    def expand_image(self, grid: TokenGrid) -> str:
        """See ``Vlm.expand_image``: every crop behind its row and column marker, then the whole image."""
        block = self.image_token * (grid.rows * grid.cols)
        whole = f"<fake_token_around_image><global-img>{block}<fake_token_around_image>"
        if grid.blocks == 1:
            return whole
        crops = "".join(
            "".join(f"<fake_token_around_image><row_{r + 1}_col_{c + 1}>{block}" for c in range(grid.crop_cols)) + "\n"
            for r in range(grid.crop_rows)
        )
        return f"{crops}\n{whole}"

    def image_features(self, images: Sequence[EncodedImage]) -> list[Tensor]:
        """See ``Vlm.image_features``; the blocks of all images go through the vision tower as one list."""
        pixels = torch.cat([image.pixels["pixel_values"] for image in images], dim=1).to(self.device, self.model.dtype)
        features = self.model.get_image_features(pixels).pooler_output[0]
        return list(features.split([image.grid.tokens for image in images]))
