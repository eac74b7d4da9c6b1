"""Scores of heads on objects, collected one layer at a time (:mod:`headimpact.impact.layer_scores`), forward after
forward."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from headimpact.errors import InputError
from headimpact.impact.head_impact import SCORES, Impact
from headimpact.impact.layer_scores import LayerScores


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

    def arrays(self) -> dict[str, np.ndarray]:
        """All closed forwards together, by the names that :class:`Impact` has; empty arrays where nothing was scored.

        Raises:
            ValueError: a forward was not closed.
        """
        if any(self._open):
            raise ValueError("The last forward was not closed.")
        ids = np.array(self._ids, dtype=np.int64).reshape(-1, 2)
        nothing = np.empty((len(SCORES), 0, len(self._open), self._heads), dtype=np.float32)
        scores = np.concatenate(self._scores or [nothing], axis=1)
        return {"image_ids": ids[:, 0], "object_ids": ids[:, 1]} | dict(zip(SCORES, scores, strict=True))

    def result(self) -> Impact:
        """All closed forwards together; raises as :meth:`arrays` and :func:`impact_of` do."""
        return impact_of(self.arrays())

    def _gather(self, name: str) -> Float[np.ndarray, "objects layers heads"]:
        layers = [torch.cat([getattr(scores, name) for scores in layer]) for layer in self._open]
        return torch.stack(layers, dim=1).float().cpu().numpy()


def impact_of(arrays: Mapping[str, np.ndarray], layers: Sequence[int] = ()) -> Impact:
    """The impact that :meth:`ImpactAccumulator.arrays` of several portions make.

    Args:
        arrays: of all portions.
        layers: the numbers of the layers, where they are not all of the model's.

    Raises:
        ValueError: an object came twice.
        InputError: no object was scored.
    """
    impact = Impact(arrays["image_ids"], arrays["object_ids"], *(arrays[name] for name in SCORES), layers=tuple(layers))
    if not len(impact.object_ids):
        raise InputError("No object was scored: every one was skipped, or the data holds none.")
    if len(np.unique(np.stack([impact.image_ids, impact.object_ids]), axis=1).T) < len(impact.object_ids):
        raise ValueError("An object was scored twice.")
    return impact


def _require_iou(iou: Float[np.ndarray, "objects layers heads"], ids: list[tuple[int, int]]) -> None:
    undefined = np.argwhere(np.isnan(iou))
    if len(undefined):
        index, layer, head = undefined[0]
        image_id, object_id = ids[index]
        raise InputError(
            f"Object {object_id} of image {image_id} has no IoU in layer {layer}, head {head}: its token "
            "mask is empty (skip the object) or the attention is not finite (load the base in float32)."
        )
