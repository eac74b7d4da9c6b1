"""The samples of objects.jsonl, and an account of what is kept and what is dropped."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headimpact.data import masks
from headimpact.data.lines import MAX_OBJECTS, Segment, Segmented, read
from headimpact.data.samples import KeyObject, Sample, object_of_rle

LOW_SCORE = "confidence below the smallest"
EMPTY_MASK = "empty mask"
NO_PHRASE = "no phrase found"
NO_OBJECT = "no object left"
UNREADABLE = "could not be worked on"


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


def samples(path: Path, images: Path, min_score: float) -> Iterator[Sample]:
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
    for line in read(path, Segmented):
        kept = tuple(obj for obj, reason in _judged(path, line, min_score) if reason is None)
        if kept:
            yield Sample(line.image_id, images / line.file_name, line.width, line.height, kept)


def account(path: Path, min_score: float) -> Account:
    """Count what ``samples`` keeps and drops.

    Raises:
        InputError: as ``samples``.
    """
    images: Counter[str | None] = Counter()
    objects: Counter[str | None] = Counter()
    errors = []
    for line in read(path, Segmented):
        reasons = Counter(reason for _, reason in _judged(path, line, min_score))
        objects += reasons
        images[_image_reason(line, reasons[None])] += 1
        if line.error is not None:
            errors.append((line.image_id, line.error))
    return Account(
        images=images.total(),
        objects=objects.total(),
        kept_images=images[None],
        kept_objects=objects[None],
        dropped_images={reason: n for reason, n in sorted(images.items(), key=str) if reason},
        dropped_objects={reason: n for reason, n in sorted(objects.items(), key=str) if reason},
        errors=tuple(errors),
    )


def _image_reason(line: Segmented, kept: int) -> str | None:
    """Why an image is dropped (None: it is kept)."""
    if line.error is not None:
        return UNREADABLE
    if not line.objects:
        return NO_PHRASE
    return None if kept else NO_OBJECT


def _judged(path: Path, line: Segmented, min_score: float) -> Iterator[tuple[KeyObject, str | None]]:
    """Each object, and why it is dropped (None: it is kept)."""
    for position, segment in enumerate(line.objects):
        obj = _key_object(path, line, position, segment)
        if obj.score < min_score:
            yield obj, LOW_SCORE
        else:
            yield obj, None if obj.area else EMPTY_MASK


def _key_object(path: Path, line: Segmented, position: int, segment: Segment) -> KeyObject:
    name = f"object {position} of image {line.image_id}"
    rle = masks.from_run_lengths(path, name, segment.rle.size, segment.rle.counts, (line.width, line.height))
    return object_of_rle(line.image_id * MAX_OBJECTS + position, segment.phrase, rle, segment.score)
