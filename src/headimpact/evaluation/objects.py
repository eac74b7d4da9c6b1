"""What a model makes of every object: probability of its phrase, and its choice among the options of its question."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from headimpact.data.samples import KeyObject, Sample
from headimpact.engine import likelihood
from headimpact.engine.forward import Engine, Forward, Loaded, Prepare, Prepared
from headimpact.engine.portions import go_over
from headimpact.engine.watch import Watch
from headimpact.evaluation.questions import Question, draw_questions
from headimpact.vlm.base import Vlm
from headimpact.vlm.tokengrid import TokenGrid


@dataclass(frozen=True)
class ObjectResult:
    """One object's figures; what is about its question is missing where it has none.

    Attributes:
        nll: mean negative log-probability over the description tokens, in nats.
        answer: index of the true option.
        chosen: index of the most probable label.
        ans_prob: the true label's share of all its labels' probability, in [0, 1].
    """

    image_id: int
    object_id: int
    phrase: str
    tokens: int
    nll: float
    answer: int | None
    chosen: int | None
    correct: bool | None
    ans_prob: float | None


_NULLABLE = {"answer": "Int64", "chosen": "Int64", "correct": "boolean", "ans_prob": "float64"}
"""Types of the columns of questions, where some object has none."""


def evaluate(engine: Engine, samples: Sequence[Sample], seed: int, watch: Watch) -> pd.DataFrame:
    """What a base, with whatever adapter is attached to it, makes of a part: one row an object.

    Args:
        engine: the base.
        samples: the part.
        seed: draws the questions.
        watch: shows the images.

    Returns:
        The columns of :class:`ObjectResult`, in the order of the samples and of their objects.

    """
    questions = draw_questions(samples, seed)

    def compute(images: Iterator[Loaded[list[Tensor | None]]]) -> list[ObjectResult]:
        return [result for read in engine.read(images, _read) for result in _results(*read, questions)]

    prepare = _described_and_asked(engine.vlm, questions)
    portions = go_over(engine, samples, prepare, compute, watch, "evaluating")
    rows: Iterator[Any] = (asdict(result) for results in portions for result in results)
    table = pd.DataFrame(rows)
    return table.astype(_NULLABLE) if table["answer"].isna().any() else table


def _described_and_asked(vlm: Vlm, questions: Mapping[int, Question]) -> Prepare[list[Tensor | None]]:
    """Prepares the captions of an image's objects and then the questions; the facts are the tokens of the labels."""

    def prepare(sample: Sample, grid: TokenGrid) -> Prepared[list[Tensor | None]] | None:
        if not sample.objects:
            return None
        captions = [vlm.tokenize(vlm.caption(obj.phrase), grid) for obj in sample.objects]
        of_sample = [questions[obj.id] for obj in sample.objects if obj.id in questions]
        asked = [vlm.question_tokens(question.options, question.label, grid) for question in of_sample]
        labels = [*(None for _ in captions), *(ids for _, ids in asked)]
        return Prepared(sample, [*captions, *(tokens for tokens, _ in asked)], labels)

    return prepare


@torch.inference_mode()
def _read(forward: Forward[list[Tensor | None]]) -> list[Tensor]:
    """Of a caption the log-probabilities of its description tokens, of a question the shares of its labels."""
    vlm, packed, hidden = forward.engine.vlm, forward.packed, forward.hidden()
    labels = [forward.images[image].prepared.facts[index] for image, index in packed.members]
    nothing = torch.empty(0, dtype=torch.long)
    targets = [tokens.target if ids is None else nothing for tokens, ids in zip(packed.tokens, labels, strict=True)]
    described = likelihood.log_probabilities(vlm, packed, hidden, targets)
    shares = iter(likelihood.option_log_probabilities(vlm, packed, hidden, labels).softmax(dim=1))
    return [(of if ids is None else next(shares)).cpu() for of, ids in zip(described, labels, strict=True)]


def _results(prepared: Prepared, read: Sequence[Tensor], questions: Mapping[int, Question]) -> Iterator[ObjectResult]:
    objects = prepared.sample.objects
    shares = iter(read[len(objects) :])
    for obj, log_probs in zip(objects, read, strict=False):
        question = questions.get(obj.id)
        yield _result(prepared.sample, obj, log_probs, question, next(shares) if question else None)


def _result(
    sample: Sample, obj: KeyObject, log_probs: Tensor, question: Question | None, shares: Tensor | None
) -> ObjectResult:
    chosen = None if shares is None else int(shares.argmax())
    return ObjectResult(
        image_id=sample.id,
        object_id=obj.id,
        phrase=obj.phrase,
        tokens=len(log_probs),
        nll=-float(log_probs.mean()),
        answer=question.label if question else None,
        chosen=chosen,
        correct=chosen == question.label if question else None,
        ans_prob=float(shares[question.label]) if question and shares is not None else None,
    )
