"""The files between the steps that make the dataset coco: a line of JSON an image, by ascending id.

captions.jsonl holds ``Captioned`` lines (download), phrases.jsonl ``Grounded`` ones (ground) and objects.jsonl
``Segmented`` ones (segment).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError

from headimpact.errors import InputError
from headimpact.files import leaves_folder

# Objects of an image are numbered from image_id * MAX_OBJECTS on.
MAX_OBJECTS = 1000

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


def _inside(name: str) -> str:
    if leaves_folder(name):
        raise ValueError(f"{name!r} leaves the folder of images")
    return name


FileName = Annotated[str, Field(min_length=1), AfterValidator(_inside)]


class Line(BaseModel, frozen=True):
    """An image.

    Attributes:
        file_name: relative to the folder of images, which it does not leave.
    """

    image_id: NonNegativeInt
    file_name: FileName
    width: PositiveInt
    height: PositiveInt


class Captioned(Line, frozen=True):
    """An image with its caption."""

    url: str
    caption_id: int
    caption: str


class Phrase(BaseModel, frozen=True):
    """A phrase and one of its boxes."""

    phrase: str
    box: Box


class Grounded(Captioned, frozen=True):
    """An image with the phrases of its caption.

    Attributes:
        error: why it has none, where it could not be worked on.
    """

    phrases: tuple[Phrase, ...]
    error: str | None = None


class Rle(BaseModel, frozen=True):
    """A mask as compressed run lengths: height and width, and text."""

    size: tuple[int, int]
    counts: str


class Segment(BaseModel, frozen=True):
    """A phrase, its box, its mask, and the segmenting model's own estimate of the mask's IoU."""

    phrase: str = Field(pattern=r"\S")
    box: Box
    score: float = Field(ge=0, le=1)
    rle: Rle


class Segmented(Line, frozen=True):
    """An image with its masks, whatever their confidence.

    Attributes:
        error: why it has none, where it could not be worked on.
    """

    objects: tuple[Segment, ...] = Field(max_length=MAX_OBJECTS)
    error: str | None = None


Kind = TypeVar("Kind", bound=Line)


def to_json(line: Line) -> bytes:
    """A line as JSON, with its end; what is None is left out.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(line.model_dump(exclude_none=True), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def from_json(source: str, text: bytes, kind: type[Kind], remedy: str) -> Kind:
    """A line from its JSON.

    Raises:
        InputError: it is no such line; it says ``source`` and ``remedy``.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the line"
        raise InputError(f"{source}: {field}: {first['msg']}. {remedy}") from None


def read(path: Path, kind: type[Kind]) -> Iterator[Kind]:
    """The lines of a file, one at a time.

    Raises:
        InputError: the file is missing, a line is not of that kind, or the ids do not ascend.
    """
    last = -1
    try:
        with path.open("rb") as stream:
            for number, text in enumerate(stream, 1):
                line = from_json(f"{path}: line {number}", text, kind, "Make the file anew.")
                if line.image_id <= last:
                    raise InputError(
                        f"{path}: line {number}: image {line.image_id} comes after image {last}. "
                        f"Every image must be there once, by ascending id; make the file anew."
                    )
                last = line.image_id
                yield line
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run the step before this one.") from None
