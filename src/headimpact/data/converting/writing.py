"""COCO JSON written from what another tool's files say, and the images put beside it."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headimpact.data.coco import images_path
from headimpact.data.converting import coco_boxes, labelme, table, yolo
from headimpact.data.converting.drawn import Annotated, Drawn
from headimpact.errors import InputError
from headimpact.files import atomic_folder, write_json

KINDS: Mapping[str, tuple[Callable[[Path], bool], Callable[[Path], Iterator[Annotated]]]] = {
    "labelme": (labelme.is_there, labelme.read),
    "yolo": (yolo.is_there, yolo.read),
    "table": (table.is_there, table.read),
    "coco": (coco_boxes.is_there, coco_boxes.read),
}
"""By kind, whether a folder is of it, and what reads it; in the order in which they are tried."""

_NO_AREA = "they have a box and no mask (--boxes makes masks of boxes)"


@dataclass(frozen=True)
class Converted:
    """What was written, and what was not."""

    kind: str
    images: int
    objects: int
    boxes: int
    left_out: list[tuple[str, str]]


def kind_of(folder: Path) -> str:
    """What kind of files a folder holds.

    Raises:
        InputError: none of those that are known.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. Unpack the export first.")
    found = next((kind for kind, (is_there, _) in KINDS.items() if is_there(folder)), None)
    if found is None:
        raise InputError(
            f"{folder} holds nothing that is known: neither LabelMe's JSON files, nor YOLO's data.yaml or classes.txt, "
            "nor one CSV table, nor one COCO JSON."
        )
    return found


def convert(source: Path, folder: Path, boxes: bool = False) -> Converted:
    """Write a folder of data of one's own, whole or not at all: ``coco.json`` and ``images``.

    Args:
        source: LabelMe, YOLO, a table or COCO JSON, with its images; it stays as it is.
        folder: is made, and must not be there.
        boxes: the box of an object without a mask becomes its mask; otherwise the object is left out.

    Raises:
        InputError: as for :func:`kind_of` and what reads the kind; the folder is there already; nothing is left.
    """
    kind = kind_of(source)
    if folder.exists():
        raise InputError(f"{folder} is there already. Name a folder that is not, or remove it.")
    content: dict[str, Any] = {"annotations": [], "categories": [], "images": []}
    left_out: Counter[str] = Counter()
    from_boxes = 0
    with atomic_folder(folder) as aside:
        images_path(aside).mkdir()
        for number, image in enumerate(KINDS[kind][1](source), start=1):
            width, height = image.size
            name = f"{number:06d}{image.path.suffix.lower()}"
            shutil.copyfile(image.path, images_path(aside) / name)
            content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
            left_out.update(reason.partition(": ")[2] for reason in image.skipped)
            for obj in image.objects:
                if (segmentation := _segmentation(obj, image.size, boxes)) is None:
                    left_out[_NO_AREA] += 1
                    continue
                from_boxes += obj.box is not None
                record = {"id": len(content["annotations"]) + 1, "image_id": number, "phrase": obj.phrase}
                content["annotations"].append(record | {"segmentation": segmentation})
        if not content["annotations"]:
            told = "".join(f" {count} objects were left out: {why}." for why, count in left_out.items())
            raise InputError(f"{source} ({kind}) has no object with a mask.{told}")
        write_json(aside / "coco.json", content)
    dropped = [(f"{count} objects", why) for why, count in left_out.items()]
    return Converted(kind, len(content["images"]), len(content["annotations"]), from_boxes, dropped)


def _segmentation(obj: Drawn, size: tuple[int, int], boxes: bool) -> Any:
    """A mask as COCO has it; None for a box that is none."""
    if obj.rle is not None or obj.polygons:
        return obj.rle or obj.polygons
    if obj.box is None or not boxes:
        return None
    left, top, width, height = obj.box
    right, bottom = min(left + width, size[0]), min(top + height, size[1])
    left, top = max(left, 0.0), max(top, 0.0)
    return [[left, top, right, top, right, bottom, left, bottom]]
