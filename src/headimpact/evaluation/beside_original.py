"""What a setup answered, in figures, beside what the original answered.

The figures of an evaluation are the metrics of :mod:`headimpact.evaluation.metrics`.
"""

from dataclasses import dataclass

import pandas as pd

from headimpact import statistics
from headimpact.errors import InputError
from headimpact.statistics import Difference, Estimate

KINDS = ("caption", "question", "cutout")
"""The whole image and the captioning prompt; the whole image and an open question; the object's box, cut out, and the
captioning prompt: the only one of the three that tells the objects of an image apart."""
SCORES = ("exact_match", "f1", "rouge_l")
"""How near an answer in the model's own words is to a phrase (:class:`headimpact.evaluation.answers.Scores`)."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a setup answered.

    Attributes:
        orders: its questions in every order of their options, as :func:`headimpact.evaluation.orders.table` has them.
        generated: its answers in its own words, rows of :func:`headimpact.evaluation.answers.answer_images` with the
            column ``reference_log_prob``, the same in all rows of an object.
    """

    orders: pd.DataFrame
    generated: pd.DataFrame

    @property
    def figures(self) -> dict[str, pd.Series]:
        """Every figure by name, indexed by image: a value an object, or an image."""
        return order_figures(self.orders) | generated_figures(self.generated)


def order_figures(orders: pd.DataFrame) -> dict[str, pd.Series]:
    """The figures of questions in every order by name, a value an object, indexed by the object's image.

    A label's probability is none where questions have different numbers of labels: it would say what they are.
    """
    columns = {
        "accuracy_24_orders": "correct_all",
        "ans_prob_24_orders": "ans_prob_all",
        "accuracy_1_order": "correct_one",
        "ans_prob_1_order": "ans_prob_one",
        "order_dependent": "changed",
        **{str(name): str(name) for name in orders if str(name).startswith("label_")},
    }
    labels = orders[[name for name in columns if name.startswith("label_")]]
    columns = columns if labels.notna().all(axis=None) else {n: c for n, c in columns.items() if n not in labels}
    indexed = orders.set_index("image_id")
    return {name: indexed[column].astype(float) for name, column in columns.items()}


def generated_figures(generated: pd.DataFrame) -> dict[str, pd.Series]:
    """The figures of generated answers by name, indexed by image.

    ``<kind>_<score>`` has a value an object; ``caption_<score>_best`` and ``question_<score>_best`` one an image: that
    of the phrase which the answer is nearest to. ``reference_log_prob`` has one an object.
    """
    figures: dict[str, pd.Series] = {}
    for kind in KINDS:
        rows = generated[generated["kind"] == kind].set_index("image_id")
        for name in SCORES:
            figures[f"{kind}_{name}"] = rows[name]
            if kind != "cutout":
                figures[f"{kind}_{name}_best"] = rows[name].groupby(level=0).max()
    cutouts = generated[generated["kind"] == "cutout"].set_index("image_id")
    return figures | {"reference_log_prob": cutouts["reference_log_prob"]}


def same_objects(objects: pd.DataFrame, original: pd.DataFrame) -> bool:
    """Whether two tables with a column ``object_id`` are about the same objects, row by row."""
    return objects["object_id"].tolist() == original["object_id"].tolist()


def comparable(answered: Answers, original: Answers) -> bool:
    """Whether both were asked about the same objects."""
    return same_objects(answered.orders, original.orders) and same_objects(answered.generated, original.generated)


def estimates(answered: Answers) -> dict[str, Estimate]:
    """The mean of every figure that two images at least have, with its standard error, clustered by image."""
    return {
        name: statistics.clustered_mean(values.to_numpy(), values.index.to_numpy())
        for name, values in answered.figures.items()
        if values.index.nunique() >= 2
    }


def differences(answered: Answers, original: Answers) -> dict[str, Difference]:
    """The paired difference of every figure that has an estimate, ``answered`` minus ``original``, with its 95 %
    interval by image.

    Raises:
        InputError: the two were asked about different objects.
    """
    if not comparable(answered, original):
        raise InputError(
            "The original was asked about other objects than the setup. Ask it again: headimpact answer --setup "
            "original"
        )
    figures = answered.figures
    return {
        name: statistics.paired_difference(figures[name].to_numpy(), values.to_numpy(), values.index.to_numpy())
        for name, values in original.figures.items()
        if values.index.nunique() >= 2
    }
