"""Head Impact computed otherwise, one thing at a time, and how far its heads and layers then rank alike.

What is varied: which visual tokens count as attended, whether attention sinks are left out, from which coverage on a
visual token belongs to the object, and whose attention is read. Beside every variation stand what needs no model: a
blob in the image's centre, all visual tokens, and (with the same attention) the masks of other images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from headimpact.impact.layer_scores import binarise, iou
from headimpact.statistics import clustered_means, paired_difference, spearman
from headimpact.vlm.tokengrid import token_mask

DEFINITION = "definition"
COVERAGES = (0.25, 0.5, 0.75)
# Any overlap: not above 0, because resizing a mask rings a little beyond the object.
ANY_COVERAGE = 0.01
BLOB_COVERAGE = 0.5
TOP_LAYERS = 4
CONFIDENCE = 0.95

Rows = Literal["phrase", "last token", "answer"]


@dataclass(frozen=True)
class Variation:
    """One way to compute Head Impact.

    Attributes:
        name: what it differs in from the definition.
        rows: whose attention is read: of the tokens of the phrase, of its last token alone, or of the whole answer
            (what the template says around the phrase and the end token included).
        cut: the attended tokens are those above the mean, those above the median, or as many of the most attended as
            the object has (``area``).
        sinks: the most attended tokens that are left out of attention and mask: none, the image's (by the mean over
            its objects, layers and heads), or each head's own (by the mean over the image's objects).
        coverage: covered share of its pixels from which a visual token belongs to the object.
    """

    name: str
    coverage: float
    rows: Rows = "phrase"
    cut: Literal["mean", "median", "area"] = "mean"
    sinks: Literal["none", "image", "head"] = "none"


def variations(coverage: float) -> list[Variation]:
    """The definition, which takes tokens from ``coverage`` on, and what differs from it in one thing."""
    other = [(f"mask: from {value:.0%} on", value) for value in COVERAGES if value != coverage]
    return [
        Variation(DEFINITION, coverage),
        Variation("threshold: median", coverage, cut="median"),
        Variation("threshold: top-area", coverage, cut="area"),
        Variation("sinks: the image's removed", coverage, sinks="image"),
        Variation("sinks: each head's removed", coverage, sinks="head"),
        *(Variation(name, value) for name, value in [*other, ("mask: any overlap", ANY_COVERAGE)]),
        Variation("rows: last phrase token", coverage, rows="last token"),
        Variation("rows: whole answer", coverage, rows="answer"),
    ]


SCORES = ("iou", "chance", "blob", "ones")


@dataclass(frozen=True, eq=False)
class Scores:
    """The objects of one or more images under one variation. NaN where nothing of a mask is left.

    iou: eq. 1. chance: the same against masks of other images. blob, ones: the same for the centre blob, and for all
    visual tokens (the share of them that the object covers), which depend on the mask alone. All 0..1.
    """

    iou: Float[np.ndarray, "objects layers heads"]
    chance: Float[np.ndarray, "objects layers heads"]
    blob: Float[np.ndarray, " objects"]
    ones: Float[np.ndarray, " objects"]

    @property
    def hi(self) -> Float[np.ndarray, "layers heads"]:
        """Head Impact, eq. 2."""
        return _mean(self.iou)


def score(
    variation: Variation,
    maps: Float[Tensor, "objects layers heads tokens"],
    covered: Float[Tensor, "objects tokens"],
    foreign: Float[Tensor, "objects draws tokens"],
    blob: Bool[Tensor, "tokens"],
) -> Scores:
    """Score every head on the objects of one image.

    Args:
        variation: how.
        maps: attention of the variation's query rows, averaged over them, to the visual tokens; finite, float32.
        covered: what each object covers of each visual token.
        foreign: what objects of other images would cover.
        blob: the visual tokens of the centre blob.
    """
    masks, others = token_masks(covered, variation.coverage), token_masks(foreign, variation.coverage)
    of_heads, of_others = masks[:, None, None], others[:, None, None]
    if variation.sinks != "none":
        kept = without_sinks(maps, variation.sinks)
        maps, of_heads = maps.take_along_dim(kept[None], -1), of_heads.take_along_dim(kept[None], -1)
        of_others = of_others.take_along_dim(kept[None, :, :, None], -1)
    bits = attended(variation.cut, maps, of_heads)
    scores = {
        "iou": _against(bits, of_heads),
        "chance": _against(bits[..., None, :], of_others).nanmean(-1),
        "blob": _against(blob, masks),
        "ones": _against(torch.ones_like(blob), masks),
    }
    return Scores(**{name: values.float().numpy() for name, values in scores.items()})


def token_masks(covered: Float[Tensor, "*objects tokens"], coverage: float) -> Bool[Tensor, "*objects tokens"]:
    """:func:`tokengrid.token_mask` of every object."""
    masks = [token_mask(of_object, coverage) for of_object in covered.flatten(0, -2)]
    return torch.stack(masks).reshape(covered.shape)


def without_sinks(
    maps: Float[Tensor, "objects layers heads tokens"], whose: Literal["image", "head"]
) -> Int[Tensor, "layers heads kept"]:
    """The visual tokens that are left, in order, when the most attended ones are taken away.

    Of every full hundred visual tokens one is taken, and at least one (unless there is no other): on a grid of 64, the
    most attended token alone, which is 1.6 % of them. Attention is averaged over the image's objects, because a sink
    is attended to whatever is described; for ``image`` over all layers and heads, too, so that all lose the same
    tokens. Of equal ones the first is taken.
    """
    attention = maps.mean(0)
    if whose == "image":
        attention = attention.mean((0, 1)).expand_as(attention)
    tokens = attention.shape[-1]
    taken = min(max(1, tokens // 100), tokens - 1)
    return attention.argsort(dim=-1, descending=True, stable=True)[..., taken:].sort(-1).values


def attended(
    cut: str, maps: Float[Tensor, "objects layers heads tokens"], masks: Bool[Tensor, "objects _ _ tokens"]
) -> Bool[Tensor, "objects layers heads tokens"]:
    """The visual tokens that count as attended; ``masks`` (of each object, or of each of its heads) says for ``area``
    how many. Of equally attended ones the first."""
    if cut == "median":
        return maps > maps.median(-1, keepdim=True).values
    if cut == "area":
        place = maps.argsort(dim=-1, descending=True, stable=True).argsort(-1)
        return place < masks.count_nonzero(-1)[..., None]
    return binarise(maps)


def _against(bits: Bool[Tensor, "*#batch tokens"], masks: Bool[Tensor, "*#batch tokens"]) -> Float[Tensor, "..."]:
    return iou(bits, masks).masked_fill(~masks.any(-1), torch.nan)


def ellipse(width: int, height: int) -> Bool[np.ndarray, "height width"]:
    """The centre blob, in pixels: a centred ellipse half as wide and half as high as the image (a fifth of it)."""
    across = (np.arange(width) + 0.5) / width - 0.5
    down = (np.arange(height) + 0.5) / height - 0.5
    return (across[None] ** 2 + down[:, None] ** 2) < 0.25**2


def table(
    scores: Mapping[str, Scores], image_ids: Int[np.ndarray, " objects"], numbers: Sequence[int] | None = None
) -> pd.DataFrame:
    """One row a variation, in the order of ``scores``, whose first is the definition.

    Columns: variation; spearman_heads, spearman_layers (rank correlation with the definition's head and layer scores);
    overlap (how many of its top layers are those of the definition), top (these layers, best first); best_layer,
    best_head, best_hi; mean_hi (over all heads), difference to that of the definition (on the same objects), with low
    and high; chance (mean over heads); blob, ones; above_chance, above_blob, above_definition (heads whose HI is
    above it); left_out (share of the object-head pairs of whose mask nothing was left).

    ``numbers`` are those of the scored layers, where others have no attention.

    All intervals are clustered by image. Those of the differences hold for all variations together, and those behind
    the above_ columns for all heads of a variation together (Bonferroni, 95 %).
    """
    definition = next(iter(scores.values()))
    layers = _numbers(definition, numbers)
    return pd.DataFrame(
        {"variation": name} | _row(of_variation, definition, image_ids, layers, len(scores) - 1)
        for name, of_variation in scores.items()
    )


def heads_table(scores: Mapping[str, Scores], numbers: Sequence[int] | None = None) -> pd.DataFrame:
    """One row a variation and head: variation, layer, head, hi, chance. ``numbers`` as for :func:`table`."""
    frames = []
    for name, of_variation in scores.items():
        layers, heads = of_variation.hi.shape
        layer, head = np.repeat(_numbers(of_variation, numbers), heads), np.tile(np.arange(heads), layers)
        columns = {"variation": name, "layer": layer, "head": head}
        frames.append(
            pd.DataFrame(columns | {"hi": of_variation.hi.ravel(), "chance": _mean(of_variation.chance).ravel()})
        )
    return pd.concat(frames, ignore_index=True)


def _numbers(scores: Scores, numbers: Sequence[int] | None) -> Int[np.ndarray, " layers"]:
    return np.arange(len(scores.hi)) if numbers is None else np.array(numbers)


def top(scores: Float[np.ndarray, "*draws layers"], k: int) -> Int[np.ndarray, "*draws k"]:
    """The ``k`` highest along the last axis, best first; of equal ones the first."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :k]


def _row(
    scores: Scores,
    definition: Scores,
    image_ids: Int[np.ndarray, " objects"],
    numbers: Int[np.ndarray, " layers"],
    comparisons: int,
) -> dict[str, Any]:
    hi, layers = scores.hi, scores.hi.mean(1)
    highest = top(layers, TOP_LAYERS)
    best = np.unravel_index(np.where(np.isnan(hi), -1, hi).argmax(), hi.shape)
    row = {
        "spearman_heads": spearman(hi.ravel(), definition.hi.ravel()),
        "spearman_layers": spearman(layers, definition.hi.mean(1)),
        "overlap": len(np.intersect1d(highest, top(definition.hi.mean(1), TOP_LAYERS))),
        "top": " ".join(map(str, numbers[highest])),
        "best_layer": int(numbers[best[0]]),
        "best_head": int(best[1]),
        "best_hi": float(hi[best]),
        "mean_hi": float(hi.mean()),
    }
    baselines = {"chance": _mean(scores.chance).mean(), "blob": _mean(scores.blob), "ones": _mean(scores.ones)}
    above = {
        "above_chance": scores.chance,
        "above_blob": scores.blob[:, None, None],
        "above_definition": definition.iou,
    }
    return (
        row
        | _difference(scores, definition, image_ids, comparisons)
        | {name: float(value) for name, value in baselines.items()}
        | {name: count_above(scores.iou, other, image_ids) for name, other in above.items()}
        | {"left_out": float(np.isnan(scores.iou).mean())}
    )


def _difference(
    scores: Scores, definition: Scores, image_ids: Int[np.ndarray, " objects"], comparisons: int
) -> dict[str, float]:
    """Of the mean over heads, on what both could score."""
    differences = (scores.iou.astype(np.float64) - definition.iou).reshape(len(image_ids), -1)
    scored = ~np.isnan(differences).all(1)
    means = np.nanmean(differences[scored], axis=1)
    if scores is definition or len(np.unique(image_ids[scored])) < 2:
        return dict.fromkeys(("difference", "low", "high"), float("nan"))
    confidence = 1 - (1 - CONFIDENCE) / comparisons
    difference = paired_difference(means, np.zeros_like(means), image_ids[scored], confidence)
    return {"difference": difference.value, "low": difference.low, "high": difference.high}


def count_above(
    iou: Float[np.ndarray, "objects layers heads"],
    other: Float[np.ndarray, "objects _ _"],
    image_ids: Int[np.ndarray, " objects"],
) -> int:
    """Heads whose IoU is above the other's in the mean over the same objects, at a familywise error of 5 % over all
    heads (one-sided t-tests clustered by image, Bonferroni)."""
    mean, error = clustered_means(iou.astype(np.float64) - other, image_ids)
    quantile = stats.t(len(np.unique(image_ids)) - 1).ppf(1 - (1 - CONFIDENCE) / mean.size)
    return int(((mean > 0) & (mean > quantile * error)).sum())


def _mean(values: Float[np.ndarray, "objects ..."]) -> Float[np.ndarray, "..."]:
    """Over the objects that have a score; NaN where none has."""
    return clustered_means(values, np.arange(len(values)))[0]
