"""Questions asked in every order of their options: what a model chooses, free of where it stands.

Asked in one order alone, a model that prefers a label or a place gains or loses by where the truth happens to stand.
Over all orders every option stands beside every label equally often.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy import special
from torch import Tensor

from headimpact.data.samples import Sample
from headimpact.engine import likelihood
from headimpact.engine.forward import Engine, Forward, Loaded, Prepare, Prepared
from headimpact.engine.portions import Arrays, go_over, join
from headimpact.engine.watch import Watch, unwatched
from headimpact.errors import InputError
from headimpact.evaluation.questions import Question
from headimpact.vlm.base import Vlm
from headimpact.vlm.conversations import OPTION_LABELS
from headimpact.vlm.tokengrid import TokenGrid


def every_order(options: int) -> Int[np.ndarray, "orders labels"]:
    """Which option stands beside each label; the first is the order in which a question was drawn."""
    return np.array(list(itertools.permutations(range(options))))


ORDERS = every_order(len(OPTION_LABELS))
"""Those of four options."""


@dataclass(frozen=True, eq=False)
class OrderAnswers:
    """One question an object, asked in several orders of its options; every figure is over those orders.

    Over all orders a model that looks at the options alone has ``changed`` false and the same ``label_prob``, one over
    their number, for every label.

    Attributes:
        correct: share of orders answered truly.
        ans_prob: mean probability of the true option's label among the labels.
        changed: whether the chosen option depends on the order.
        label_prob: mean probability of each label.
    """

    correct: Float[np.ndarray, " objects"]
    ans_prob: Float[np.ndarray, " objects"]
    changed: Bool[np.ndarray, " objects"]
    label_prob: Float[np.ndarray, "objects labels"]


def answer_orders(
    log_probs: Float[np.ndarray, "objects orders labels"],
    orders: Int[np.ndarray, "_orders _labels"],
    truth: Int[np.ndarray, " _objects"],
) -> OrderAnswers:
    """What a model makes of every object's question over several orders of the options.

    Args:
        log_probs: of the label tokens, in nats; any constant may be missing, they are normalised over labels.
        orders: which option (from 0) stands beside each label.
        truth: the true option of each object. Of equally probable labels the first is chosen.

    Raises:
        InputError: a row of ``orders`` is no order of the options, ``truth`` names no option, the lengths differ,
            or a log-probability is not finite.
    """
    objects, count, labels = log_probs.shape
    if orders.shape != (count, labels) or truth.shape != (objects,):
        raise InputError(
            f"Log-probabilities of {objects} objects x {count} orders x {labels} labels do not fit {orders.shape[0]} "
            f"orders of {orders.shape[1]} options and {len(truth)} answers."
        )
    if (np.sort(orders, 1) != np.arange(labels)).any():
        raise InputError(f"Every order must hold each option from 0 to {labels - 1} once.")
    if ((truth < 0) | (truth >= labels)).any():
        raise InputError(f"The true option must be one of 0 to {labels - 1}.")
    if not np.isfinite(log_probs).all():
        where = int(np.argwhere(~np.isfinite(log_probs))[0, 0])
        raise InputError(f"A log-probability of object {where} (counted from 0) is not a finite number.")
    shares = special.softmax(log_probs.astype(np.float64), axis=2)
    label_of = np.argsort(orders, 1)[:, truth].T
    chosen = orders[np.arange(count), shares.argmax(2)]
    return OrderAnswers(
        correct=(chosen == truth[:, None]).mean(1),
        ans_prob=np.take_along_axis(shares, label_of[:, :, None], 2).mean((1, 2)),
        changed=(chosen != chosen[:, :1]).any(1),
        label_prob=shares.mean(1),
    )


def ask_in_orders(
    engine: Engine,
    samples: Sequence[Sample],
    questions: Mapping[int, Question],
    orders: Int[np.ndarray, "_orders _labels"] = ORDERS,
    watch: Watch = unwatched,
) -> Float[np.ndarray, "objects _orders _labels"]:
    """Log-probability (nats) of every option label, for every object of some images and every order.

    Args:
        engine: the base.
        samples: images; their objects come out in order.
        questions: by object id, all of as many options as ``orders`` has labels.
        orders: which option of the question stands beside each label.
        watch: shows the images.
    """

    def compute(images: Iterator[Loaded[list[Tensor]]]) -> Arrays:
        read = engine.read(images, _label_log_probabilities)
        return join({"log_probs": torch.stack(of_image).numpy()} for _, of_image in read)

    prepare = _in_orders(engine.vlm, questions, orders)
    found = join(go_over(engine, samples, prepare, compute, watch, "asking in all orders"))
    if not found:
        return np.zeros((0, *orders.shape))
    return found["log_probs"].reshape(-1, *orders.shape)


def _in_orders(
    vlm: Vlm, questions: Mapping[int, Question], orders: Int[np.ndarray, "_orders _labels"]
) -> Prepare[list[Tensor]]:
    """Prepares the question about every object in every order; the facts are, for each, the token of each label, which
    is the same in all: what stands before an answer is the template's."""

    def prepare(sample: Sample, grid: TokenGrid) -> Prepared[list[Tensor]] | None:
        conversations, labels = [], []
        for obj in sample.objects:
            options = questions[obj.id].options
            _, ids = vlm.question_tokens(options, 0, grid)
            ordered = [[options[option] for option in order] for order in orders]
            conversations += [vlm.tokenize(vlm.question(listed, OPTION_LABELS[0]), grid) for listed in ordered]
            labels += [ids] * len(orders)
        return Prepared(sample, conversations, labels) if conversations else None

    return prepare


@torch.inference_mode()
def _label_log_probabilities(forward: Forward[list[Tensor]]) -> list[Tensor]:
    packed = forward.packed
    labels = [forward.images[image].prepared.facts[index] for image, index in packed.members]
    found = likelihood.option_log_probabilities(forward.engine.vlm, packed, forward.hidden(), labels)
    return list(found.cpu())


def answer_questions(
    engine: Engine, samples: Sequence[Sample], questions: Mapping[int, Question], watch: Watch = unwatched
) -> pd.DataFrame:
    """The :func:`table` of every object that has a question, asked in all orders of its options.

    Args:
        engine: the base.
        samples: images.
        questions: by object id; of any number of options.
        watch: shows the images.
    """
    tables = [
        table(chosen, questions, ask_in_orders(engine, chosen, questions, every_order(options), watch), options)
        for options, chosen in _by_options(samples, questions).items()
    ]
    if len(tables) == 1:
        return tables[0]
    place = {obj.id: place for place, obj in enumerate(obj for sample in samples for obj in sample.objects)}
    return pd.concat(tables, ignore_index=True).sort_values("object_id", key=lambda ids: ids.map(place), kind="stable")


def _by_options(samples: Sequence[Sample], questions: Mapping[int, Question]) -> dict[int, Sequence[Sample]]:
    """By number of options, the images with the objects that have such a question; where there is none, no image."""
    options = {obj.id: len(questions[obj.id].options) for s in samples for obj in s.objects if obj.id in questions}
    if set(options.values()) == {len(OPTION_LABELS)} and all(obj.id in options for s in samples for obj in s.objects):
        return {len(OPTION_LABELS): samples}
    chosen: dict[int, list[Sample]] = {number: [] for number in sorted(set(options.values())) or [len(OPTION_LABELS)]}
    for number, images in chosen.items():
        for sample in samples:
            objects = tuple(obj for obj in sample.objects if options.get(obj.id) == number)
            images += [replace(sample, objects=objects)] if objects else []
    return dict(chosen)


def table(
    samples: Sequence[Sample],
    questions: Mapping[int, Question],
    log_probs: Float[np.ndarray, "objects orders labels"],
    options: int = len(OPTION_LABELS),
) -> pd.DataFrame:
    """One row an object: what it makes of its question in the order it was drawn in, and in :func:`every_order` of its
    ``options``.

    Columns: image_id, object_id, phrase; ``correct_one`` and ``ans_prob_one`` of the order drawn; ``correct_all``,
    ``ans_prob_all``, ``changed`` and ``label_A`` ... ``label_D`` (one an option) over all, as :class:`OrderAnswers` has
    them.
    """
    objects = [(sample.id, obj) for sample in samples for obj in sample.objects]
    truth = np.array([questions[obj.id].label for _, obj in objects], dtype=np.int64)
    orders = every_order(options)
    one = answer_orders(log_probs[:, :1], orders[:1], truth)
    every = answer_orders(log_probs, orders, truth)
    return pd.DataFrame(
        {
            "image_id": [image_id for image_id, _ in objects],
            "object_id": [obj.id for _, obj in objects],
            "phrase": [obj.phrase for _, obj in objects],
            "correct_one": one.correct,
            "ans_prob_one": one.ans_prob,
            "correct_all": every.correct,
            "ans_prob_all": every.ans_prob,
            "changed": every.changed,
            **{f"label_{label}": every.label_prob[:, index] for index, label in enumerate(OPTION_LABELS[:options])},
        }
    )
