"""LLaVA 1.5: the middle square of the image alone, one patch a token; nobody sees what lies beside it."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration
from transformers.image_transforms import get_resize_output_image_size

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.geometry import Geometry, plane
from headimpact.vlm.packing import PromptAttention
from headimpact.vlm.prompts import PhotoPromptVlm
from headimpact.vlm.tokengrid import TokenGrid


class Llava(PhotoPromptVlm):
    """``LlavaForConditionalGeneration`` with a CLIP vision tower."""

    model_class = LlavaForConditionalGeneration
    image_processor_class = CLIPImageProcessorPil
    decoder_path = "model.language_model"
    prompt_attention = PromptAttention.CAUSAL
    image_placeholder = "<image>"
    image_token = "<image>"
    begins = True
    # The published template ends no answer, so this one does not.
    own_template = (
        "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
        "{{ '<image>\n' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """See ``Vlm.encode_image``: the middle square."""
        encoded = self.image_processor(image, return_tensors="pt")
        return EncodedImage(dict(encoded), self.grid(*image.size))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of an image before it is cropped."""
        # The function asks for an image and looks at its size alone.
        shape, side = np.broadcast_to(np.uint8(0), (height, width, 3)), self.image_processor.crop_size.height
        return get_resize_output_image_size(shape, side, default_to_square=False, input_data_format="channels_last")

    def _start(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of the resized image before the crop."""
        rows, cols = self._resized(width, height)
        side = self.image_processor.crop_size.height
        return (rows - side) // 2, (cols - side) // 2

    def grid(self, width: int, height: int) -> TokenGrid:
        """See ``Vlm.grid``: of as many tokens for every size."""
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        (rows, cols), (top, left) = self._resized(width, height), self._start(width, height)
        bottom, right = top + vision.image_size, left + vision.image_size
        return TokenGrid(side, side, box=(top / rows, left / cols, bottom / rows, right / cols))

    @property
    def patches_per_token(self) -> int:
        """See ``Vlm.patches_per_token``."""
        return 1

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``."""
        config, vision, processor = self.model.config, self.model.config.vision_config, self.image_processor
        if vision.model_type != "clip_vision_model" or config.vision_feature_select_strategy != "default":
            raise InputError(
                f"{self.source} has a {vision.model_type} vision tower with the feature selection "
                f"{config.vision_feature_select_strategy}; supported is clip_vision_model with default, which leaves "
                "out the class token: it has no place in the image."
            )
        crop = processor.crop_size
        if (crop.height, crop.width) != (vision.image_size, vision.image_size):
            raise InputError(
                f"{self.source}: its image processor crops images to {crop.width}x{crop.height} pixels, its vision "
                f"tower takes {vision.image_size}x{vision.image_size}. The settings belong to another checkpoint."
            )
        if not processor.do_resize or not processor.do_center_crop or processor.size.shortest_edge != crop.height:
            raise InputError(
                f"{self.source}: its image processor must resize images to a shortest_edge of {crop.height} and crop "
                "their centre."
            )
        if getattr(self.text_config, "sliding_window", None) is not None:
            raise InputError(
                f"{self.source}: its decoder attends within a window (sliding_window), which is not supported."
            )

    def geometry(self, width: int, height: int) -> Geometry:
        """See ``Vlm.geometry``: the shortest edge is resized, and the longer one cut at both ends."""
        patch, grid = self.model.config.vision_config.patch_size, self.grid(width, height)
        sizes, start = [(height, width), self._resized(width, height)], self._start(width, height)
        middle = plane(sizes, self.resample, patch, (grid.rows, grid.cols), start=start)
        return Geometry(width, height, (middle,))

    def expand_image(self, grid: TokenGrid) -> str:
        """See ``Vlm.expand_image``: the visual tokens and nothing else."""
        return self.image_token * grid.tokens

    def image_features(self, images: Sequence[EncodedImage]) -> list[Tensor]:
        """See ``Vlm.image_features``."""
        pixels = torch.cat([image.pixels["pixel_values"] for image in images]).to(self.device, self.model.dtype)
        return list(self.model.get_image_features(pixels).pooler_output)
