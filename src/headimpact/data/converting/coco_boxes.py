"""COCO JSON whose boxes are to be masks, or whose crowds are to be objects: an export that could be read as it is, but
for these."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headimpact.data.coco import images_path
from headimpact.data.converting.drawn import Annotated, Drawn, size_of
from headimpact.data.names import Names
from headimpact.data.own_data import annotation_files
from headimpact.errors import InputError
from headimpact.files import read_json


def is_there(folder: Path) -> bool:
    """Whether a folder holds one COCO JSON."""
    try:
        (path,) = annotation_files(folder).values()
        content = read_json(path)
    except (InputError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("images"), list)


def read(folder: Path) -> Iterator[Annotated]:
    """Every image of the file, its crowds among the objects.

    Raises:
        InputError: a record is not as COCO has it, or an image is absent.
    """
    (path,) = annotation_files(folder).values()
    content = read_json(path)
    names = Names(folder, images_path(folder))
    categories = {item.get("id"): item.get("name") for item in content.get("categories", []) if isinstance(item, dict)}
    of_image: dict[Any, list[dict[str, Any]]] = {}
    for annotation in content.get("annotations", []):
        of_image.setdefault(annotation.get("image_id"), []).append(annotation)
    for record in content["images"]:
        try:
            image = folder / names.find(record["file_name"])
            objects = [_object(annotation, categories) for annotation in of_image.get(record["id"], [])]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} has a record that is not as COCO has it ({error!r}).") from None
        yield Annotated(image, size_of(image), objects)


def _object(annotation: dict[str, Any], categories: dict[Any, Any]) -> Drawn:
    phrase = annotation.get("phrase") or annotation.get("caption") or categories.get(annotation.get("category_id"))
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        return Drawn(str(phrase or ""), rle=segmentation)
    if segmentation:
        return Drawn(str(phrase or ""), polygons=[[float(value) for value in points] for points in segmentation])
    box = tuple(map(float, annotation.get("bbox") or ()))
    return Drawn(str(phrase or ""), box=box if len(box) == 4 else None)
