"""The questions that measure what a model still knows: one an object, of four options where there are as many."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headimpact.data.samples import Sample
from headimpact.text import listed, normalise
from headimpact.vlm.conversations import OPTION_LABELS

MOST = len(OPTION_LABELS)
QUESTIONS = "questions"
"""What results.json has :meth:`Asked.to_dict` under, where not every object has a question of :data:`MOST` options."""
NOT_MEASURED = "not measured: fewer than two test images have a question"


@dataclass(frozen=True)
class Question:
    """Options about an object: its own phrase and phrases of other images, three where there are as many."""

    options: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Asked:
    """How much the questions of some objects can measure.

    Attributes:
        objects: all of them.
        options: how many questions have each number of options; an object with no false phrase has no question.
    """

    objects: int
    options: Mapping[int, int]

    @property
    def questions(self) -> int:
        """Objects that have a question."""
        return sum(self.options.values())

    @property
    def usual(self) -> bool:
        """Whether every object has a question of four options."""
        return self.options.get(MOST, 0) == self.objects

    @property
    def chance(self) -> float:
        """The accuracy of guessing; NaN without a question."""
        return sum(count / number for number, count in self.options.items()) / (self.questions or np.nan)

    def to_dict(self) -> dict[str, Any]:
        """As results.json has it."""
        return {
            "objects": self.objects,
            "options": {str(number): count for number, count in sorted(self.options.items())},
            "chance": self.chance if self.questions else None,
            "told": str(self),
        }

    def __str__(self) -> str:
        """In words."""
        if not self.questions:
            return f"none: no image of {self.objects} objects lacks a phrase that another one has"
        kinds = listed([f"{count} of {number} options" for number, count in sorted(self.options.items())])
        without = self.objects - self.questions
        return f"{kinds}{f', {without} objects without' if without else ''} (guessing is right in {self.chance:.3f})"


def draw_questions(samples: Sequence[Sample], seed: int) -> dict[int, Question]:
    """A question about each object, by object id; none about those of an image that has every phrase there is.

    The false options are phrases of other images that are not also true of this image (:func:`normalise` compares),
    all different: three, or as many as there are. Everything random derives from ``(seed, object id)``.
    """
    same = {obj.phrase: normalise(obj.phrase) for sample in samples for obj in sample.objects}
    everything = {same[phrase]: phrase for phrase in sorted(same)}
    phrases = sorted(everything)
    places = {phrase: place for place, phrase in enumerate(phrases)}
    questions = {}
    for sample in samples:
        true_here = sorted({places[same[obj.phrase]] for obj in sample.objects})
        false_here = len(phrases) - len(true_here)
        if not (count := min(false_here, MOST - 1)):
            continue
        for obj in sample.objects:
            rng = np.random.default_rng([seed, obj.id])
            drawn = rng.choice(false_here, size=count, replace=False).tolist()
            options = [everything[phrases[_leaving_out(true_here, i)]] for i in drawn]
            label = int(rng.integers(count + 1))
            options.insert(label, obj.phrase)
            questions[obj.id] = Question(tuple(options), label)
    return questions


def _leaving_out(ascending: Sequence[int], index: int) -> int:
    """The number at an index among all those from 0 on that are not left out."""
    for number in ascending:
        index += number <= index
    return index


def asked(samples: Sequence[Sample], questions: Mapping[int, Question]) -> Asked:
    """How much these questions can measure of the objects of ``samples``."""
    ids = [obj.id for sample in samples for obj in sample.objects]
    return Asked(len(ids), Counter(len(questions[number].options) for number in ids if number in questions))
