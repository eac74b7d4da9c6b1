"""Head Impact: how well every attention head looks at the object that is being described.

Attention comes in one layer at a time, already averaged over each object's description tokens (design of the
row capture), and restricted to the visual tokens of the object's image.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from headimpact.errors import InputError
from headimpact.statistics import clustered_means

SCORES = ("iou", "chance", "auroc", "mass")
_KEYS = ["image_id", "object_id", "layer", "head"]


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
    shared = (attention_bits & mask_bits).count_nonzero(-1)
    return shared / (attention_bits.count_nonzero(-1) + mask_bits.count_nonzero(-1) - shared)


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


@dataclass(frozen=True)
class KruskalTest:
    """One Kruskal-Wallis test: H statistic, degrees of freedom (groups - 1), p-value."""

    statistic: float
    df: int
    p_value: float


@dataclass(frozen=True)
class KruskalWallis:
    """Whether Head Impact differs between layers, and between head positions (paper, table 2)."""

    layers: KruskalTest
    heads: KruskalTest

    def to_dict(self) -> dict[str, Any]:
        """As written to JSON: {layers: {statistic, df, p_value}, heads: {...}}."""
        return asdict(self)


def kruskal_wallis(hi: Float[np.ndarray, "layers heads"]) -> KruskalWallis:
    """Kruskal-Wallis test across layers (a group is a layer) and across heads (a group is a head position).

    Raises:
        InputError: fewer than two layers or heads, a NaN, or one value throughout: the test is not defined.
    """
    if min(hi.shape) < 2:
        raise InputError(f"Kruskal-Wallis compares groups: {hi.shape[0]} layers x {hi.shape[1]} heads are too few.")
    if not np.isfinite(hi).all():
        raise InputError("Kruskal-Wallis needs a Head Impact for every head; some are not numbers.")
    if np.ptp(hi) == 0:
        raise InputError(f"Every head has the same Head Impact ({hi.flat[0]:.4g}): there is nothing to compare.")
    return KruskalWallis(layers=_kruskal(hi), heads=_kruskal(hi.T))


def _kruskal(groups: Float[np.ndarray, "groups members"]) -> KruskalTest:
    statistic, p_value = stats.kruskal(*groups)
    return KruskalTest(statistic=float(statistic), df=len(groups) - 1, p_value=float(p_value))


@dataclass(frozen=True, eq=False)
class Impact:
    """The scores of every head on every object, and what follows from them.

    Scores as in :class:`LayerScores`; ``image_ids`` and ``object_ids`` name the objects in the same order.
    """

    image_ids: Int[np.ndarray, " objects"]
    object_ids: Int[np.ndarray, " objects"]
    iou: Float[np.ndarray, "objects layers heads"]
    chance: Float[np.ndarray, "objects layers heads"]
    auroc: Float[np.ndarray, "objects layers heads"]
    mass: Float[np.ndarray, "objects layers heads"]

    @property
    def hi(self) -> Float[np.ndarray, "layers heads"]:
        """Head Impact, eq. 2: the mean IoU over objects."""
        return self.iou.mean(0, dtype=np.float64)

    def layer_scores(self) -> Float[np.ndarray, " layers"]:
        """A layer's score: the mean Head Impact of its heads."""
        return self.hi.mean(1)

    def table(self) -> pd.DataFrame:
        """One row a head, layer by layer: layer, head, hi, hi_se, chance, excess, excess_z, auroc, mass.

        ``hi`` is eq. 2; standard errors are clustered by image. ``excess`` is the mean of IoU - chance of the
        same object, ``excess_z`` that in its standard errors (NaN where nothing varies). A NaN score
        is left out of its own mean.
        """
        hi, hi_se = clustered_means(self.iou, self.image_ids)
        excess, excess_se = clustered_means(self.iou.astype(np.float64) - self.chance, self.image_ids)
        _, layers, heads = self.iou.shape
        return pd.DataFrame(
            {
                "layer": np.repeat(np.arange(layers), heads),
                "head": np.tile(np.arange(heads), layers),
                "hi": hi.ravel(),
                "hi_se": hi_se.ravel(),
                "chance": clustered_means(self.chance, self.image_ids)[0].ravel(),
                "excess": excess.ravel(),
                "excess_z": (excess / np.where(excess_se > 0, excess_se, np.nan)).ravel(),
                "auroc": clustered_means(self.auroc, self.image_ids)[0].ravel(),
                "mass": clustered_means(self.mass, self.image_ids)[0].ravel(),
            }
        )

    def objects_frame(self) -> pd.DataFrame:
        """A row an object and head: image_id, object_id, layer, head, iou, chance, auroc, mass (float32)."""
        keys = _keys(self.image_ids, self.object_ids, *self.iou.shape[1:])
        return keys.assign(**{name: getattr(self, name).ravel().astype(np.float32) for name in SCORES})

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> "Impact":
        """The inverse of :meth:`objects_frame`.

        Raises:
            InputError: a column is missing, or the rows are not every object x layer x head in order.
        """
        missing = [name for name in [*_KEYS, *SCORES] if name not in frame.columns]
        if missing:
            raise InputError(f"The table of objects lacks the columns {', '.join(missing)}: score again.")
        if frame.empty:
            raise InputError("The table of objects has no row: score again.")
        layers, heads = int(frame["layer"].max()) + 1, int(frame["head"].max()) + 1
        image_ids, object_ids = (frame[name].to_numpy()[:: layers * heads] for name in _KEYS[:2])
        expected = _keys(image_ids, object_ids, layers, heads)
        if len(frame) != len(expected) or (frame[_KEYS].to_numpy() != expected.to_numpy()).any():
            raise InputError(
                f"The table of objects does not hold {layers} layers x {heads} heads once for every object, "
                "in order: it was changed after scoring. Score again."
            )
        scores = {name: frame[name].to_numpy(np.float32).reshape(-1, layers, heads) for name in SCORES}
        return cls(image_ids=image_ids.copy(), object_ids=object_ids.copy(), **scores)


def head_grid(table: pd.DataFrame, column: str = "hi") -> Float[np.ndarray, "layers heads"]:
    """One column of an impact table (:meth:`Impact.table`), laid out by layer and head.

    Raises:
        InputError: a column is missing, or the rows are not every layer x head once, in order.
    """
    missing = [name for name in ("layer", "head", column) if name not in table.columns]
    if missing:
        raise InputError(f"The impact table lacks the columns {', '.join(missing)}: score again.")
    layers, heads = table["layer"].nunique(), table["head"].nunique()
    expected = pd.MultiIndex.from_product([range(layers), range(heads)])
    if table.empty or not pd.MultiIndex.from_frame(table[["layer", "head"]]).equals(expected):
        raise InputError("The impact table does not hold every layer x head once, in order: score again.")
    return table[column].to_numpy(np.float64).reshape(layers, heads)


def _keys(image_ids: np.ndarray, object_ids: np.ndarray, layers: int, heads: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": np.repeat(image_ids, layers * heads),
            "object_id": np.repeat(object_ids, layers * heads),
            "layer": np.tile(np.repeat(np.arange(layers, dtype=np.int16), heads), len(image_ids)),
            "head": np.tile(np.arange(heads, dtype=np.int16), len(image_ids) * layers),
        }
    )


class ImpactAccumulator:
    """Collects scores one layer at a time, forward after forward.

    Within one forward call :meth:`update` for every layer, then :meth:`close` with the objects' names. Where
    the forward holds images with different numbers of visual tokens, call ``update`` once an image, in the
    same order for every layer. Scores stay on their device until ``close``.
    """

    def __init__(self, layers: int, heads: int) -> None:
        """Expect scores of ``layers`` layers with ``heads`` heads each."""
        self._heads = heads
        self._open: list[list[LayerScores]] = [[] for _ in range(layers)]
        self._ids: list[tuple[int, int]] = []
        self._scores: list[Float[np.ndarray, "4 objects layers heads"]] = []

    def update(self, layer: int, scores: LayerScores) -> None:
        """Add the scores of one layer (from 0), for all or the next objects of this forward."""
        if not 0 <= layer < len(self._open):
            raise ValueError(f"Layer {layer} does not exist: there are {len(self._open)}.")
        if scores.iou.shape[1] != self._heads:
            raise ValueError(f"Layer {layer} came with {scores.iou.shape[1]} heads instead of {self._heads}.")
        self._open[layer].append(scores)

    def close(self, image_ids: Sequence[int], object_ids: Sequence[int]) -> None:
        """End a forward: name its objects, in the order of their scores.

        Raises:
            ValueError: a layer has not exactly one row for each named object.
            InputError: an object has no IoU: empty token mask, or attention that is not finite.
        """
        ids = list(zip(image_ids, object_ids, strict=True))
        counts = [sum(len(scores.iou) for scores in layer) for layer in self._open]
        if set(counts) != {len(ids)}:
            raise ValueError(f"{len(ids)} objects were named, but the layers hold the scores of {counts}.")
        if not ids:
            return
        scores = np.stack([self._gather(name) for name in SCORES])
        _require_iou(scores[0], ids)
        self._open = [[] for _ in self._open]
        self._ids += ids
        self._scores.append(scores)

    def result(self) -> Impact:
        """All closed forwards together.

        Raises:
            ValueError: a forward was not closed, or an object came twice.
            InputError: no object was scored.
        """
        if any(self._open):
            raise ValueError("The last forward was not closed.")
        if not self._ids:
            raise InputError("No object was scored: every one was skipped, or the data holds none.")
        if len(set(self._ids)) < len(self._ids):
            raise ValueError("An object was scored twice.")
        ids = np.array(self._ids, dtype=np.int64)
        scores = np.concatenate(self._scores, axis=1)
        return Impact(ids[:, 0], ids[:, 1], *scores)

    def _gather(self, name: str) -> Float[np.ndarray, "objects layers heads"]:
        layers = [torch.cat([getattr(scores, name) for scores in layer]) for layer in self._open]
        return torch.stack(layers, dim=1).float().cpu().numpy()


def _require_iou(iou: Float[np.ndarray, "objects layers heads"], ids: list[tuple[int, int]]) -> None:
    undefined = np.argwhere(np.isnan(iou))
    if len(undefined):
        index, layer, head = undefined[0]
        image_id, object_id = ids[index]
        raise InputError(
            f"Object {object_id} of image {image_id} has no IoU in layer {layer}, head {head}: its token "
            "mask is empty (skip the object) or the attention is not finite (load the base in float32)."
        )
