"""What a model makes of every object: probability of its phrase, and its choice among four options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headimpact.data.samples import KeyObject, Sample
from headimpact.engine import likelihood
from headimpact.errors import InputError
from headimpact.text import normalise
from headimpact.vlm import packing
from headimpact.vlm.base import OPTION_LABELS, Vlm
from headimpact.vlm.packing import Tokens


@dataclass(frozen=True)
class Question:
    """Four options about an object: its own phrase and three of other images."""

    options: tuple[str, ...]
    label: int


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


def draw_questions(samples: Sequence[Sample], seed: int) -> dict[int, Question]:
    """One question per object, by object id.

    The three false options are phrases of other images that are not also true of this image (normalised text is
    compared), all different. Everything random derives from ``(seed, object id)``.

    Raises:
        InputError: too few different phrases to find three false ones.
    """
    written = sorted({obj.phrase for sample in samples for obj in sample.objects})
    everything = {normalise(phrase): phrase for phrase in written}
    phrases = sorted(everything)
    questions = {}
    for sample in samples:
        true_here = {normalise(obj.phrase) for obj in sample.objects}
        false_here = [phrase for phrase in phrases if phrase not in true_here]
        if len(false_here) < len(OPTION_LABELS) - 1:
            raise InputError(f"Too few different phrases to ask about image {sample.id}: {len(false_here)} false ones.")
        for obj in sample.objects:
            rng = np.random.default_rng([seed, obj.id])
            drawn = rng.choice(len(false_here), size=len(OPTION_LABELS) - 1, replace=False)
            options = [everything[false_here[i]] for i in drawn]
            label = int(rng.integers(len(OPTION_LABELS)))
            options.insert(label, obj.phrase)
            questions[obj.id] = Question(tuple(options), label)
    return questions


@torch.inference_mode()
def evaluate_images(vlm: Vlm, samples: Sequence[Sample], questions: Mapping[int, Question]) -> list[ObjectResult]:
    """Describe and ask, for every object of a few images, in as few forwards as the attention allows."""
    encoded = [vlm.encode_image(sample.image()) for sample in samples]
    talks: list[list[Tokens]] = []
    labels: list[torch.Tensor | None] = []
    for sample, image in zip(samples, encoded, strict=True):
        captions = [vlm.tokenize(vlm.caption(obj.phrase), image.grid) for obj in sample.objects]
        asked = [
            vlm.question_tokens(questions[obj.id].options, questions[obj.id].label, image.grid)
            for obj in sample.objects
        ]
        talks.append([*captions, *(tokens for tokens, _ in asked)])
        labels += [None] * len(captions) + [ids for _, ids in asked]
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
