"""Writing the one dataset format: COCO JSON with a mask and a phrase per object, one file a part."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headimpact.data import masks
from headimpact.data.coco import annotation_path, images_path
from headimpact.data.samples import KeyObject, Sample
from headimpact.files import as_json, atomic_file

_CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}


def write_part(
    folder: Path, part: str, samples: Iterable[Sample], name_of: Callable[[Sample], str] | None = None
) -> None:
    """Write the COCO JSON of one part, sorted by id, whole or not at all, and record by record.

    Args:
        folder: the dataset.
        part: one of ``coco.PARTS``.
        samples: in any order.
        name_of: gives the file name of a sample in the dataset; None: their paths lie in its folder of images.
    """
    samples = samples if isinstance(samples, Sequence) else list(samples)
    root = images_path(folder)
    name_of = name_of or (lambda sample: sample.path.relative_to(root).as_posix())
    content = {
        "annotations": (_annotation(sample, obj) for sample, obj in _objects(samples)),
        "categories": [_CATEGORY],
        "images": (_image(samples[index], name_of) for index in _order(sample.id for sample in samples)),
        "info": {"description": f"Objects with masks and phrases: {part}", "version": "1"},
        "licenses": [],
    }
    path = annotation_path(folder, part)
    with atomic_file(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(_lines(content))


def _objects(samples: Sequence[Sample]) -> Iterator[tuple[Sample, KeyObject]]:
    """Every object with its sample, by the objects' ids; of samples that are read from disk, one at a time."""
    ids, owners, places = array("q"), array("i"), array("i")
    for index in _order(sample.id for sample in samples):
        for place, obj in enumerate(samples[index].objects):
            ids.append(obj.id)
            owners.append(index)
            places.append(place)
    for number in _order(ids):
        sample = samples[owners[number]]
        yield sample, sample.objects[places[number]]


def _order(ids: Iterable[int]) -> Iterator[int]:
    """The places of ids in ascending order."""
    return map(int, np.argsort(np.fromiter(ids, np.int64), kind="stable"))


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


def _image(sample: Sample, name_of: Callable[[Sample], str]) -> dict[str, Any]:
    return {
        "id": sample.id,
        "file_name": name_of(sample),
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
