"""Where one head looks in one image while the model reads a phrase: what Head Impact is made of, to look at."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headimpact.errors import InputError
from headimpact.vlm import attention, packing
from headimpact.vlm.base import Vlm
from headimpact.vlm.tokengrid import TokenGrid, planes


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """How much attention each visual token of one image gets from a phrase, in one head.

    Attributes:
        values: the share of the attention of the phrase's tokens (their mean) that goes to each visual token, in
            sequence order; 0..1, and together no more than 1, because text gets the rest.
        grid: where these tokens lie.
    """

    values: Float[np.ndarray, " tokens"]
    grid: TokenGrid

    @property
    def whole(self) -> Float[np.ndarray, "rows cols"]:
        """The values of the tokens that see the image as a whole, laid over it; every model has them."""
        return planes(self.values[None], self.grid)[-1][0]

    @property
    def crops(self) -> Float[np.ndarray, "rows cols"] | None:
        """The values of the tokens that see the image in crops (SmolVLM), the crops joined: a finer grid over the same
        image. None where the model makes no crops of it."""
        return planes(self.values[None], self.grid)[0][0] if self.grid.blocks > 1 else None


@torch.inference_mode()
def attention_map(vlm: Vlm, image: Image.Image, phrase: str, layer: int, head: int) -> AttentionMap:
    """The attention of one head over one RGB image while the model reads a phrase.

    Raises:
        InputError: there is no such layer or head, the layer has no attention, or the phrase has no token.
    """
    for name, index, count in (("layer", layer, vlm.layers), ("head", head, vlm.heads)):
        if not 0 <= index < count:
            raise InputError(f"There is no {name} {index}: {vlm.source} has {count} {name}s, 0 to {count - 1}.")
    if layer not in vlm.attention_layers:
        listed = ", ".join(map(str, vlm.attention_layers))
        raise InputError(f"Layer {layer} of {vlm.source} has no attention: the layers {listed} have.")
    encoded = vlm.encode_image(image)
    tokens = vlm.tokenize(vlm.caption(phrase), encoded.grid)
    if not len(tokens.target):
        raise InputError(f"The phrase {phrase!r} has no token: say in words what to look for.")
    packed = packing.pack_images([[tokens]], vlm.prompt_attention)
    ((row, where),) = packed.places
    maps: dict[int, Tensor] = {}
    capture = attention.RowCapture(
        [attention.Description(row, where[tokens.target], where[tokens.visual])],
        lambda index, of_objects: maps.update({index: of_objects[0]}),
    )
    embeddings = vlm.embeddings(packed.batch, vlm.image_features([encoded]))
    vlm.hidden_states(packed.batch, embeddings, capture)
    return AttentionMap(maps[layer][head].cpu().numpy(), encoded.grid)
