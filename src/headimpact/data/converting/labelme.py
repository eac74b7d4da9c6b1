"""LabelMe: a JSON file beside each image, with its shapes."""

import base64
import binascii
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headimpact.data import masks
from headimpact.data.converting.drawn import Annotated, Drawn, ellipse, size_of
from headimpact.data.names import Names, visible_files
from headimpact.errors import InputError
from headimpact.files import read_json


def is_there(folder: Path) -> bool:
    """Whether a folder holds LabelMe's files."""
    return any(_is_labelme(path) for path in _files(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in visible_files(folder) if path.suffix == ".json")


def _is_labelme(path: Path) -> bool:
    try:
        content = read_json(path)
    except InputError:
        return False
    return isinstance(content, dict) and "shapes" in content and "imagePath" in content


def read(folder: Path) -> Iterator[Annotated]:
    """Every image that has a file of LabelMe.

    Raises:
        InputError: a file is not as LabelMe writes it, or its image is absent.
    """
    names = Names(folder, folder)
    for path in _files(folder):
        if not _is_labelme(path):
            continue
        content = read_json(path)
        beside = path.parent / Path(str(content["imagePath"]).replace("\\", "/")).name
        image = beside if beside.is_file() else folder / names.find(str(content["imagePath"]))
        size = size_of(image)
        written = (content.get("imageWidth"), content.get("imageHeight"))
        if written != size:
            sizes = " and ".join(f"{width}x{height}" for width, height in (written, size))
            raise InputError(f"{path} and {image} differ in size ({sizes} pixels). Annotate the image as it is.")
        groups: dict[tuple[str, Any], list[Mapping[str, Any]]] = {}
        for place, shape in enumerate(content["shapes"]):
            if not isinstance(shape, dict) or not str(shape.get("label") or "").strip():
                raise InputError(f"{path}: shape {place} has no label. Give it one.")
            group = shape.get("group_id")
            groups.setdefault((shape["label"], place if group is None else f"group {group}"), []).append(shape)
        objects, skipped = [], []
        for (label, _), shapes in groups.items():
            try:
                objects.append(_object(str(label), shapes, size))
            except (TypeError, ValueError, KeyError, OSError, binascii.Error) as error:
                skipped.append(f"{label}: {error}")
        yield Annotated(image, size, objects, skipped)


def _object(label: str, shapes: list[Mapping[str, Any]], size: tuple[int, int]) -> Drawn:
    """One object of the shapes of a group."""
    kinds = {shape.get("shape_type", "polygon") for shape in shapes}
    if kinds == {"rectangle"} and len(shapes) == 1:
        (x0, y0), (x1, y1) = (map(float, point) for point in shapes[0]["points"])
        return Drawn(label, box=(min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)))
    if kinds == {"mask"}:
        rles = [masks.encode(_mask(shape, size)) for shape in shapes]
        return Drawn(label, rle=masks.union(rles))
    polygons = []
    for shape in shapes:
        kind, points = shape.get("shape_type", "polygon"), shape["points"]
        if kind == "polygon":
            polygons.append([float(value) for point in points for value in point])
        elif kind == "circle":
            (cx, cy), (x, y) = (map(float, point) for point in points)
            radius = float(np.hypot(x - cx, y - cy))
            polygons.append(ellipse(cx, cy, radius, radius))
        else:
            raise ValueError(f"a {kind} is no area")
    return Drawn(label, polygons=polygons)


def _mask(shape: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """A painted mask, which LabelMe keeps as a PNG of its box."""
    (left, top), _ = shape["points"]
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=("PNG",)) as image:
        painted = np.asarray(image.convert("L")) > 0
    mask = np.zeros((size[1], size[0]), dtype=bool)
    x, y = round(left), round(top)
    if x < 0 or y < 0:
        raise ValueError("its mask leaves the image")
    area = mask[y : y + painted.shape[0], x : x + painted.shape[1]]
    area[:] = painted[: area.shape[0], : area.shape[1]]
    return mask
