"""Florence-2: from an image and its caption to the phrases of the caption and their boxes.

A phrase that stands for several things has a box for each, and every box becomes an object of its own: so do the
authors' data, where 334 of 1,000 records name a phrase more than once (``labels`` of ``dataset_masks.json``).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from headimpact.data import annotators
from headimpact.data.lines import Box, Captioned, Grounded, Line, Phrase, read
from headimpact.errors import InputError

_TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
# Florence-2 says where a corner is in thousandths of the image's sides.
_BINS = 1000


@dataclass(frozen=True)
class Account:
    """What a file of phrases holds.

    Attributes:
        phrases: phrases, each counted once an image.
        boxes: their boxes.
        without: images in which the model found no phrase.
        errors: id of each image that could not be worked on, and why.
    """

    images: int
    phrases: int
    boxes: int
    without: int
    errors: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Grounder(annotators.Annotator):
    """Florence-2, ready to ground captions.

    Attributes:
        num_beams: beams of the search; 1 is greedy.
        max_new_tokens: tokens of an answer; what comes after is cut off.
    """

    reads: ClassVar[type[Line]] = Captioned

    processor: Any
    num_beams: int
    max_new_tokens: int

    def facts(self) -> dict[str, Any]:
        """What the phrases follow from, besides captions and images."""
        return super().facts() | {"num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens}

    def annotate(self, lines: Sequence[Captioned], images: Path) -> list[Grounded]:
        """The phrases of each image, in the order of the answer; an image that cannot be worked on says why."""
        opened, errors = annotators.open_images(lines, images)
        errors |= {line.image_id: "the caption is too long for the model" for line in lines if self._overlong(line)}
        usable = [line for line in lines if line.image_id not in errors]
        answers = self._answers([opened[line.image_id] for line in usable], usable)
        phrases = {line.image_id: answer for line, answer in zip(usable, answers, strict=True)}
        return [
            Grounded(**line.model_dump(), phrases=phrases.get(line.image_id, ()), error=errors.get(line.image_id))
            for line in lines
        ]

    def _overlong(self, line: Captioned) -> bool:
        prompt = self.processor._construct_prompts(_prompt(line.caption))[0]
        tokens = self.processor.tokenizer(prompt)["input_ids"]
        # Besides the image there are the beginning and the end of the text.
        return len(tokens) + self.processor.num_image_tokens + 2 > self._positions()

    def _positions(self) -> int:
        return self.model.network.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def _answers(self, images: Sequence[Image.Image], lines: Sequence[Captioned]) -> list[tuple[Phrase, ...]]:
        if not lines:
            return []
        network = self.model.network
        prompts = [_prompt(line.caption) for line in lines]
        inputs = self.processor(images=list(images), text=prompts, padding=True, return_tensors="pt")
        tokens = network.generate(
            **inputs.to(network.device, network.dtype),
            do_sample=False,
            num_beams=self.num_beams,
            max_new_tokens=min(self.max_new_tokens, self._positions() - 1),
        )
        texts = self.processor.batch_decode(tokens, skip_special_tokens=False)
        return [self._parse(text, line) for text, line in zip(texts, lines, strict=True)]

    def _parse(self, text: str, line: Captioned) -> tuple[Phrase, ...]:
        # Asked for an image of as many pixels as there are bins, the processor gives the bins: for the image's own
        # size it would cut their centres down to whole pixels.
        answer = self.processor.post_process_generation(text, task=_TASK, image_size=(_BINS, _BINS))[_TASK]
        pairs = zip(answer["labels"], answer["bboxes"], strict=True)
        phrases = (Phrase(phrase=phrase, box=_pixels(bins, line)) for phrase, bins in pairs if phrase)
        return tuple(dict.fromkeys(phrases))


def _prompt(caption: str) -> str:
    # In angle brackets stand the model's own words: <image>, <loc_7>, the names of its tasks.
    return _TASK + re.sub("[<>]", " ", caption)


def _pixels(bins: Sequence[int], line: Captioned) -> Box:
    """The centres of the corners' bins, in pixels to two decimals, inside the image, the first corner at top left."""
    xs = sorted(_pixel(value, line.width) for value in bins[0::2])
    ys = sorted(_pixel(value, line.height) for value in bins[1::2])
    return xs[0], ys[0], xs[1], ys[1]


def _pixel(value: int, side: int) -> float:
    return round(min(max((value + 0.5) * side / _BINS, 0.0), float(side)), 2)


def load(
    source: str,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    num_beams: int = 3,
    max_new_tokens: int = 1024,
) -> Grounder:
    """Load Florence-2 from a folder or from the hub; the rest as in ``annotators.load``.

    Beams and length are those of the model's own card.

    Raises:
        InputError: not such a checkpoint, or its processor's files are missing.
    """
    kind = Florence2ForConditionalGeneration
    model = annotators.load(kind, {"florence2"}, True, source, revision, device, dtype)
    try:
        # The PIL backend everywhere: a machine with torchvision must see the same pixels.
        processor = Florence2Processor.from_pretrained(model.folder, backend="pil")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{source} has no processor that can be loaded: {str(error).splitlines()[0]}") from None
    return Grounder(model, processor, num_beams, max_new_tokens)


def account(path: Path) -> Account:
    """Count what a file of phrases holds.

    Raises:
        InputError: it is no such file.
    """
    images = phrases = boxes = without = 0
    errors = []
    for line in read(path, Grounded):
        images += 1
        phrases += len({phrase.phrase for phrase in line.phrases})
        boxes += len(line.phrases)
        if line.error is not None:
            errors.append((line.image_id, line.error))
        elif not line.phrases:
            without += 1
    return Account(images, phrases, boxes, without, tuple(errors))
