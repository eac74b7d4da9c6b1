"""What is compared: every run of one model on the same test objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from headimpact.errors import InputError
from headimpact.evaluation.metrics import Metric, compared_columns, gain_first

RuleAtK = tuple[str, int]
"""A rule and its K."""

_CONTESTANT = ["rule", "k", "seed", "draw"]
_OBJECT = ["image_id", "object_id"]


@dataclass(frozen=True, eq=False)
class Runs:
    """Every contestant's run of one model, all on the same test objects.

    Attributes:
        rules: the rule of each run, such as ``top``.
        ks: its number of layers.
        seeds: its training seed.
        draws: which draw of layers it is, where a rule draws several; else any one number.
        images: the image of each object.
        adapted: by column of the compared metrics (``nll`` in nats, ``correct``, ``ans_prob`` in 0..1) the runs'
            figures; NaN where an object has no question.
        original: the same of the original.
    """

    rules: tuple[str, ...]
    ks: Int[np.ndarray, " runs"]
    seeds: Int[np.ndarray, " runs"]
    draws: Int[np.ndarray, " runs"]
    images: Int[np.ndarray, " objects"]
    adapted: Mapping[str, Float[np.ndarray, "runs objects"]]
    original: Mapping[str, Float[np.ndarray, " objects"]]

    def having(self, metric: Metric) -> Bool[np.ndarray, " objects"]:
        """Which objects have a metric."""
        return ~np.isnan(self.original[metric.column])

    @property
    def measured(self) -> list[Metric]:
        """The compared metrics that objects of two images at least have."""
        return [m for m in gain_first().values() if len(np.unique(self.images[self.having(m)])) >= 2 or not m.asked]


def from_tables(contestants: pd.DataFrame, original: pd.DataFrame) -> Runs:
    """Runs from one long table: rule, k, seed, draw, image_id, object_id, and the columns of the compared metrics.

    Args:
        contestants: one row a contestant and object, in any order; ``correct`` may be a share (mean over orders of
            options). ``k`` is the K whose budget the run has, so that ``full`` at a matching rank stands beside top-K.
            ``draw`` tells the draws of a rule apart, and is one number, such as 0, for a rule that draws nothing.
        original: one row an object, without the first four columns.

    Raises:
        InputError: a column is missing, a figure is not finite, an object comes twice, or a run holds other
            objects than the original.
    """
    columns = compared_columns()
    _require(contestants, [*_CONTESTANT, *_OBJECT, *columns], "The table of runs")
    _require(original, [*_OBJECT, *columns], "The table of the original")
    if contestants[_CONTESTANT].isna().to_numpy().any():
        raise InputError("The table of runs has a run without a rule, K, seed or draw: write 0 where nothing is drawn.")
    before = _figures(original, columns, "The original")
    adapted: dict[tuple[Any, ...], np.ndarray] = {}
    for key, rows in contestants.groupby(_CONTESTANT, sort=False):
        contestant = cast(tuple[Any, ...], key)
        rule, k, seed, draw = contestant
        name = f"{rule}-{k} (seed {seed}, draw {draw})"
        figures = _figures(rows, columns, name)
        if len(figures) != len(before) or not figures.index.isin(before.index).all():
            raise InputError(f"{name} was evaluated on other objects than the original: evaluate both again.")
        if not before.isna().equals(figures.loc[before.index].isna()):
            raise InputError(f"{name} was asked about other objects than the original: evaluate both again.")
        adapted[contestant] = figures.loc[before.index].to_numpy()
    if not adapted:
        raise InputError("There is no run to compare: run the tournament first.")
    rules, ks, seeds, draws = zip(*adapted, strict=True)
    stacked = np.stack(list(adapted.values()))
    return Runs(
        rules=tuple(map(str, rules)),
        ks=np.array(ks, dtype=np.int64),
        seeds=np.array(seeds, dtype=np.int64),
        draws=np.array(draws, dtype=np.int64),
        images=before.index.get_level_values("image_id").to_numpy(dtype=np.int64),
        adapted={column: stacked[:, :, i] for i, column in enumerate(columns)},
        original={column: before[column].to_numpy() for column in columns},
    )


def _require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    if missing := [column for column in columns if column not in table.columns]:
        raise InputError(f"{what} lacks the columns {', '.join(missing)}: evaluate again.")


def _figures(table: pd.DataFrame, columns: Sequence[str], name: str) -> pd.DataFrame:
    figures = table.set_index(_OBJECT)[list(columns)].astype(np.float64)
    asked = [column for metric in gain_first().values() if metric.asked for column in metric.columns]
    if figures.index.has_duplicates:
        raise InputError(
            f"{name} holds object {figures.index[figures.index.duplicated()][0]} twice: evaluate it again."
        )
    without = figures[asked].isna().all(axis=1) & bool(asked)
    if not np.isfinite(figures[~without].to_numpy()).all() or not np.isfinite(figures.drop(columns=asked)).all(
        axis=None
    ):
        raise InputError(f"{name} holds a figure that is not a finite number: evaluate it again.")
    return figures
