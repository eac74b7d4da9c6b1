"""What another tool's files say of an image: its objects, each drawn somehow."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headimpact.data.images import UnreadableError, read_image
from headimpact.data.names import visible_files
from headimpact.errors import InputError


@dataclass(frozen=True)
class Drawn:
    """An object as a tool has it; one of the three says where it is.

    Attributes:
        phrase: its label.
        polygons: x, y, x, y, ... in pixels, as many as it has parts.
        box: left, top, width and height in pixels, where nothing else is known.
        rle: run lengths as COCO has them.
    """

    phrase: str
    polygons: list[list[float]] = field(default_factory=list)
    box: tuple[float, float, float, float] | None = None
    rle: dict[str, Any] | None = None


@dataclass(frozen=True)
class Annotated:
    """An image and its objects; what could not be read of it, and why.

    Attributes:
        path: of the image.
        size: width and height, upright.
    """

    path: Path
    size: tuple[int, int]
    objects: list[Drawn]
    skipped: list[str] = field(default_factory=list)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is read.

    Raises:
        InputError: it is not taken.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist. Put the image there, or remove what is said of it.")
    try:
        return read_image(path)[0].size
    except UnreadableError as error:
        raise InputError(f"{path} {error.what}{error.detail}. {error.advice}") from None


def ellipse(cx: float, cy: float, rx: float, ry: float) -> list[float]:
    """A polygon of 64 points around a centre."""
    angles = [2 * math.pi * step / 64 for step in range(64)]
    return [value for a in angles for value in (cx + rx * math.cos(a), cy + ry * math.sin(a))]


def images_in(folder: Path) -> Iterator[Path]:
    """Every PNG and JPEG file below a folder, hidden ones left out, in order."""
    return (path for path in sorted(visible_files(folder)) if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
