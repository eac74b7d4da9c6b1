"""Writing the one dataset format: COCO JSON with a mask and a phrase per object, one file a part."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headimpact.data.coco import annotation_path, images_path
from headimpact.data.samples import KeyObject, Sample
from headimpact.files import write_json

_CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}


def write_part(folder: Path, part: str, samples: Iterable[Sample]) -> None:
    """Write the COCO JSON of one part, sorted by id, whole or not at all.

    The samples' paths must lie in the dataset's folder of images.
    """
    ordered = sorted(samples, key=lambda sample: sample.id)
    images = [
        {
            "id": sample.id,
            "file_name": sample.path.relative_to(images_path(folder)).as_posix(),
            "width": sample.width,
            "height": sample.height,
        }
        for sample in ordered
    ]
    annotations = [_annotation(sample, obj) for sample in ordered for obj in sample.objects]
    content = {
        "info": {"description": f"Objects with masks and phrases: {part}", "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": sorted(annotations, key=lambda annotation: annotation["id"]),
        "categories": [_CATEGORY],
    }
    write_json(annotation_path(folder, part), content)


def _annotation(sample: Sample, obj: KeyObject) -> dict[str, Any]:
    return {
        "id": obj.id,
        "image_id": sample.id,
        "category_id": _CATEGORY["id"],
        "segmentation": dict(obj.rle),
        "bbox": list(obj.bbox),
        "area": obj.area,
        "iscrowd": 0,
        "score": obj.score,
        "phrase": obj.phrase,
    }
