"""Mistral 3: images near their own size, 2x2 patches merged into a token, a text token after each row of tokens."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import Mistral3ForConditionalGeneration, PixtralImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.geometry import Geometry, plane
from headimpact.vlm.packing import PromptAttention
from headimpact.vlm.prompts import PhotoPromptVlm
from headimpact.vlm.tokengrid import TokenGrid

DECODERS = ("mistral", "ministral3")


class Mistral3(PhotoPromptVlm):
    """``Mistral3ForConditionalGeneration`` over a Mistral or a Ministral 3 decoder.

    Ministral 3 scales queries by their position before the attention function, which so gets the true ones.
    """

    model_class = Mistral3ForConditionalGeneration
    image_processor_class = PixtralImageProcessorPil
    decoder_path = "model.language_model"
    prompt_attention = PromptAttention.CAUSAL
    image_placeholder = "[IMG]"
    image_token = "[IMG]"
    own_template = (
        "<s>{% for message in messages %}{{ '[INST]' if message['role'] == 'user' }}"
        "{% for part in message['content'] %}{{ '[IMG]' if part['type'] == 'image' else part['text'] }}{% endfor %}"
        "{{ '[/INST]' if message['role'] == 'user' else '</s>' }}{% endfor %}"
    )

    @property
    def _side(self) -> int:
        """Pixels along each side of a visual token."""
        return self.model.config.vision_config.patch_size * self.model.config.spatial_merge_size

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """See ``Vlm.encode_image``; as Mistral's processor asks for it, in multiples of merged patches."""
        encoded = self.image_processor(image, return_tensors="pt", patch_size=self._side)
        height, width = encoded["image_sizes"][0].tolist()
        return EncodedImage(dict(encoded), TokenGrid(height // self._side, width // self._side))

    def grid(self, width: int, height: int) -> TokenGrid:
        """See ``Vlm.grid``."""
        # The function asks for an image and looks at its size alone.
        shape = np.broadcast_to(np.uint8(0), (height, width, 3))
        longest, side = self.image_processor.size.longest_edge, self._side
        rows, cols = get_resize_output_image_size(shape, longest, side, input_data_format="channels_last")
        return TokenGrid(rows // side, cols // side)

    @property
    def patches_per_token(self) -> int:
        """See ``Vlm.patches_per_token``."""
        return self.model.config.spatial_merge_size**2

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``."""
        vision, processor = self.model.config.vision_config, self.image_processor
        if vision.model_type != "pixtral" or self.text_config.model_type not in DECODERS:
            raise InputError(
                f"{self.source} has a {vision.model_type} vision tower and a {self.text_config.model_type} decoder; "
                f"supported are pixtral with {' or '.join(DECODERS)}."
            )
        if getattr(self.text_config, "sliding_window", None) is not None:
            raise InputError(
                f"{self.source}: its decoder attends within a window (sliding_window), which is not supported."
            )
        if (processor.patch_size["height"], processor.patch_size["width"]) != (vision.patch_size, vision.patch_size):
            raise InputError(
                f"{self.source}: patch_size is {processor.patch_size} in its image processor's settings and "
                f"{vision.patch_size} in its model. The settings belong to another checkpoint."
            )
        if not processor.do_resize or processor.do_center_crop or not processor.size.longest_edge:
            raise InputError(f"{self.source}: its image processor must resize images by their longest_edge.")
        if not self._side <= processor.size.longest_edge <= vision.image_size:
            raise InputError(
                f"{self.source}: its image processor makes images of up to {processor.size.longest_edge} pixels, its "
                f"vision tower takes {self._side} to {vision.image_size}."
            )

    def geometry(self, width: int, height: int) -> Geometry:
        """See ``Vlm.geometry``: a merge block of patches a token, and nothing left over."""
        side, grid = self._side, self.grid(width, height)
        sizes = [(height, width), (grid.rows * side, grid.cols * side)]
        return Geometry(width, height, (plane(sizes, self.resample, side, (grid.rows, grid.cols)),))

    def expand_image(self, grid: TokenGrid) -> str:
        """See ``Vlm.expand_image``: the ends of rows and of the image are text."""
        return "[IMG_BREAK]".join([self.image_token * grid.cols] * grid.rows) + "[IMG_END]"

    def image_features(self, images: Sequence[EncodedImage]) -> list[Tensor]:
        """See ``Vlm.image_features``; the vision tower would pad images of several sizes to one."""
        return [self._features(**image.pixels) for image in images]

    def _features(self, pixel_values: Tensor, image_sizes: Tensor) -> Tensor:
        pixels = pixel_values.to(self.device, self.model.dtype)
        (features,) = self.model.get_image_features(pixels, image_sizes).pooler_output
        return features
