"""No image is in two parts, by its id or by its pixels."""

from pathlib import Path

import pytest
from PIL import Image
from small_datasets import HEIGHT, WIDTH, make_sample, save_image, write_small_dataset

from headimpact.data.checking import verify
from headimpact.data.coco import PARTS, read_part
from headimpact.data.manifest import write_manifest
from headimpact.data.overlap import check_pictures
from headimpact.data.problems import Problem
from headimpact.data.writing import write_part
from headimpact.errors import InputError


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_small_dataset(tmp_path / "mine")


def test_an_image_in_two_parts_is_refused(folder):
    write_part(folder, "train", [make_sample(folder, 2), make_sample(folder, 4)])
    write_manifest(folder)
    with pytest.raises(InputError, match=r"image 4: it is in train and in test\. Keep it in one part"):
        verify(folder)


def test_pictures_that_cannot_be_read_or_are_in_two_parts(folder):
    parts = {part: read_part(folder, part) for part in PARTS}
    problems: list[Problem] = []
    for image_id in (1, 2, 3):
        save_image(folder / "images" / f"{image_id}.png").write_bytes(b"no image" if image_id == 3 else b"")
    for image_id, colour in ((1, "red"), (2, "blue"), (4, "red")):
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(folder / "images" / f"{image_id}.png")
    check_pictures(parts, problems.append)
    assert [(problem.file.name, problem.record, problem.what) for problem in problems] == [
        ("3.png", "image 3", "is not a PNG or JPEG image"),
        ("4.png", "image 4", "it is in test, and the same picture is in impact as image 1"),
    ]
    with pytest.raises(InputError, match=r"3\.png: image 3: is not a PNG"):
        check_pictures(parts)
