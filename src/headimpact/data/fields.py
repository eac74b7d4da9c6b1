"""What is wrong with the fields of a record of COCO JSON, in words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headimpact.data.problems import Problem

_LONGEST = 40  # characters of a value that is shown


@dataclass(frozen=True)
class UnknownCategory:
    """In the place of the phrase of an annotation whose category the file does not list."""

    category: Any


@dataclass(frozen=True)
class _Field:
    """What a field must be, and what to do where it is not."""

    kind: str
    advice: str


_NUMBER = "a whole number from 0 to 2^63"
_FIELDS: Mapping[str, _Field] = {
    "id": _Field(_NUMBER, "Give every image and every annotation an id of its own."),
    "image_id": _Field("the id of an image", "Say which image the annotation is of."),
    "file_name": _Field(
        "a name of at most 255 characters, none for control", "Name the image's file, relative to the folder of images."
    ),
    "coco_url": _Field("an address that begins with http:// or https://", "Give the image's address."),
    "caption": _Field("a text", "Give the caption."),
    "width": _Field("a whole number from 1", "Write the image's width in pixels."),
    "height": _Field("a whole number from 1", "Write the image's height in pixels."),
    "segmentation": _Field(
        "polygons [[x, y, x, y, ...]] or run lengths {size, counts}",
        "Write the mask as polygons or as run lengths (pycocotools.mask.encode).",
    ),
    "score": _Field("a number from 0 to 1", "Correct it, or leave it out in data of your own: then it is 1."),
    "phrase": _Field("a text", "Give the annotation a phrase, a caption, or the id of a category that the file lists."),
}


def problems_of(path: Path, record: str, item: Any, error: ValidationError) -> Iterator[Problem]:
    """Every wrong field of a record, once.

    Args:
        path: the file.
        record: its list and its place there, as in ``annotations.7``.
        item: what is there.
        error: what pydantic says of it.
    """
    if not isinstance(item, dict):
        yield Problem(path, record, f"is {_shown(item)}, and no dictionary", "Correct or remove it.")
        return
    # A field that may be of several kinds has an error for each.
    errors = error.errors()
    own_words = {str(each["loc"][0]): str(each["ctx"]["error"]) for each in errors if each["type"] == "value_error"}
    for name in dict.fromkeys(str(each["loc"][0]) for each in errors):
        rule = _FIELDS[name]
        what, advice = own_words.get(name) or _what(name, item, rule), rule.advice
        if name == "segmentation" and _is_flat(item.get(name)):
            advice = "Put the polygon into a list: [[x, y, x, y, ...]]."
        yield Problem(path, f"{record}.{name}", what, advice)


def _what(name: str, item: Mapping[str, Any], rule: _Field) -> str:
    if name not in item:
        return "is missing"
    value = item[name]
    if isinstance(value, UnknownCategory):
        return f"is missing, and the file lists no category {_shown(value.category)}"
    if value is None:
        return f"is null, and must be {rule.kind}"
    if isinstance(value, str) and not value.strip():
        return f"is empty, and must be {rule.kind}"
    if name == "segmentation" and _is_flat(value):
        return "is one list of numbers, and must be a list of polygons"
    return f"is {_shown(value)}, and must be {rule.kind}"


def _is_flat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], int | float)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
