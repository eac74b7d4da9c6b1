"""Open-ended answers: what a model says of an image and of each object cut out of it, scored against the phrases."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image

from headimpact.data.samples import KeyObject, Sample
from headimpact.engine.forward import Engine, Loaded
from headimpact.engine.generation import generate
from headimpact.engine.phrases import captions, phrase_nll
from headimpact.engine.portions import go_over
from headimpact.engine.watch import Watch, unwatched
from headimpact.text import ARTICLES, words
from headimpact.vlm.base import Vlm
from headimpact.vlm.conversations import OPTION_LABELS

OPEN_QUESTION = "What is shown in this photo?"
_LEAST_SIDE = 28  # pixels of a cut-out


@dataclass(frozen=True)
class Scores:
    """How near an answer is to a phrase, each in [0, 1].

    Attributes:
        exact_match: whether their words are the same but for articles (as SQuAD compares).
        f1: of their words, compared in the same way.
        rouge_l: F-measure of their longest common subsequence of words.

    Words are those of :func:`headimpact.text.words`, so that the scores hold in any script.
    """

    exact_match: float
    f1: float
    rouge_l: float


def score(answer: str, phrase: str) -> Scores:
    """Score an answer against a phrase with torchmetrics."""
    from torchmetrics.functional.text import rouge_score, squad  # takes seconds to import

    # torchmetrics knows the words of English alone: it is given numbers in their place.
    numbers = defaultdict[str, str](lambda: f"w{len(numbers)}")
    said, meant = ([numbers[word] for word in words(text)] for text in (answer, phrase))
    articles = {numbers[article] for article in ARTICLES}
    plain = [" ".join(word for word in of if word not in articles) for of in (said, meant)]
    predictions = [{"prediction_text": plain[0], "id": ""}]
    references = [{"answers": {"text": [plain[1]], "answer_start": [0]}, "id": ""}]
    compared = squad(predictions, references)
    rouge = rouge_score(" ".join(said), " ".join(meant), rouge_keys="rougeL")
    return Scores(float(compared["exact_match"]) / 100, float(compared["f1"]) / 100, float(rouge["rougeL_fmeasure"]))


def caption_prompt(vlm: Vlm) -> str:
    """What the family is asked for a description."""
    return vlm.caption("").user


def open_question(vlm: Vlm) -> str:
    """The family's four-option question without its options; where it asks in no words (PaliGemma's ``answer en``),
    with those of the others."""
    line, _, _ = vlm.question((), OPTION_LABELS[0]).user.partition("\n")
    return line if line.endswith("?") else f"{line} {OPEN_QUESTION}"


def without_frame(vlm: Vlm, text: str) -> str:
    """What an answer says in the place where a caption of the family has its phrase: without *This is a photo of*."""
    frame = vlm.caption("")
    start, stop = frame.target
    return text.removeprefix(frame.answer[:start]).removesuffix(frame.answer[stop:])


def cutout(image: Image.Image, obj: KeyObject) -> Image.Image:
    """The object's box, cut out of its image; a box that is too small or too narrow for an image processor is grown."""
    left, top, width, height = obj.bbox
    least = max(_LEAST_SIDE, max(width, height) / 10)
    across, down = max(least - width, 0) / 2, max(least - height, 0) / 2
    box = (
        max(round(left - across), 0),
        max(round(top - down), 0),
        min(round(left + width + across), image.width),
        min(round(top + height + down), image.height),
    )
    return image.crop(box)


def answer_images(
    engine: Engine, samples: Sequence[Sample], max_new_tokens: int, watch: Watch = unwatched
) -> pd.DataFrame:
    """What a model says of images, a row for each of ``beside_original.KINDS`` and object, greedily as it is served.

    Columns: image_id, object_id, phrase, kind, prompt; ``text`` as generated (of caption and question the same for all
    objects of an image) and ``answer``, which is scored: the text without the caption's frame;
    ``beside_original.SCORES``.

    Args:
        engine: the base.
        samples: the images.
        max_new_tokens: longer answers are cut off.
        watch: shows the answers.

    Raises:
        InputError: an image cannot be read.
    """
    vlm = engine.vlm
    describe, ask = caption_prompt(vlm), open_question(vlm)
    asked = [
        one
        for sample in samples
        for one in [(sample, None, describe), (sample, None, ask), *_cutouts(sample, describe)]
    ]
    texts = generate(engine, asked, _picture, max_new_tokens, watch)
    rows: list[dict[str, object]] = []
    for sample in samples:
        whole = {"caption": (describe, next(texts)), "question": (ask, next(texts))}
        for obj in sample.objects:
            said = whole | {"cutout": (describe, next(texts))}
            rows += [_row(vlm, sample, obj, kind, prompt, text) for kind, (prompt, text) in said.items()]
    return pd.DataFrame(rows)


def _cutouts(sample: Sample, prompt: str) -> list[tuple[Sample, KeyObject | None, str]]:
    return [(sample, obj, prompt) for obj in sample.objects]


def _picture(asked: tuple[Sample, KeyObject | None, str]) -> tuple[Image.Image, str]:
    sample, obj, prompt = asked
    return cutout(sample.image(), obj) if obj else sample.image(), prompt


def _row(vlm: Vlm, sample: Sample, obj: KeyObject, kind: str, prompt: str, text: str) -> dict[str, object]:
    row = {"image_id": sample.id, "object_id": obj.id, "phrase": obj.phrase, "kind": kind, "prompt": prompt}
    answer = without_frame(vlm, text)
    return row | {"text": text, "answer": answer} | vars(score(answer, obj.phrase))


def reference_log_prob(engine: Engine, samples: Sequence[Sample]) -> pd.Series:
    """Mean log-probability (nats a token) of every object's phrase as the caption of its image, by object id."""

    def compute(images: Iterator[Loaded[None]]) -> dict[int, float]:
        return {obj.id: -nll for _, obj, nll, _ in phrase_nll(engine, images)}

    found: dict[int, float] = {}
    for of_portion in go_over(engine, samples, captions(engine.vlm), compute):
        found |= of_portion
    return pd.Series(found, name="reference_log_prob")
