"""Parts as they are written: the same bytes whatever the order, read back, and opened by other COCO tools."""

from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from small_datasets import make_sample, write_small_dataset

from headimpact.data.coco import annotation_path, read_part
from headimpact.data.samples import Sample
from headimpact.data.writing import write_part
from headimpact.files import write_json


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_small_dataset(tmp_path / "mine")


def test_what_is_written_is_read(folder):
    samples = [make_sample(folder, 7, objects=0), make_sample(folder, 5), make_sample(folder, 6, objects=1)]
    write_part(folder, "val", samples)
    assert read_part(folder, "val") == sorted(samples, key=lambda sample: sample.id)


def as_a_whole(folder: Path, part: str, samples: list[Sample]) -> bytes:
    """The bytes of a part of which everything is in memory."""
    ordered = sorted(samples, key=lambda sample: sample.id)
    images = [{"id": s.id, "file_name": s.path.name, "width": s.width, "height": s.height} for s in ordered]
    annotations = [
        {"id": obj.id, "image_id": s.id, "category_id": 1, "segmentation": obj.rle, "bbox": list(obj.bbox)}
        | {"area": obj.area, "iscrowd": 0, "score": obj.score, "phrase": obj.phrase}
        for s in ordered
        for obj in s.objects
    ]
    content = {
        "info": {"description": f"Objects with masks and phrases: {part}", "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": sorted(annotations, key=lambda annotation: annotation["id"]),
        "categories": [{"id": 1, "name": "object", "supercategory": "object"}],
    }
    write_json(folder / "whole.json", content)
    return (folder / "whole.json").read_bytes()


@pytest.mark.parametrize("objects", [(), (0,), (1,), (0, 3, 1)])
def test_record_by_record_gives_the_bytes_of_the_whole(folder, objects):
    samples = [make_sample(folder, 9 - index, count) for index, count in enumerate(objects)]
    nasty = '日本 "a"\n\\n   ] }\u2028'
    samples = [replace(s, objects=tuple(replace(o, phrase=nasty + o.phrase) for o in s.objects)) for s in samples]
    write_part(folder, "val", samples)
    assert annotation_path(folder, "val").read_bytes() == as_a_whole(folder, "val", samples)


def test_a_part_that_cannot_be_written_leaves_the_file_as_it_was(folder):
    before = annotation_path(folder, "val").read_bytes()
    sample = make_sample(folder, 5)
    with pytest.raises(ValueError, match="not in the subpath"):
        write_part(folder, "val", [sample, replace(sample, id=6, path=Path("/elsewhere/6.png"))])
    assert annotation_path(folder, "val").read_bytes() == before


def test_the_bytes_do_not_depend_on_the_order_of_samples(folder):
    samples = [make_sample(folder, image_id) for image_id in (5, 6)]
    write_part(folder, "val", samples)
    first = annotation_path(folder, "val").read_bytes()
    write_part(folder, "val", samples[::-1])
    assert annotation_path(folder, "val").read_bytes() == first


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_opens_the_file(folder):
    with redirect_stdout(StringIO()):
        opened = COCO(str(annotation_path(folder, "test")))
    (sample,) = read_part(folder, "test")
    assert opened.loadImgs(4)[0]["file_name"] == "4.png"
    assert [category["name"] for category in opened.loadCats(opened.getCatIds())] == ["object"]
    annotations = opened.loadAnns(opened.getAnnIds(imgIds=[4], iscrowd=0))
    assert [annotation["id"] for annotation in annotations] == [obj.id for obj in sample.objects] == [40, 41]
    for annotation, obj in zip(annotations, sample.objects, strict=True):
        assert (opened.annToMask(annotation) == obj.mask()).all()
        assert annotation["bbox"] == list(obj.bbox)
        assert annotation["area"] == obj.area
        assert (annotation["phrase"], annotation["score"]) == (obj.phrase, obj.score)
