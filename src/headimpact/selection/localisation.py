"""Which heads localise the object that is being described, from how concentrated their attention on the image is.

After "Your Large Vision-Language Model Only Needs A Few Attention Heads For Visual Grounding".
"""

from typing import cast

import numpy as np
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from headimpact.impact.layer_scores import binarise
from headimpact.vlm.tokengrid import TokenGrid, planes

PICKED_HEADS = 10
_NEIGHBOURS = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])  # the eight of the same map


def spatial_entropy(maps: Float[Tensor, "maps tokens"], grid: TokenGrid) -> Float[np.ndarray, " maps"]:
    """Entropy (nats) of how an attention map's mass is spread over its connected regions; 0 is a single region.

    Regions are 8-connected visual tokens, here those above the mean, as for HI (the source's are above twice the mean).
    Where there are crops, they are joined to one plane, and the whole image is a second one. Infinite for a map
    without a token above the mean.
    """
    attended = np.where(binarise(maps).numpy(), maps.numpy().astype(np.float64), 0.0)
    masses, owners = [], []
    for plane in planes(attended, grid):
        labels, count = cast(tuple[np.ndarray, int], ndimage.label(plane > 0, structure=_NEIGHBOURS))
        owner = np.zeros(count + 1, dtype=np.intp)
        owner[labels] = np.arange(len(plane))[:, None, None]
        masses.append(np.bincount(labels.ravel(), weights=plane.ravel(), minlength=count + 1)[1:])
        owners.append(owner[1:])
    mass, owner = np.concatenate(masses), np.concatenate(owners)
    total = np.bincount(owner, weights=mass, minlength=len(maps))
    part = mass / total[owner]
    return np.where(total > 0, np.bincount(owner, weights=-part * np.log(part), minlength=len(maps)), np.inf)


def localisation(
    share: Float[np.ndarray, "objects layers heads"],
    entropy: Float[np.ndarray, "objects layers heads"],
    picked: int = PICKED_HEADS,
) -> Float[np.ndarray, "layers heads"]:
    """How often each head is one of the ``picked`` that localise an object, 0..1.

    Of the heads whose mean attention share on the image is at least that at the elbow, those of the lowest spatial
    entropy are picked for each object; heads of equal entropy share the last places, so that no index is favoured.
    """
    mean = share.mean(axis=0)
    ranked = np.where(mean >= elbow(mean.ravel()), entropy, np.inf).reshape(len(entropy), -1)
    picks = np.zeros(ranked.shape)
    for row, heads in zip(picks, ranked, strict=True):
        ordered = np.sort(heads)
        below, up_to = np.searchsorted(ordered, heads), np.searchsorted(ordered, heads, side="right")
        row[:] = np.where(np.isfinite(heads), np.clip((picked - below) / (up_to - below), 0, 1), 0)
    return picks.mean(axis=0).reshape(mean.shape)


def elbow(values: Float[np.ndarray, " values"]) -> float:
    """The value at which the ascending curve lies farthest from the line between its first and its last point; the
    lowest value where the curve is that line."""
    ordered = np.sort(values)
    line = np.linspace(ordered[0], ordered[-1], len(ordered))
    return float(ordered[np.argmax(np.abs(line - ordered))])
