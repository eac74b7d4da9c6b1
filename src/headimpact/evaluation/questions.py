"""The four-option questions that measure what a model still knows: one an object."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headimpact.data.samples import Sample
from headimpact.errors import InputError
from headimpact.text import normalise
from headimpact.vlm.conversations import OPTION_LABELS


@dataclass(frozen=True)
class Question:
    """Four options about an object: its own phrase and three of other images."""

    options: tuple[str, ...]
    label: int


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
