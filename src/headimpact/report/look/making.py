"""From a model and images to the page: what is looked at, original beside adapter, within the size of a page."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from headimpact.adapters import switching
from headimpact.data.memory import MemorySample
from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine
from headimpact.engine.generation import generate
from headimpact.engine.watch import Watch, unwatched
from headimpact.errors import InputError
from headimpact.impact.object_maps import Look, Subject, look, subject_without_masks, subjects_of
from headimpact.impact.scoring import Skipped
from headimpact.report.look.page import Told, html
from headimpact.vlm.conversations import Conversation

ORIGINAL = "original"
MOST_BYTES = 64_000_000
"""Of attention in a page, before it is deflated to about a third; a browser holds all of it."""


@dataclass(frozen=True, eq=False)
class Looked:
    """What was looked at and what was seen.

    Attributes:
        engine: the model.
        subjects: the images that are shown.
        looks: by name, original first.
        notes: for the reader: what of it is not shown, and why.
        skipped: objects that cannot be shown.
    """

    engine: Engine
    subjects: Sequence[Subject]
    looks: dict[str, Look]
    notes: Sequence[str]
    skipped: Sequence[Skipped]

    @property
    def objects(self) -> int:
        """Objects, or words without a mask, of all images."""
        return sum(len(subject.words) for subject in self.subjects)

    def html(self, title: str, facts: Sequence[tuple[str, str]]) -> str:
        """The page.

        Raises:
            InputError: an image cannot be read.
        """
        vlm, masked = self.engine.vlm, self.subjects[0].words[0].mask is not None
        counted = f"{len(self.subjects)}, with {self.objects} objects"
        size = ("layers x heads", f"{len(vlm.attention_layers)} x {vlm.heads}")
        told = Told(title, [*facts, *([("images", counted)] if masked else []), size], self.notes)
        return html(told, vlm, self.subjects, self.looks)


def of_samples(
    engine: Engine, samples: Sequence[Sample], threshold: float, adapter: str = "adapter", watch: Watch = unwatched
) -> Looked:
    """Look at images with masks.

    Args:
        engine: the model; an adapter that is attached to it is shown beside the original.
        samples: the images.
        threshold: coverage from which a visual token belongs to an object.
        adapter: what it is called.
        watch: shows the images.

    Raises:
        InputError: no object can be shown, or an image cannot be read.
    """
    subjects, skipped = subjects_of(engine.vlm, samples, threshold)
    if not subjects:
        reasons = "; ".join(sorted({one.reason for one in skipped})) or "no image has an object"
        raise InputError(f"There is nothing to look at: {reasons}.")
    return _look(engine, subjects, skipped, adapter, [], watch)


def of_picture(
    engine: Engine,
    picture: Image.Image,
    phrases: Sequence[str] = (),
    question: str | None = None,
    max_new_tokens: int = 32,
    adapter: str = "adapter",
) -> Looked:
    """Look at a picture of which nobody knows where anything is: attention alone.

    Args:
        engine: as for :func:`of_samples`.
        picture: in RGB.
        phrases: what the model says to be in it; or
        question: what it is asked, and answers itself: the original and the adapter, and both are shown both answers.
        max_new_tokens: of an answer.
        adapter: what it is called.

    Raises:
        InputError: neither phrases nor a question, or both; a phrase is empty; or the answer is.
    """
    if bool(phrases) == (question is not None):
        raise InputError("A picture is looked at with phrases, or with a question that the model answers itself.")
    if not all(text.strip() for text in (*phrases, *([question] if question is not None else []))):
        raise InputError("The phrase or question is empty: say in words what to look for, or what to ask.")
    sample = MemorySample(0, Path("picture"), *picture.size, (), picture)
    vlm, notes = engine.vlm, ["Nobody said where anything is in this picture, so there is no IoU: attention alone."]
    if question is None:
        said = {phrase: vlm.caption(phrase) for phrase in phrases}
    else:
        said = _answers(engine, picture, question, max_new_tokens, adapter)
        notes.append(f"Asked: {question.strip()}")
    return _look(engine, [subject_without_masks(vlm, sample, said)], [], adapter, notes, unwatched)


def _answers(
    engine: Engine, picture: Image.Image, question: str, max_new_tokens: int, adapter: str
) -> dict[str, Conversation]:
    answers: dict[str, str] = {}
    for name, switched in _variants(engine, adapter):
        with switched():
            (answers[name],) = generate(engine, [question], lambda text: (picture, text), max_new_tokens)
        if not answers[name]:
            raise InputError(f"To this question {name} of {engine.vlm.source} answers nothing: ask another.")
    texts = list(dict.fromkeys(answers.values()))
    speakers = {text: [name for name, answer in answers.items() if answer == text] for text in texts}
    return {f"{' and '.join(speakers[text])}: {text}": Conversation(question, text, (0, len(text))) for text in texts}


def _variants(engine: Engine, adapter: str) -> list[tuple[str, Callable[[], AbstractContextManager[None]]]]:
    """What the model is, and how it becomes that for a block."""
    model = engine.vlm.model
    original = (ORIGINAL, lambda: switching.original(model))
    return [original, (adapter, nullcontext)] if switching.is_adapted(model) else [original]


def _look(
    engine: Engine,
    subjects: Sequence[Subject],
    skipped: Sequence[Skipped],
    adapter: str,
    notes: Sequence[str],
    watch: Watch,
) -> Looked:
    variants = _variants(engine, adapter)
    shown, pieces, more = fit(subjects, len(engine.vlm.attention_layers) * (engine.vlm.heads + 1) * len(variants))
    looks: dict[str, Look] = {}
    for name, switched in variants:
        top = looks[ORIGINAL].top if looks else None
        with switched():
            looks[name] = look(engine, shown, pieces, top, watch)
    return Looked(engine, shown, looks, [*notes, *more], skipped)


def fit(subjects: Sequence[Subject], rows: int) -> tuple[Sequence[Subject], bool, list[str]]:
    """What fits into a page: first the maps of single tokens are left out, then images from the end.

    Args:
        subjects: the images.
        rows: maps of a phrase, of all models together.

    Returns:
        The images that are shown; whether single tokens are; and what a reader should know of the rest.
    """
    whole = [len(s.words) * rows * s.grid.tokens * 9 // 8 for s in subjects]
    split = [sum(1 + len(words.pieces) for words in s.words) * rows * s.grid.tokens * 9 // 8 for s in subjects]
    if sum(split) <= MOST_BYTES:
        return subjects, True, []
    count = len(subjects)
    while count > 1 and sum(whole[:count]) > MOST_BYTES:
        count -= 1
    notes = ["The page would be too large with each token of a phrase: whole phrases alone. Look at fewer images."]
    if count < len(subjects):
        notes.append(f"The page would be too large with all {len(subjects)} images: the first {count} are shown.")
    return subjects[:count], False, notes
