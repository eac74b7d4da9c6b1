"""LLaVA-NeXT: the whole image squashed to a square, then its crops as one mosaic without what pads them."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaNextForConditionalGeneration, LlavaNextImageProcessorPil
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.models.llava_next.modeling_llava_next import unpad_image

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.families.llava import Llava
from headimpact.vlm.geometry import Geometry, plane
from headimpact.vlm.tokengrid import TokenGrid


class LlavaNext(Llava):
    """``LlavaNextForConditionalGeneration`` with a CLIP vision tower.

    After each row of the mosaic comes a learnt feature, under the image's token id: it is no visual token.
    """

    model_class = LlavaNextForConditionalGeneration
    image_processor_class = LlavaNextImageProcessorPil
    own_template = (
        "{% for message in messages %}{{ '[INST] ' if message['role'] == 'user' else ' ' }}"
        "{% for part in message['content'] %}{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}"
        "{{ ' [/INST]' if message['role'] == 'user' else '</s>' }}{% endfor %}"
    )

    def _canvas(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of all crops together."""
        return select_best_resolution((height, width), self.image_processor.image_grid_pinpoints)

    def grid(self, width: int, height: int) -> TokenGrid:
        """See ``Vlm.grid``: the mosaic has the rows and columns that the model leaves in; of an image that is some 73
        times as long as it is wide these are none, and there is the whole image alone."""
        vision, canvas = self.model.config.vision_config, self._canvas(width, height)
        side = vision.image_size // vision.patch_size
        crops = canvas[0] // vision.image_size, canvas[1] // vision.image_size
        mosaic = unpad_image(torch.empty(1, crops[0] * side, crops[1] * side, device="meta"), (height, width))
        return TokenGrid(side, side, *(crops if mosaic.numel() else (0, 0)), mosaic=(mosaic.shape[1], mosaic.shape[2]))

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``."""
        super().check_geometry()
        config, processor = self.model.config, self.image_processor
        pinpoints = [list(size) for size in processor.image_grid_pinpoints]
        if pinpoints != [list(size) for size in config.image_grid_pinpoints]:
            raise InputError(
                f"{self.source}: image_grid_pinpoints are {pinpoints} in its image processor's settings and "
                f"{config.image_grid_pinpoints} in its model. The settings belong to another checkpoint."
            )
        if any(edge % config.vision_config.image_size for size in pinpoints for edge in size):
            raise InputError(
                f"{self.source}: image_grid_pinpoints must be whole crops of {config.vision_config.image_size} pixels."
            )

    def geometry(self, width: int, height: int) -> Geometry:
        """See ``Vlm.geometry``: squashed to a square; and resized into the middle of the crops' canvas, of which the
        mosaic is the middle, too."""
        vision, grid, canvas = self.model.config.vision_config, self.grid(width, height), self._canvas(width, height)
        patch, square = vision.patch_size, (vision.image_size, vision.image_size)
        whole = plane([(height, width), square], self.resample, patch, (grid.rows, grid.cols))
        if grid.blocks == 1:
            return Geometry(width, height, (whole,))
        # The function asks for an image and looks at its size alone.
        shape = np.broadcast_to(np.uint8(0), (height, width, 3))
        resized = get_patch_output_size(shape, canvas, input_data_format="channels_last")
        assert grid.mosaic is not None
        start = tuple(
            (edge // patch - tokens) // 2 * patch - (edge - length) // 2
            for edge, tokens, length in zip(canvas, grid.mosaic, resized, strict=True)
        )
        mosaic = plane([(height, width), resized], self.resample, patch, grid.mosaic, start=(start[0], start[1]))
        return Geometry(width, height, (whole, mosaic))

    def separators(self, grid: TokenGrid) -> tuple[int, ...]:
        """See ``Vlm.separators``: one after each row of the mosaic."""
        rows, cols = grid.mosaic or (0, 0)
        return tuple(grid.rows * grid.cols + (row + 1) * (cols + 1) - 1 for row in range(rows))

    def text_embeddings(self, ids: Tensor) -> Tensor:
        """See ``Vlm.text_embeddings``: the learnt feature for what is no visual token under the image's token id."""
        separators = (ids == self.image_token_id)[..., None]
        return torch.where(separators, self.model.model.image_newline, super().text_embeddings(ids))

    def expand_image(self, grid: TokenGrid) -> str:
        """See ``Vlm.expand_image``: the visual tokens and the separators, all alike."""
        return self.image_token * (grid.tokens + len(self.separators(grid)))

    def image_features(self, images: Sequence[EncodedImage]) -> list[Tensor]:
        """See ``Vlm.image_features``; what the model puts after each row is left out."""
        return [self._features(image.grid, **image.pixels) for image in images]

    def _features(self, grid: TokenGrid, pixel_values: Tensor, image_sizes: Tensor) -> Tensor:
        pixels = pixel_values.to(self.device, self.model.dtype)
        (features,) = self.model.get_image_features(pixels, image_sizes).pooler_output
        sees = torch.ones(len(features), dtype=torch.bool)
        sees[list(self.separators(grid))] = False
        return features[sees.to(features.device)]

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """See ``Vlm.encode_image``: the square, then the crops row by row."""
        return EncodedImage(dict(self.image_processor(image, return_tensors="pt")), self.grid(*image.size))
