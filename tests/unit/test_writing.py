"""Parts as they are written: the same bytes whatever the order, read back, and opened by other COCO tools."""

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from small_datasets import make_sample, write_small_dataset

from headimpact.data.coco import annotation_path, read_part
from headimpact.data.writing import write_part


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_small_dataset(tmp_path / "mine")


def test_what_is_written_is_read(folder):
    samples = [make_sample(folder, 7, objects=0), make_sample(folder, 5), make_sample(folder, 6, objects=1)]
    write_part(folder, "val", samples)
    assert read_part(folder, "val") == sorted(samples, key=lambda sample: sample.id)


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
