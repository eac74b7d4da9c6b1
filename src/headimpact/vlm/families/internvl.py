"""InternVL3: the image in tiles and, where there are several, once as a whole; 2x2 patches shuffled into a token."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import GotOcr2ImageProcessorPil, InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.geometry import Geometry, plane
from headimpact.vlm.packing import PromptAttention
from headimpact.vlm.prompts import PhotoPromptVlm
from headimpact.vlm.tokengrid import TokenGrid


class InternVl3(PhotoPromptVlm):
    """``InternVLForConditionalGeneration``."""

    model_class = InternVLForConditionalGeneration
    image_processor_class = GotOcr2ImageProcessorPil
    decoder_path = "model.language_model"
    prompt_attention = PromptAttention.CAUSAL
    image_placeholder = "<IMG_CONTEXT>"
    image_token = "<IMG_CONTEXT>"
    own_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
        "{{ '<IMG_CONTEXT>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    @property
    def _merged(self) -> int:
        """Patches along each side of a visual token."""
        return round(1 / self.model.config.downsample_ratio)

    @property
    def _side(self) -> int:
        """Visual tokens along each side of a tile."""
        vision = self.model.config.vision_config
        return vision.image_size[0] // vision.patch_size[0] // self._merged

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """See ``Vlm.encode_image``; its settings may say otherwise, but InternVL's processor always asks for tiles."""
        encoded = self.image_processor(image, return_tensors="pt", crop_to_patches=True)
        return EncodedImage({"pixel_values": encoded["pixel_values"]}, self.grid(*image.size))

    def grid(self, width: int, height: int) -> TokenGrid:
        """See ``Vlm.grid``: the tiles row by row, then the whole image, which is all there is of a single tile."""
        processor = self.image_processor
        tile = processor.size.height, processor.size.width
        cols, rows = get_optimal_tiled_canvas((height, width), tile, processor.min_patches, processor.max_patches)
        return TokenGrid(self._side, self._side, *((rows, cols) if rows * cols > 1 else (0, 0)))

    @property
    def patches_per_token(self) -> int:
        """See ``Vlm.patches_per_token``."""
        return self._merged**2

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``."""
        config, vision, processor = self.model.config, self.model.config.vision_config, self.image_processor
        if (processor.size.height, processor.size.width) != tuple(vision.image_size):
            raise InputError(
                f"{self.source}: its image processor makes tiles of {processor.size.width}x{processor.size.height} "
                f"pixels, its vision tower takes {vision.image_size[1]}x{vision.image_size[0]}. The settings belong to "
                "another checkpoint."
            )
        if vision.image_size[0] != vision.image_size[1] or vision.patch_size[0] != vision.patch_size[1]:
            raise InputError(f"{self.source}: tiles and patches must be square.")
        size, patch, ratio = vision.image_size[0], vision.patch_size[0], config.downsample_ratio
        if size % (patch * self._merged) or self._merged * ratio != 1:
            raise InputError(
                f"{self.source}: {size // patch} patches along a tile's side (image_size {size}, patch_size {patch}) "
                f"cannot be merged by a downsample_ratio of {ratio}."
            )
        if config.vision_feature_select_strategy != "default":
            raise InputError(f"{self.source}: the class token of its vision tower has no place in the image.")
        if processor.max_patches < 2 or processor.min_patches > processor.max_patches:
            raise InputError(
                f"{self.source}: its image processor must cut images into {processor.min_patches} to "
                f"{processor.max_patches} tiles (min_patches, max_patches)."
            )

    def geometry(self, width: int, height: int) -> Geometry:
        """See ``Vlm.geometry``: the image squashed to whole tiles, and squashed to one; nothing is left over."""
        grid, tile = self.grid(width, height), self.image_processor.size.height
        seen, tokens = tile // self._side, (self._side, self._side)
        planes = []
        if grid.blocks > 1:
            crops = (grid.crop_rows, grid.crop_cols)
            sizes = [(height, width), (grid.crop_rows * tile, grid.crop_cols * tile)]
            planes.append(plane(sizes, self.resample, seen, tokens, crops))
        planes.append(plane([(height, width), (tile, tile)], self.resample, seen, tokens))
        return Geometry(width, height, tuple(planes))

    def expand_image(self, grid: TokenGrid) -> str:
        """See ``Vlm.expand_image``: nothing stands between the tiles."""
        return f"<img>{self.image_token * grid.tokens}</img>"

    def image_features(self, images: Sequence[EncodedImage]) -> list[Tensor]:
        """See ``Vlm.image_features``; the tiles of all images go through the vision tower as one list."""
        pixels = torch.cat([image.pixels["pixel_values"] for image in images]).to(self.device, self.model.dtype)
        features = self.model.get_image_features(pixels).pooler_output.flatten(0, 1)
        return list(features.split([image.grid.tokens for image in images]))
