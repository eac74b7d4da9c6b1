"""YOLO segmentation: a text file an image, a line an object (its class, then x y x y ... in shares of the image)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from headimpact.data.converting.drawn import Annotated, Drawn, images_in, size_of
from headimpact.errors import InputError


def is_there(folder: Path) -> bool:
    """Whether a folder holds class names and label files as YOLO has them."""
    return _names_file(folder) is not None


def _names_file(folder: Path) -> Path | None:
    candidates = [folder / "data.yaml", folder / "dataset.yaml", folder / "classes.txt", folder / "labels/classes.txt"]
    return next((path for path in candidates if path.is_file()), None)


def read(folder: Path) -> Iterator[Annotated]:
    """Every image that has a label file: beside it, or in ``labels`` where it lies in ``images``.

    Raises:
        InputError: there are no class names, or a line is not as YOLO has it.
    """
    names = _class_names(folder)
    for image in images_in(folder):
        if (path := _labels_of(image, folder)) is None:
            continue
        size = size_of(image)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        objects = [_object(path, place, line, names, size) for place, line in enumerate(lines, 1) if line.strip()]
        yield Annotated(image, size, objects)


def _class_names(folder: Path) -> Sequence[str] | dict[int, str]:
    path = _names_file(folder)
    if path is None:
        raise InputError(f"{folder} holds neither data.yaml nor classes.txt, which have the names of YOLO's classes.")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".txt":
        return text.split("\n")
    try:
        names: Any = (yaml.safe_load(text) or {}).get("names")
    except (yaml.YAMLError, AttributeError) as error:
        raise InputError(f"{path} is no YAML of YOLO ({' '.join(str(error).split())}).") from None
    if not isinstance(names, list | dict):
        raise InputError(f"{path} has no `names`, which are those of YOLO's classes.")
    return names


def _labels_of(image: Path, folder: Path) -> Path | None:
    inside = image.relative_to(folder).parts
    candidates = [image.with_suffix(".txt")]
    if "images" in inside:
        place = len(inside) - 1 - inside[::-1].index("images")
        candidates.append(folder.joinpath(*inside[:place], "labels", *inside[place + 1 :]).with_suffix(".txt"))
    return next((path for path in candidates if path.is_file()), None)


def _object(path: Path, place: int, line: str, names: Any, size: tuple[int, int]) -> Drawn:
    where = f"{path}: line {place}"
    try:
        number, *values = line.split()
        shares = [float(value) for value in values]
        name = str(names[int(number)]).strip()
    except (ValueError, IndexError, KeyError):
        raise InputError(f"{where} is not a class that is named, and numbers: {line[:60]!r}.") from None
    if not name:
        raise InputError(f"{where} is of class {number}, which has no name.")
    if not all(-0.01 <= share <= 1.01 for share in shares):
        raise InputError(f"{where} has a value outside of 0 to 1: YOLO writes shares of the image.")
    width, height = size
    if len(shares) == 4:
        cx, cy, w, h = shares
        return Drawn(name, box=((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height))
    if len(shares) < 6 or len(shares) % 2:
        raise InputError(f"{where} has {len(shares)} numbers: a box has 4, a polygon 6 or more, in pairs.")
    return Drawn(name, polygons=[[share * (height if i % 2 else width) for i, share in enumerate(shares)]])
