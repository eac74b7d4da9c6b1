"""One layer's attention against the objects' masks: the IoU of equation 1, its chance level, AUROC and attention mass.

Attention comes in already averaged over each object's description tokens (:mod:`headimpact.vlm.attention`), and
restricted to the visual tokens of the object's image. Tensors alone: no model, no image.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerScores:
    """How one layer's heads look at each object. NaN where a score is not defined.

    iou: eq. 1, 0..1. chance: the same against masks of other images. auroc: 0..1, chance 0.5.
    mass: share of visual attention on the object / share of visual tokens it covers, from 0, chance 1.
    """

    iou: Float[Tensor, "objects heads"]
    chance: Float[Tensor, "objects heads"]
    auroc: Float[Tensor, "objects heads"]
    mass: Float[Tensor, "objects heads"]


def binarise(attention: Float[Tensor, "*batch tokens"]) -> Bool[Tensor, "*batch tokens"]:
    """Visual tokens that get strictly more attention than the mean visual token (paper, section 4).

    A uniform row has no such token. Expects float32 or better.
    """
    # The mean of equal numbers can be rounded to below them; nothing at the minimum is above the mean.
    return (attention > attention.mean(-1, keepdim=True)) & (attention > attention.amin(-1, keepdim=True))


def iou(
    attention_bits: Bool[Tensor, "*#batch tokens"], mask_bits: Bool[Tensor, "*#batch tokens"]
) -> Float[Tensor, "..."]:
    """Intersection over union, eq. 1, over the last axis; other axes broadcast. NaN where both are empty."""
    intersection = (attention_bits & mask_bits).count_nonzero(-1)
    return intersection / (attention_bits.count_nonzero(-1) + mask_bits.count_nonzero(-1) - intersection)


def auroc(
    attention: Float[Tensor, "objects heads tokens"], mask: Bool[Tensor, "objects tokens"]
) -> Float[Tensor, "objects heads"]:
    """Probability that a token of the object gets more attention than another one, ties counting half (0..1).

    The Mann-Whitney statistic on average ranks. NaN where the mask covers all tokens or none.
    """
    attention = attention.contiguous()
    ordered = attention.sort(-1).values
    below = torch.searchsorted(ordered, attention)
    up_to = torch.searchsorted(ordered, attention, right=True)
    twice_rank = below + up_to + 1  # whole numbers, so that the sums below are exact
    inside, outside = mask.count_nonzero(-1)[:, None], (~mask).count_nonzero(-1)[:, None]
    twice_sum = (twice_rank * mask[:, None]).sum(-1)
    return (twice_sum - inside * (inside + 1)) / (2 * inside * outside)


def mass(
    attention: Float[Tensor, "objects heads tokens"], mask: Bool[Tensor, "objects tokens"]
) -> Float[Tensor, "objects heads"]:
    """Share of the visual attention that lies on the object / share of the visual tokens that it covers.

    From 0; 1 where attention does not care about the object. NaN for an empty mask or no attention at all.
    """
    attention_share = (attention * mask[:, None]).sum(-1) / attention.sum(-1)
    return attention_share / (mask.count_nonzero(-1) / mask.shape[-1])[:, None]


def score_layer(
    attention: Float[Tensor, "objects heads tokens"],
    masks: Bool[Tensor, "objects tokens"],
    foreign: Bool[Tensor, "objects draws tokens"],
) -> LayerScores:
    """Score one layer's heads on objects that share one number of visual tokens (no padding).

    Args:
        attention: mean over the object's description tokens, visual tokens alone, float32, from 0.
        masks: the objects' token masks.
        foreign: masks of objects of other images, mapped onto the tokens of this object's image. Empty ones
            are left out; chance is NaN where none is left.

    The IoU is NaN, never 0, where the mask is empty or the attention is not finite. Nothing here waits
    for the device.
    """
    bits = binarise(attention)
    scorable = masks.any(-1)[:, None] & attention.isfinite().all(-1)
    chance = iou(bits[:, :, None], foreign[:, None]).masked_fill(~foreign.any(-1)[:, None], torch.nan)
    return LayerScores(
        iou=iou(bits, masks[:, None]).masked_fill(~scorable, torch.nan),
        chance=chance.nanmean(-1),
        auroc=auroc(attention, masks),
        mass=mass(attention, masks),
    )
