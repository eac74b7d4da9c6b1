"""Images that are squashed to one square, whatever their shape (PaliGemma, Gemma 3)."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from headimpact.errors import InputError
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.geometry import Geometry, plane
from headimpact.vlm.tokengrid import TokenGrid


class SquashedImageVlm(Vlm):
    """A family whose image processor makes every image the vision tower's square."""

    @property
    def merged(self) -> int:
        """Patches along each side of what becomes one visual token."""
        return 1

    @property
    def _token_pixels(self) -> int:
        """Pixels of the square along each side of what a visual token sees."""
        return self.model.config.vision_config.patch_size * self.merged

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """See ``Vlm.encode_image``: squashed to the vision tower's square."""
        pixels = self.image_processor(image, return_tensors="pt")["pixel_values"]
        side = pixels.shape[-1] // self._token_pixels
        return EncodedImage({"pixel_values": pixels}, TokenGrid(side, side))

    def grid(self, width: int, height: int) -> TokenGrid:
        """See ``Vlm.grid``: the same for every size."""
        side = self.model.config.vision_config.image_size // self._token_pixels
        return TokenGrid(side, side)

    @property
    def patches_per_token(self) -> int:
        """See ``Vlm.patches_per_token``."""
        return self.merged**2

    def check_geometry(self) -> None:
        """See ``Vlm.check_geometry``."""
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
        """See ``Vlm.geometry``: resized once, each axis by itself."""
        side, grid = self.model.config.vision_config.image_size, self.grid(width, height)
        sizes = [(height, width), (side, side)]
        squashed = plane(sizes, self.resample, self._token_pixels, (grid.rows, grid.cols))
        return Geometry(width, height, (squashed,))

    def image_features(self, images: Sequence[EncodedImage]) -> list[Tensor]:
        """See ``Vlm.image_features``."""
        pixels = torch.cat([image.pixels["pixel_values"] for image in images]).to(self.device, self.model.dtype)
        return list(self.model.get_image_features(pixels).pooler_output)
