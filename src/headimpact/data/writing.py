"""Writing the one dataset format: COCO JSON with a mask and a phrase per object, one file a part."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from headimpact.data import masks
from headimpact.data.coco import annotation_path, images_path
from headimpact.data.samples import KeyObject, Sample
from headimpact.files import as_json, atomic_file

_CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}


def write_part(folder: Path, part: str, samples: Iterable[Sample]) -> None:
    """Write the COCO JSON of one part, sorted by id, whole or not at all, and record by record.

    The samples' paths must lie in the dataset's folder of images.
    """
    ordered = sorted(samples, key=lambda sample: sample.id)
    objects = sorted(((sample, obj) for sample in ordered for obj in sample.objects), key=lambda pair: pair[1].id)
    root = images_path(folder)
    content = {
        "annotations": (_annotation(sample, obj) for sample, obj in objects),
        "categories": [_CATEGORY],
        "images": (_image(sample, root) for sample in ordered),
        "info": {"description": f"Objects with masks and phrases: {part}", "version": "1"},
        "licenses": [],
    }
    path = annotation_path(folder, part)
    with atomic_file(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(_lines(content))


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    """The JSON that :func:`files.write_json` would write of a dictionary whose keys are in order, in which the values
    that are iterators stand for lists."""
    start = "{\n  "
    for key, value in content.items():
        yield f"{start}{as_json(key)}: "
        start = ",\n  "
        if not isinstance(value, Iterator):
            yield as_json(value).replace("\n", "\n  ")
            continue
        before = "[\n    "
        for item in value:
            yield before + as_json(item).replace("\n", "\n    ")
            before = ",\n    "
        yield "\n  ]" if before.startswith(",") else "[]"
    yield "\n}\n"


def _image(sample: Sample, root: Path) -> dict[str, Any]:
    return {
        "id": sample.id,
        "file_name": sample.path.relative_to(root).as_posix(),
        "width": sample.width,
        "height": sample.height,
    }


def _annotation(sample: Sample, obj: KeyObject) -> dict[str, Any]:
    rle = obj.rle
    return {
        "id": obj.id,
        "image_id": sample.id,
        "category_id": _CATEGORY["id"],
        "segmentation": rle,
        "bbox": list(masks.bounding_box(rle)),
        "area": masks.count_pixels(rle),
        "iscrowd": 0,
        "score": obj.score,
        "phrase": obj.phrase,
    }
