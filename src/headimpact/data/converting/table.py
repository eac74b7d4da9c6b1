"""A table: a CSV file with a row an object (its image, its box and its phrase)."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from headimpact.data.converting.drawn import Annotated, Drawn, size_of
from headimpact.data.names import Names
from headimpact.errors import InputError

_CORNERS, _EXTENT = ("x1", "y1", "x2", "y2"), ("x", "y", "width", "height")
_NEEDED = "It needs the columns image, phrase, and x, y, width, height (or x1, y1, x2, y2) in pixels."


def is_there(folder: Path) -> bool:
    """Whether a folder holds a single CSV file."""
    return len(list(folder.glob("[!.]*.csv"))) == 1


def read(folder: Path) -> Iterator[Annotated]:
    """Every image that the table names.

    Raises:
        InputError: there is no table, or not of these columns; a number is none; an image is absent.
    """
    tables = sorted(folder.glob("[!.]*.csv"))
    if len(tables) != 1:
        raise InputError(f"{folder} holds {len(tables)} CSV files; one is needed. {_NEEDED}")
    path, names = tables[0], Names(folder, folder / "images")
    rows: dict[str, list[Drawn]] = {}
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = {str(name).strip().lower(): name for name in reader.fieldnames or []}
        box = next((kind for kind in (_EXTENT, _CORNERS) if set(kind) <= columns.keys()), None)
        if box is None or not {"image", "phrase"} <= columns.keys():
            raise InputError(f"{path} has the columns {', '.join(columns) or 'none'}. {_NEEDED}")
        for row in reader:
            plain = {name: (row[column] or "").strip() for name, column in columns.items()}
            where = f"{path}: line {reader.line_num}"
            if not plain["image"] or not plain["phrase"]:
                raise InputError(f"{where} lacks its image or its phrase.")
            rows.setdefault(plain["image"], []).append(Drawn(plain["phrase"], box=_box(where, plain, box)))
    for name, objects in rows.items():
        image = folder / names.find(name)
        yield Annotated(image, size_of(image), objects)


def _box(where: str, row: Mapping[str, str], kind: tuple[str, ...]) -> tuple[float, float, float, float]:
    try:
        a, b, c, d = (float(row[name]) for name in kind)
    except ValueError:
        raise InputError(f"{where} has a box that is not of four numbers.") from None
    return (a, b, c, d) if kind == _EXTENT else (a, b, c - a, d - b)
