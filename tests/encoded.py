"""Pictures as requests carry them, and the limits of the tests on them."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from headimpact.lifecycle import serving

LIMITS = serving.Limits(0.01, 0.1, 20, 64, 0.2)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return base64.b64encode(stream.getvalue()).decode()


def noise(width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


RED = encode(Image.new("RGB", (30, 20), "red"))
