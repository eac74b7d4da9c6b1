"""Head Impact: how well every attention head looks at the object that is being described, over all objects.

Scores are collected by :mod:`headimpact.impact.accumulator`. Commands that only read the tables import this: nothing
here needs torch.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from headimpact.errors import InputError
from headimpact.statistics import clustered_means

SCORES = ("iou", "chance", "auroc", "mass")
_KEYS = ["image_id", "object_id", "layer", "head"]


@dataclass(frozen=True, eq=False)
class Impact:
    """The scores of every head on every object, and what follows from them.

    Scores as in :class:`headimpact.impact.layer_scores.LayerScores`; ``image_ids`` and ``object_ids`` name the objects
    in the same order. ``layers`` are the numbers of the layers that have attention; empty: all of them have.
    """

    image_ids: Int[np.ndarray, " objects"]
    object_ids: Int[np.ndarray, " objects"]
    iou: Float[np.ndarray, "objects layers heads"]
    chance: Float[np.ndarray, "objects layers heads"]
    auroc: Float[np.ndarray, "objects layers heads"]
    mass: Float[np.ndarray, "objects layers heads"]
    layers: tuple[int, ...] = ()

    @property
    def layer_numbers(self) -> Int[np.ndarray, " layers"]:
        """Number of every scored layer, from 0."""
        return np.array(self.layers or range(self.iou.shape[1]))

    @property
    def hi(self) -> Float[np.ndarray, "layers heads"]:
        """Head Impact, eq. 2: the mean IoU over objects."""
        return self.iou.mean(0, dtype=np.float64)

    def layer_scores(self) -> Float[np.ndarray, " layers"]:
        """A layer's score: the mean Head Impact of its heads."""
        return self.hi.mean(1)

    def table(self) -> pd.DataFrame:
        """One row a head, layer by layer: layer, head, hi, hi_se, chance, excess, excess_z, auroc, mass. A layer
        without attention has no row.

        ``hi`` is eq. 2; standard errors are clustered by image. ``excess`` is the mean of IoU - chance of the
        same object, ``excess_z`` that in its standard errors (NaN where nothing varies). A NaN score
        is left out of its own mean.
        """
        hi, hi_se = self._means(lambda layer: self.iou[:, layer])
        excess, excess_se = self._means(lambda layer: self.iou[:, layer].astype(np.float64) - self.chance[:, layer])
        layers, heads = self.iou.shape[1:]
        return pd.DataFrame(
            {
                "layer": np.repeat(self.layer_numbers, heads),
                "head": np.tile(np.arange(heads), layers),
                "hi": hi,
                "hi_se": hi_se,
                "chance": self._means(lambda layer: self.chance[:, layer])[0],
                "excess": excess,
                "excess_z": excess / np.where(excess_se > 0, excess_se, np.nan),
                "auroc": self._means(lambda layer: self.auroc[:, layer])[0],
                "mass": self._means(lambda layer: self.mass[:, layer])[0],
            }
        )

    def _means(
        self, of: Callable[[int], Float[np.ndarray, "objects heads"]]
    ) -> tuple[Float[np.ndarray, " scores"], Float[np.ndarray, " scores"]]:
        """Means and standard errors of every head, one layer at a time: in between there are several copies."""
        layers = [clustered_means(of(layer), self.image_ids) for layer in range(self.iou.shape[1])]
        means, errors = zip(*layers, strict=True)
        return np.concatenate(means), np.concatenate(errors)

    def portions(self, rows: int) -> Iterator["Impact"]:
        """The objects in their order, so many together that :meth:`objects_frame` has at most ``rows``, or one."""
        count = max(1, rows // math.prod(self.iou.shape[1:]))
        names = ("image_ids", "object_ids", *SCORES)
        for start in range(0, len(self.object_ids), count):
            yield replace(self, **{name: getattr(self, name)[start : start + count] for name in names})

    def objects_frame(self) -> pd.DataFrame:
        """A row an object and head: image_id, object_id, layer, head, iou, chance, auroc, mass (float32)."""
        keys = _keys(self.image_ids, self.object_ids, self.layer_numbers, self.iou.shape[2])
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
        numbers, heads = np.unique(frame["layer"]), int(frame["head"].max()) + 1
        layers = len(numbers)
        image_ids, object_ids = (frame[name].to_numpy()[:: layers * heads] for name in _KEYS[:2])
        expected = _keys(image_ids, object_ids, numbers, heads)
        if len(frame) != len(expected) or (frame[_KEYS].to_numpy() != expected.to_numpy()).any():
            raise InputError(
                f"The table of objects does not hold {layers} layers x {heads} heads once for every object, "
                "in order: it was changed after scoring. Score again."
            )
        scores = {name: frame[name].to_numpy(np.float32).reshape(-1, layers, heads) for name in SCORES}
        return cls(image_ids.copy(), object_ids.copy(), **scores, layers=tuple(numbers.tolist()))


def head_grid(table: pd.DataFrame, column: str = "hi") -> Float[np.ndarray, "layers heads"]:
    """One column of an impact table (:meth:`Impact.table`), laid out by layer and head.

    The table has no row of a layer without attention: up to the last one that has it, such a layer is NaN throughout.

    Raises:
        InputError: a column is missing, or the rows are not every layer x head once, in order.
    """
    missing = [name for name in ("layer", "head", column) if name not in table.columns]
    if missing:
        raise InputError(f"The impact table lacks the columns {', '.join(missing)}: score again.")
    numbers, heads = np.unique(table["layer"]), table["head"].nunique()
    expected = pd.MultiIndex.from_product([numbers, range(heads)])
    if table.empty or not pd.MultiIndex.from_frame(table[["layer", "head"]]).equals(expected):
        raise InputError("The impact table does not hold every layer x head once, in order: score again.")
    grid = np.full((int(numbers[-1]) + 1, heads), np.nan)
    grid[numbers] = table[column].to_numpy(np.float64).reshape(-1, heads)
    return grid


def _keys(image_ids: np.ndarray, object_ids: np.ndarray, numbers: np.ndarray, heads: int) -> pd.DataFrame:
    layers = len(numbers)
    return pd.DataFrame(
        {
            "image_id": np.repeat(image_ids, layers * heads),
            "object_id": np.repeat(object_ids, layers * heads),
            "layer": np.tile(np.repeat(numbers.astype(np.int16), heads), len(image_ids)),
            "head": np.tile(np.arange(heads, dtype=np.int16), len(image_ids) * layers),
        }
    )
