"""The metrics: what is made of the per-object results of an evaluation, each as one entry of ``METRICS``.

To add a metric: write its entry. Evaluation, tables, tournament, tracking and report read this registry; nothing is
trained for it. A metric of a column that :mod:`headimpact.evaluation.objects` does not write yet needs that column
there, too; evaluations made before are then told to be evaluated again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from headimpact import statistics
from headimpact.errors import InputError
from headimpact.statistics import Difference, Estimate


@dataclass(frozen=True)
class Metric:
    """A metric: the mean of a column over objects, or the exponential of that mean.

    Attributes:
        name: as in files and columns.
        label: as people read it.
        column: the column of the per-object results.
        higher_is_better: the direction.
        aspect: whether a change for the better is gain (what was trained for) or a change for the worse is forgetting
            (what was known before); None for a metric that setups are not compared by.
        exponential: the figure is exp of the mean (perplexity, eq. 3); standard errors by the delta method.
        weights: the column of the objects' weights; None where all weigh alike. Such a metric is not compared.
        largest: the largest difference that there can be.
        asked: whether only objects with a question have it: it is measured where two images have one.

    Raises:
        ValueError: a metric with weights has an aspect or is exponential: its differences have no formula here.
    """

    name: str
    label: str
    column: str
    higher_is_better: bool
    aspect: Literal["gain", "forgetting"] | None
    exponential: bool = False
    weights: str | None = None
    largest: float = np.inf
    asked: bool = False

    def __post_init__(self):
        """Refuse what no formula here is for."""
        if self.weights is not None and (self.aspect is not None or self.exponential):
            raise ValueError(f"The metric {self.name} has weights: it can be neither compared nor exponential.")

    @property
    def arrow(self) -> str:
        """The label with its direction, as in ``accuracy ↑``."""
        return f"{self.label} {'↑' if self.higher_is_better else '↓'}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it is computed from, beside ``image_id`` and ``object_id``."""
        return (self.column,) if self.weights is None else (self.column, self.weights)

    def of(self, objects: pd.DataFrame) -> pd.DataFrame:
        """The objects that have it.

        Raises:
            InputError: a column is missing.
        """
        require([self], objects)
        # What is not a number in one of several columns of a question is a fault, and not a question that is missing.
        return objects[objects["correct"].notna()] if self.asked and "correct" in objects else objects

    def is_measured(self, objects: pd.DataFrame) -> bool:
        """Whether the objects of two images at least have it, so that it has a standard error.

        Raises:
            InputError: a column is missing.
        """
        return not self.asked or self.of(objects)["image_id"].nunique() >= 2

    def estimate(self, objects: pd.DataFrame) -> Estimate:
        """The figure with its standard error, clustered by image.

        Raises:
            InputError: a column is missing, or as for :func:`headimpact.statistics.clustered_mean`.
        """
        objects = self.of(objects)
        values, images = _numbers(objects[self.column]), objects["image_id"].to_numpy()
        if self.exponential:
            return statistics.perplexity(values, images)
        if self.weights is not None:
            return statistics.token_nll(values, objects[self.weights].to_numpy(), images)
        return statistics.clustered_mean(values, images)

    def difference(self, objects: pd.DataFrame, original: pd.DataFrame) -> Difference:
        """The paired difference, ``objects`` minus ``original``, with its 95 % confidence interval by image.

        Raises:
            InputError: a column is missing, or the two tables are not of the same objects.
            ValueError: the metric has weights.
        """
        if self.weights is not None:
            raise ValueError(f"The metric {self.name} has weights: its differences have no formula here.")
        objects, original = self.of(objects), self.of(original)
        if objects["object_id"].tolist() != original["object_id"].tolist():
            raise InputError("The original was evaluated on other objects than the setup: evaluate both again.")
        a, b = _numbers(objects[self.column]), _numbers(original[self.column])
        images = objects["image_id"].to_numpy()
        compare = statistics.paired_perplexity_difference if self.exponential else statistics.paired_difference
        return compare(a, b, images)


def _numbers(values: pd.Series) -> np.ndarray:
    """A column without missing values as numpy has it, also where pandas kept room for missing ones."""
    return values.to_numpy(dtype=bool if values.dtype == "boolean" else None)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", "correct", True, "forgetting", largest=1.0, asked=True),
        Metric("ans_prob", "AnsProb", "ans_prob", True, "forgetting", largest=1.0, asked=True),
        Metric("perplexity", "perplexity", "nll", False, "gain", exponential=True),
        Metric("token_nll", "NLL per token", "nll", False, None, weights="tokens"),
    )
}
"""Every metric by name."""

COMPARED: Mapping[str, Metric] = {name: metric for name, metric in METRICS.items() if metric.aspect is not None}
"""Those that setups are compared by, as in table 4."""


def gain_first() -> dict[str, Metric]:
    """The compared metrics by name: those of gain, then those of forgetting, each in the order of ``METRICS``."""
    return dict(sorted(COMPARED.items(), key=lambda item: item[1].aspect != "gain"))


def compared_columns() -> list[str]:
    """The columns that comparing setups needs, each once, in the order of :func:`gain_first`."""
    return list(dict.fromkeys(column for metric in gain_first().values() for column in metric.columns))


def require(metrics: Iterable[Metric], objects: pd.DataFrame, where: str = "The evaluation") -> None:
    """Refuse per-object results that were written before a metric existed.

    Raises:
        InputError: names the metric and what to do.
    """
    for metric in metrics:
        if missing := [name for name in metric.columns if name not in objects]:
            raise InputError(
                f"{where} was made before there was the metric {metric.name}: it lacks {', '.join(missing)}. "
                "Evaluate again: headimpact evaluate."
            )


def estimates(objects: pd.DataFrame) -> dict[str, Estimate]:
    """Every metric of an evaluation that is measured."""
    return {name: metric.estimate(objects) for name, metric in METRICS.items() if metric.is_measured(objects)}


def differences(objects: pd.DataFrame, original: pd.DataFrame) -> dict[str, Difference]:
    """The paired difference of every compared metric that is measured against the original.

    Raises:
        InputError: as for :meth:`Metric.difference`.
    """
    return {
        name: metric.difference(objects, original) for name, metric in COMPARED.items() if metric.is_measured(objects)
    }
