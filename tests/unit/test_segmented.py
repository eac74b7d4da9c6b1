"""The samples of objects.jsonl, and what is dropped of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from headimpact.data import segmented
from headimpact.data.samples import key_object
from headimpact.errors import InputError


def rle_of(area: int) -> dict:
    """A mask of 4x3 pixels with that many pixels set."""
    mask = np.arange(12).reshape(3, 4) < area
    return dict(key_object(0, "p", mask, 1.0).rle)


def item(score: float, area: int = 5, phrase: str = "a dog") -> dict:
    return {"phrase": phrase, "box": [0, 0, 4, 3], "score": score, "rle": rle_of(area)}


def write(folder: Path, *objects: list[dict] | str) -> Path:
    path = folder / "objects.jsonl"
    with path.open("w") as stream:
        for number, segments in enumerate(objects, 1):
            line = {"image_id": number, "file_name": f"{number}.jpg", "width": 4, "height": 3, "objects": segments}
            if isinstance(segments, str):
                line |= {"objects": [], "error": segments}
            stream.write(json.dumps(line) + "\n")
    return path


def test_samples_are_what_is_left_and_the_account_says_what_was_dropped(tmp_path):
    path = write(
        tmp_path,
        [item(0.9), item(0.84, area=7), item(0.95, area=0), item(0.85, area=12)],
        [item(0.5), item(0.99, area=0), item(0.3, area=0)],
        [],
        "it is torn",
        [item(0.85, phrase="a cat")],
    )
    samples = list(segmented.samples(path, tmp_path / "images", 0.85))
    assert [(sample.id, sample.path) for sample in samples] == [
        (1, tmp_path / "images" / "1.jpg"),
        (5, tmp_path / "images" / "5.jpg"),
    ]
    assert [(obj.id, obj.area, obj.score) for obj in samples[0].objects] == [(1000, 5, 0.9), (1003, 12, 0.85)]
    assert [(obj.id, obj.phrase) for obj in samples[1].objects] == [(5000, "a cat")]
    assert samples[0].objects[0].bbox == (0, 0, 4, 2)
    assert segmented.account(path, 0.85) == segmented.Account(
        images=5,
        objects=8,
        kept_images=2,
        kept_objects=3,
        dropped_images={"no object left": 1, "no phrase found": 1, "could not be worked on": 1},
        dropped_objects={"confidence below the smallest": 3, "empty mask": 2},
        errors=((4, "it is torn"),),
    )


def test_an_objects_id_stays_the_same_when_less_is_dropped(tmp_path):
    path = write(tmp_path, [item(0.4), item(0.6), item(0.9)])
    ids = [
        {obj.id for sample in segmented.samples(path, tmp_path, score) for obj in sample.objects}
        for score in (0.8, 0.5, 0.0)
    ]
    assert ids == [{1002}, {1001, 1002}, {1000, 1001, 1002}]


def test_samples_come_one_at_a_time(tmp_path):
    path = write(tmp_path, [item(0.9)], [item(0.9)])
    path.write_text(path.read_text() + "torn")
    samples = segmented.samples(path, tmp_path, 0.5)
    assert [next(samples).id, next(samples).id] == [1, 2]
    with pytest.raises(InputError, match="line 3: the line: Invalid JSON"):
        next(samples)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rle": {"size": [4, 3], "counts": rle_of(5)["counts"]}}, "object 1 of image 1: the mask is 3x4 pixels"),
        ({"rle": {"size": [3, 4], "counts": "PPP"}}, "object 1 of image 1: .* do not decode to 4x3 pixels"),
        ({"phrase": " "}, r"line 1: objects\.1\.phrase"),
        ({"score": 1.2}, r"line 1: objects\.1\.score"),
        ({"box": [1, 2, 3]}, r"line 1: objects\.1\.box"),
    ],
)
def test_an_object_that_cannot_be_used_is_told(tmp_path, wrong, message):
    path = write(tmp_path, [item(0.9), item(0.9) | wrong])
    with pytest.raises(InputError, match=message):
        list(segmented.samples(path, tmp_path, 0.5))
    with pytest.raises(InputError, match=message):
        segmented.account(path, 0.5)


def test_more_objects_than_ids_are_told(tmp_path):
    path = write(tmp_path, [item(0.9)] * 1001)
    with pytest.raises(InputError, match="line 1: objects: Tuple should have at most 1000 items"):
        list(segmented.samples(path, tmp_path, 0.5))
