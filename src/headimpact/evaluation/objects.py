"""What a model makes of every object: probability of its phrase, and its choice among four options."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch

from headimpact.data.samples import KeyObject, Sample
from headimpact.engine import likelihood
from headimpact.engine.phrases import batches
from headimpact.engine.watch import Watch
from headimpact.evaluation.questions import Question, draw_questions
from headimpact.vlm import packing
from headimpact.vlm.base import Vlm
from headimpact.vlm.packing import Tokens


@dataclass(frozen=True)
class ObjectResult:
    """One object's figures.

    Attributes:
        nll: mean negative log-probability over the description tokens, in nats.
        answer: index of the true option.
        chosen: index of the most probable label.
        ans_prob: the true label's share of the four labels' probability, in [0, 1].
    """

    image_id: int
    object_id: int
    phrase: str
    tokens: int
    nll: float
    answer: int
    chosen: int
    correct: bool
    ans_prob: float


def evaluate(vlm: Vlm, samples: Sequence[Sample], seed: int, batch_images: int, watch: Watch) -> pd.DataFrame:
    """What a model, with whatever adapter is attached to it, makes of a part: one row an object.

    Args:
        vlm: the model.
        samples: the part.
        seed: draws the questions.
        batch_images: images in a forward.
        watch: shows the batches.

    Returns:
        The columns of :class:`ObjectResult`, in the order of the samples and of their objects.

    Raises:
        InputError: as for :func:`headimpact.evaluation.questions.draw_questions`.
    """
    questions = draw_questions(samples, seed)
    groups = list(batches(samples, batch_images))
    rows: Iterator[Any] = (
        asdict(result)
        for group in watch(groups, len(groups), "evaluating")
        for result in evaluate_images(vlm, group, questions)
    )
    return pd.DataFrame(rows)


@torch.inference_mode()
def evaluate_images(vlm: Vlm, samples: Sequence[Sample], questions: Mapping[int, Question]) -> list[ObjectResult]:
    """Describe and ask, for every object of a few images, in as few forwards as the attention allows."""
    encoded = [vlm.encode_image(sample.image()) for sample in samples]
    talks: list[list[Tokens]] = []
    labels: list[torch.Tensor | None] = []
    for sample, image in zip(samples, encoded, strict=True):
        captions = [vlm.tokenize(vlm.caption(obj.phrase), image.grid) for obj in sample.objects]
        questioned = [
            vlm.question_tokens(questions[obj.id].options, questions[obj.id].label, image.grid)
            for obj in sample.objects
        ]
        talks.append([*captions, *(tokens for tokens, _ in questioned)])
        labels += [None] * len(captions) + [ids for _, ids in questioned]
    features = vlm.image_features(encoded)
    packed = packing.pack_images(talks, vlm.bidirectional_prompt)
    hidden = vlm.hidden_states(packed.batch, [features[image] for image in packed.images])
    nothing = torch.empty(0, dtype=torch.long)
    everything = [tokens for talk in talks for tokens in talk]
    targets = [tokens.target if ids is None else nothing for tokens, ids in zip(everything, labels, strict=True)]
    described = [p for p in likelihood.log_probabilities(vlm, packed, hidden, targets) if len(p)]
    options = likelihood.option_log_probabilities(vlm, packed, hidden, labels).softmax(dim=1)
    objects = [(sample, obj) for sample in samples for obj in sample.objects]
    return [
        _result(sample, obj, questions[obj.id], log_probs, shares)
        for (sample, obj), log_probs, shares in zip(objects, described, options, strict=True)
    ]


def _result(
    sample: Sample, obj: KeyObject, question: Question, log_probs: torch.Tensor, shares: torch.Tensor
) -> ObjectResult:
    chosen = int(shares.argmax())
    return ObjectResult(
        image_id=sample.id,
        object_id=obj.id,
        phrase=obj.phrase,
        tokens=len(log_probs),
        nll=-float(log_probs.mean()),
        answer=question.label,
        chosen=chosen,
        correct=chosen == question.label,
        ans_prob=float(shares[question.label]),
    )
