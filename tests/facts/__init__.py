"""What the contract tests know of every family, a file each, named as in ``headimpact.vlm.families``: a tiny model with
random weights, and facts of the real checkpoint.

A family that stands in ``FAMILIES`` needs its file here, with its ``FACTS``: the contract tests
(``test_family_contract.py``, and what else asks for ``families()``) run on it, and fail without.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.tokengrid import TokenGrid


@dataclass(frozen=True)
class Facts:
    """What is known of a family beside its code.

    Attributes:
        settings: configuration, tokenizer and image processor of a tiny model; its decoder has at least TINY_LAYERS.
        real_settings: configuration and image processor of the real checkpoint.
        template: the real checkpoint's chat template, as far as text and images go; None where it has none.
        caption: what that template makes of a description, with {phrase} and the image as <image>.
        layers, heads, parameters: of the real checkpoint's language model, and of all of it.
        adapted_layer: trainable parameters of LoRA of rank 8 on q, k and v of one of its layers (table 5), or of each
            of those that have attention, where they differ.
        grid_at_640x480: where the visual tokens of an image of 640 x 480 lie.
        visual_tokens: their number by width and height of an image, as the real checkpoint's own processor gives it.
        patches_per_token: patches of its vision tower in one visual token.
        seen: of what its image processor gives for an image, the pixels that each visual token sees.
        crops: rows and columns of crops of the tiny model's image of 160 x 96 (of 96 x 160 the other way round).
        closing: what the template ends an answer with, where it is not the tokenizer's eos_token.
    """

    settings: Callable[[], tuple[Any, Any, Any]]
    real_settings: Callable[[], tuple[Any, Any]]
    template: str | None
    caption: str
    layers: int
    heads: int
    parameters: int
    adapted_layer: int | Mapping[int, int]
    grid_at_640x480: TokenGrid
    visual_tokens: Mapping[tuple[int, int], int]
    patches_per_token: int
    seen: Callable[[Vlm, EncodedImage], Float[Tensor, "tokens pixels"]]
    crops: tuple[int, int] = (0, 0)
    closing: str | None = None
