"""What a dataset will and will not measure, told before anything is trained."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from headimpact.data.coco import PARTS
from headimpact.data.packed import PackedSamples
from headimpact.data.samples import Sample
from headimpact.data.split import split_in_proportion
from headimpact.errors import InputError
from headimpact.evaluation.questions import Asked, asked, draw_questions

_WANTED = 0.1  # half width of accuracy's interval
_FEW = 10
"""Images of the impact part: with as many, 2.9 to 3.9 of the top four layers of the embedded bases are those that other
images give (``stability.csv`` of ``examine``, way disjoint, k 4)."""


def split_as_data_would(
    samples_of: Mapping[str, PackedSamples], sizes: Mapping[str, int | float], seed: int
) -> Mapping[str, PackedSamples] | None:
    """The parts that ``headimpact data`` would make; None where there are too few images.

    Args:
        samples_of: four parts, which stay as they are, or one.
        sizes: of the parts, as in params.yaml.
        seed: of the split.
    """
    if set(samples_of) == set(PARTS):
        return samples_of
    (everything,) = samples_of.values()
    usable = everything.choose(np.flatnonzero(everything.object_counts))
    try:
        chosen = split_in_proportion(usable.ids, sizes, seed)
    except InputError:
        return None
    return {part: usable.choose(np.searchsorted(usable.ids, ids)) for part, ids in chosen.items()}


def outlook(parts: Mapping[str, Sequence[Sample]], seed: int) -> list[tuple[str, str]]:
    """Rows for a summary: the sizes of the parts, what the questions of the test part measure, and from how many images
    what is worth it.

    Args:
        parts: the samples of each part.
        seed: of the questions.
    """
    test = parts["test"]
    sizes = ", ".join(f"{part} {len(samples)}" for part, samples in parts.items())
    questions = asked(test, draw_questions(test, seed))
    rows = [("parts", f"{sizes} images"), ("questions", str(questions)), ("measured", _measured(test, questions, seed))]
    if (asked_of := _images_asked(parts["val"], seed)) < 2:
        told = f"cannot choose a scale: {asked_of} of {len(parts['val'])} val images have a question, and it takes 2"
        rows.append(("soften", f"{told} (more images, or a larger share of them in split.val)"))
    if (images := len(parts["impact"])) < _FEW:
        told = f"{images} in impact: other images may give other top layers; from {_FEW} on most of them stay"
        rows.append(("few images", f"{told} (headimpact examine says how many of yours)"))
    return rows


def _measured(test: Sequence[Sample], questions: Asked, seed: int) -> str:
    images = _images_asked(test, seed)
    if images < 2:
        return "perplexity alone; accuracy and AnsProb need two test images with a question"
    half, needed = _half_width(images), math.ceil((_half_width(10**6) * 10**3 / _WANTED) ** 2)
    known = f"to ± {half:.2f} at worst" if half < 0.5 else "too few images to claim anything of it"
    told = f"perplexity, AnsProb, and accuracy ({known}, from {images} test images with a question)"
    return told if images >= needed else f"{told}; ± {_WANTED} takes about {needed}"


def _images_asked(samples: Sequence[Sample], seed: int) -> int:
    """Images with an object that has a question."""
    with_question = draw_questions(samples, seed)
    return sum(any(obj.id in with_question for obj in sample.objects) for sample in samples)


def _half_width(images: int) -> float:
    """Of the 95 % interval of an accuracy of one half."""
    from scipy import stats  # takes a second to import

    return float(stats.t(images - 1).ppf(0.975)) * 0.5 / math.sqrt(images)
