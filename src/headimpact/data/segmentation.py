"""SAM 2: from boxes to masks with a confidence; and the samples and the account of what came out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from pydantic import BaseModel, Field
from torch import Tensor
from transformers import Sam2Model
from transformers.image_processing_backends import PilBackend

from headimpact.data import annotators, coco, records
from headimpact.data.grounding import Box, Grounded
from headimpact.errors import InputError

# Objects of an image are numbered from image_id * MAX_OBJECTS on.
MAX_OBJECTS = 1000

LOW_SCORE = "confidence below the smallest"
EMPTY_MASK = "empty mask"
NO_PHRASE = "no phrase found"
NO_OBJECT = "no object left"
UNREADABLE = "could not be worked on"


class _Rle(BaseModel, frozen=True):
    size: tuple[int, int]
    counts: str


class Segment(BaseModel, frozen=True):
    """A phrase, its box (left, top, right, bottom in pixels), its mask, and SAM 2's own estimate of the mask's IoU."""

    phrase: str = Field(pattern=r"\S")
    box: Box
    score: float = Field(ge=0, le=1)
    rle: _Rle


class Segmented(records.Record, frozen=True):
    """An image with its masks, whatever their confidence: a line of objects.jsonl.

    Attributes:
        error: why it has none, where it could not be worked on.
    """

    objects: tuple[Segment, ...] = Field(max_length=MAX_OBJECTS)
    error: str | None = None


@dataclass(frozen=True)
class Account:
    """What a file of objects holds, and what was dropped.

    Attributes:
        images: images in the file.
        objects: their objects.
        kept_images: images with an object left.
        kept_objects: objects left.
        dropped_images: images by the reason they were dropped for.
        dropped_objects: objects by the reason they were dropped for.
        errors: id of each image that could not be worked on, and why.
    """

    images: int
    objects: int
    kept_images: int
    kept_objects: int
    dropped_images: dict[str, int]
    dropped_objects: dict[str, int]
    errors: tuple[tuple[int, str], ...]


class _Pixels(PilBackend):
    """SAM 2's preparation of images on PIL: transformers has it on torchvision alone."""

    do_resize = do_rescale = do_normalize = do_convert_rgb = True
    resample = Image.Resampling.BILINEAR
    size = {"height": 1024, "width": 1024}  # noqa: RUF012 (the base class declares it so)
    image_mean = (0.485, 0.456, 0.406)
    image_std = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Segmenter:
    """SAM 2, ready to fill boxes."""

    annotator: annotators.Annotator
    pixels: _Pixels

    def facts(self) -> dict[str, Any]:
        """What the masks follow from, besides boxes and images."""
        return self.annotator.facts

    def segment(self, entries: Sequence[Grounded], images: Path) -> list[Segmented]:
        """The masks of each image, one a box and in their order; an image that cannot be worked on says why."""
        grounded = [entry for entry in entries if entry.phrases]
        opened, errors = annotators.open_images(grounded, images)
        usable = [entry for entry in grounded if entry.image_id in opened]
        objects = self._objects(usable, [opened[entry.image_id] for entry in usable])
        return [
            Segmented(
                **entry.model_dump(include=set(records.Record.model_fields)),
                objects=objects.get(entry.image_id, ()),
                error=errors.get(entry.image_id, entry.error),
            )
            for entry in entries
        ]

    @torch.inference_mode()
    def _objects(self, entries: Sequence[Grounded], images: Sequence[Image.Image]) -> dict[int, tuple[Segment, ...]]:
        if not entries:
            return {}
        model = self.annotator.model
        pixels = self.pixels(list(images), return_tensors="pt")["pixel_values"]
        embeddings = model.get_image_embeddings(pixels.to(model.device, model.dtype))
        # Images have different numbers of boxes, and SAM 2 cannot be given boxes that are none.
        return {
            entry.image_id: self._masks(entry, [level[index : index + 1] for level in embeddings])
            for index, entry in enumerate(entries)
        }

    def _masks(self, entry: Grounded, embeddings: list[Tensor]) -> tuple[Segment, ...]:
        boxes = torch.tensor([phrase.box for phrase in entry.phrases]) * self._scale(entry)
        output = self.annotator.model(
            image_embeddings=embeddings,
            input_boxes=boxes[None].to(self.annotator.model.device),
            multimask_output=True,
        )
        scores, best = output.iou_scores[0].float().cpu().max(dim=-1)
        if not scores.isfinite().all():
            raise InputError(
                f"SAM 2 gave no number for image {entry.image_id} ({entry.file_name}). Set compute.dtype to float32."
            )
        logits = output.pred_masks[0].float().cpu()[torch.arange(len(best)), best]
        return tuple(
            _segment(phrase.phrase, phrase.box, mask_of(logit, entry.width, entry.height), float(score))
            for phrase, logit, score in zip(entry.phrases, logits, scores, strict=True)
        )

    def _scale(self, entry: Grounded) -> Float[Tensor, "4"]:
        size: Any = self.pixels.size
        return torch.tensor([size["width"] / entry.width, size["height"] / entry.height]).repeat(2)


def mask_of(logits: Float[Tensor, "rows columns"], width: int, height: int) -> Bool[np.ndarray, "{height} {width}"]:
    """The mask of an image from the model's logits: enlarged bilinearly, then cut at 0 (SAM 2's image predictor)."""
    large = torch.nn.functional.interpolate(logits[None, None], (height, width), mode="bilinear", align_corners=False)
    return (large[0, 0] > 0).numpy()


def _segment(phrase: str, box: Box, mask: Bool[np.ndarray, "height width"], score: float) -> Segment:
    rle = coco.key_object(0, phrase, mask, score).rle
    return Segment(phrase=phrase, box=box, score=round(min(max(score, 0.0), 1.0), 4), rle=_Rle(**rle))


def load(source: str, revision: str | None = None, device: str = "auto", dtype: str = "auto") -> Segmenter:
    """Load SAM 2 from a folder or from the hub, as in ``annotators.load``.

    The published checkpoints are of the video model, which holds the image model.

    Raises:
        InputError: not such a checkpoint, or the settings of its images are missing.
    """
    annotator = annotators.load(Sam2Model, {"sam2", "sam2_video"}, False, source, revision, device, dtype)
    try:
        pixels = _Pixels.from_pretrained(annotator.folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{source} does not say how it takes images: {str(error).splitlines()[0]}") from None
    return Segmenter(annotator, pixels)


def samples(path: Path, images: Path, min_score: float) -> Iterator[coco.Sample]:
    """The images of a file of objects that have an object left, by ascending id, one at a time.

    An object's id is ``image_id * MAX_OBJECTS`` plus its place in the file, whatever was dropped: it stays the same
    when ``min_score`` changes.

    Args:
        path: objects.jsonl.
        images: the folder of images.
        min_score: objects below are dropped.

    Raises:
        InputError: it is no such file, or a mask is not of its image's size.
    """
    for record in records.read(path, Segmented):
        kept = tuple(key_object for key_object, reason in _judged(path, record, min_score) if reason is None)
        if kept:
            yield coco.Sample(record.image_id, images / record.file_name, record.width, record.height, kept)


def account(path: Path, min_score: float) -> Account:
    """Count what ``samples`` keeps and drops.

    Raises:
        InputError: as ``samples``.
    """
    images: Counter[str | None] = Counter()
    objects: Counter[str | None] = Counter()
    errors = []
    for record in records.read(path, Segmented):
        reasons = Counter(reason for _, reason in _judged(path, record, min_score))
        objects += reasons
        images[_image_reason(record, reasons[None])] += 1
        if record.error is not None:
            errors.append((record.image_id, record.error))
    return Account(
        images=images.total(),
        objects=objects.total(),
        kept_images=images[None],
        kept_objects=objects[None],
        dropped_images={reason: n for reason, n in sorted(images.items(), key=str) if reason},
        dropped_objects={reason: n for reason, n in sorted(objects.items(), key=str) if reason},
        errors=tuple(errors),
    )


def _image_reason(record: Segmented, kept: int) -> str | None:
    if record.error is not None:
        return UNREADABLE
    if not record.objects:
        return NO_PHRASE
    return None if kept else NO_OBJECT


def _judged(path: Path, record: Segmented, min_score: float) -> Iterator[tuple[coco.KeyObject, str | None]]:
    """Each object, and why it is dropped (None: it is kept)."""
    for place, segment in enumerate(record.objects):
        found = _key_object(path, record, place, segment)
        if found.score < min_score:
            yield found, LOW_SCORE
        else:
            yield found, None if found.area else EMPTY_MASK


def _key_object(path: Path, record: Segmented, place: int, segment: Segment) -> coco.KeyObject:
    object_id, size = record.image_id * MAX_OBJECTS + place, (record.width, record.height)
    where = f"object {place} of image {record.image_id}"
    return coco.object_of_rle(path, where, object_id, segment.phrase, segment.rle.model_dump(), size, segment.score)
