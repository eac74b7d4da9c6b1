"""Masks in COCO's three forms, good and bad."""

from pathlib import Path

import numpy as np
import pytest
from small_datasets import CROSS, HEIGHT, WIDTH, edit, refuses, write_small_dataset

from headimpact.data.coco import read_part
from headimpact.data.masks import run_lengths
from headimpact.data.samples import key_object


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_small_dataset(tmp_path / "mine")


def segmentation(value):
    return lambda content: content["annotations"][0].update(segmentation=value)


def test_key_object_measures_its_mask():
    obj = key_object(3, "cross", CROSS, 0.9)
    assert (obj.mask() == CROSS).all()
    assert obj.mask().dtype == bool
    assert obj.area == CROSS.sum() == 13
    assert obj.bbox == (3.0, 2.0, 7.0, 7.0)
    assert obj.rle["size"] == [HEIGHT, WIDTH]
    assert isinstance(obj.rle["counts"], str)


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_of_any_mask_are_read_as_they_were_written(seed):
    rng = np.random.default_rng(seed)
    mask = np.repeat(rng.random((60, 90)) < rng.random(), rng.integers(1, 40), axis=1)
    obj = key_object(1, "noise", mask, 1.0)
    flat = np.concatenate([[False], mask.T.ravel()])
    starts = np.flatnonzero(np.diff(flat.astype(int)))
    assert run_lengths(obj.rle["counts"]).tolist() == np.diff([0, *starts, mask.size]).tolist()


def character_by_character(counts: str) -> list[int]:
    """As rleFrString in maskApi.c."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError(counts)
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError(counts)
    return runs


def test_run_lengths_of_any_text_are_those_of_its_characters_one_by_one():
    rng = np.random.default_rng(0)
    good = bad = 0
    for index in range(4000):
        numbers = rng.integers(48, 112, size=index % 17)
        counts = "".join(map(chr, numbers)) + ("", "", "", "0", "o" * 6 + "0", "o" * 7 + "0", "/", "p", "é")[index % 9]
        try:
            expected = character_by_character(counts)
        except ValueError:
            bad += 1
            with pytest.raises(ValueError, match=r"must not, a run length beyond|ordinal not in range"):
                run_lengths(counts)
        else:
            good += 1
            assert run_lengths(counts).tolist() == expected
    assert min(good, bad) > 500


def test_run_lengths_of_more_pixels_than_64_bits_are_no_mask(folder):
    counts = "oooooo?" * 6 + "0" * 30_000  # differences of nothing: runs of 2**34 - 1 that come again and again
    assert sum(character_by_character(counts)) > 2**48
    refuses(folder, segmentation({"size": [HEIGHT, WIDTH], "counts": counts}), "do not decode to 20x12 pixels")


def test_polygons_and_plain_run_lengths_are_read_too(folder):
    edit(folder, segmentation([[2, 3, 8, 3, 8, 9, 2, 9], [10, 0, 12, 0, 12, 2, 10, 2]]))
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[3:9, 2:8] = expected[0:2, 10:12] = True
    (sample,) = read_part(folder, "test")
    assert (sample.objects[0].mask() == expected).all()
    assert sample.objects[0].area == expected.sum()
    edit(folder, segmentation({"size": [HEIGHT, WIDTH], "counts": [14, 3, HEIGHT * WIDTH - 17]}))
    (sample,) = read_part(folder, "test")
    assert np.argwhere(sample.objects[0].mask()).tolist() == [[2, 1], [3, 1], [4, 1]]


def test_mask_of_another_size_than_its_image(folder):
    refuses(
        folder,
        lambda content: content["images"][0].update(width=WIDTH + 1),
        "annotation 40 of image 4: the mask is 20x12 pixels, its image 21x12. Make a mask of the",
    )


@pytest.mark.parametrize(
    "counts",
    [
        "",  # pycocotools would decode it to what the memory holds
        "34",  # too few pixels
        "3X1",  # too many
        "34=P",  # ends inside a number
        "zz zé",
        "o" * 100_000,  # one number of half a million bits
        [3, 4],
        [-1, 241],
        [],
    ],
)
def test_run_lengths_that_are_no_mask(folder, counts):
    wrong = segmentation({"size": [HEIGHT, WIDTH], "counts": counts})
    refuses(folder, wrong, "annotation 40 of image 4: the mask's run lengths do not decode to 20x12 pixels")


@pytest.mark.parametrize("polygons", [[], [[1, 1, 5, 5]], [[1, 1, 5, 5, 1, 5, 3]]])
def test_polygons_that_are_none(folder, polygons):
    refuses(folder, segmentation(polygons), "annotation 40 of image 4: a polygon is x, y, x, y")


@pytest.mark.parametrize("far", [1e9, 1e300, float("inf"), float("nan")])
def test_polygons_that_would_take_the_memory(folder, far):
    wrong = "annotation 40 of image 4: the outline of its polygons is longer than 1000000 pixels or not a number"
    refuses(folder, segmentation([[1, 1, far, 5, 1, 5]]), wrong)


def test_an_outline_may_cross_the_image_only_so_often(folder):
    wrong = "the outline of its polygons is longer than 1000000 pixels"
    refuses(folder, segmentation([[0, 0, 20, 12] * 30_000]), wrong)


def test_polygons_may_leave_the_image_a_little(folder):
    edit(folder, segmentation([[-5, -3, 8, -3, 8, 9, -5, 9]]))
    (sample,) = read_part(folder, "test")
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[:9, :8] = True
    assert (sample.objects[0].mask() == expected).all()


@pytest.mark.parametrize(
    ("masks", "what"),
    [
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "is empty"),
        ([[5, 5, 5, 5, 5, 5]], "is empty"),
        ({"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}, "covers the whole image"),
    ],
)
def test_masks_that_show_nothing(folder, masks, what):
    wrong = f"annotation 40 of image 4: the mask {what}. Correct the mask or remove the annotation"
    refuses(folder, segmentation(masks), wrong)


@pytest.mark.parametrize("side", [10**4, 10**9, 10**300])
def test_masks_of_huge_images_are_not_decoded(folder, side):
    def change(content):
        content["images"][0].update(width=side, height=side)
        content["annotations"][0]["segmentation"] = {"size": [side, side], "counts": [1, side * side - 1]}

    refuses(folder, change, "annotation 40 of image 4: has more than 50 megapixels. Make it smaller")
