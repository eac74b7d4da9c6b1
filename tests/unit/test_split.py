"""Splits by image: the sizes that are asked for, or their proportions."""

import pytest

from headimpact.data.split import least_of, split, split_in_proportion
from headimpact.errors import InputError

SIZES = {"impact": 10, "train": 12, "val": 3, "test": 5}


def test_split_is_by_image_and_does_not_depend_on_order():
    sizes = {"impact": 10, "train": 20, "val": 5, "test": 8}
    ids = range(100, 150)
    parts = split(ids, sizes, seed=1)
    assert {part: len(chosen) for part, chosen in parts.items()} == sizes
    chosen = [image_id for part in parts.values() for image_id in part]
    assert len(set(chosen)) == 43
    assert set(chosen) <= set(ids)
    assert all(part == sorted(part) for part in parts.values())
    assert split([*reversed(ids), 120, 121], sizes, seed=1) == parts
    assert split(ids, sizes, seed=2) != parts


def test_split_needs_enough_images():
    with pytest.raises(InputError, match=r"need 6 images, there are 5. Make the parts smaller in params.yaml"):
        split([1, 2, 3, 4, 5, 5], {"impact": 2, "train": 4}, seed=0)


def test_enough_images_give_exactly_the_sizes():
    chosen = split_in_proportion(range(100), SIZES, seed=1)
    assert chosen == split(range(100), SIZES, seed=1)
    assert {part: len(ids) for part, ids in chosen.items()} == SIZES
    assert split_in_proportion(range(30), SIZES, seed=1) == split(range(30), SIZES, seed=1)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (29, [10, 11, 3, 5]),  # 9.67, 11.6, 2.9, 4.83
        (15, [5, 6, 2, 2]),  # 5, 6, 1.5, 2.5: the first of two equal remainders
        (12, [4, 5, 1, 2]),
        (7, [2, 2, 1, 2]),  # 2.33, 2.8, 0.7, 1.17 make 2, 3, 1, 1: test takes one from train, which has most to spare
        (6, [2, 1, 1, 2]),
    ],
)
def test_fewer_images_are_divided_in_proportion(images, expected):
    chosen = split_in_proportion(range(images), SIZES, seed=1)
    assert [len(ids) for ids in chosen.values()] == expected
    assert sorted(i for ids in chosen.values() for i in ids) == list(range(images))


@pytest.mark.parametrize("images", range(6, 30))
def test_every_image_is_used_and_no_part_is_too_small_or_far_from_its_share(images):
    sizes = {"impact": 1000, "train": 1200, "val": 300, "test": 500}
    counts = {part: len(ids) for part, ids in split_in_proportion(range(images), sizes, seed=1).items()}
    assert sum(counts.values()) == images
    far = 1 if images >= 10 else 2  # the least of impact and test counts more than their shares
    assert all(abs(counts[part] - images * size / 3000) < far for part, size in sizes.items())
    assert all(counts[part] >= needed for part, needed in least_of(counts).items())


def test_shares_are_of_all_images_whatever_their_number():
    shares = {"impact": 0.25, "train": 0.5, "val": 0.1, "test": 0.15}
    for images, expected in ((100, [25, 50, 10, 15]), (10_000, [2500, 5000, 1000, 1500]), (13, [3, 7, 1, 2])):
        chosen = split_in_proportion(range(images), shares, seed=1)
        assert [len(ids) for ids in chosen.values()] == expected
    half = {part: share / 2 for part, share in shares.items()}
    assert sum(len(ids) for ids in split_in_proportion(range(100), half, seed=1).values()) == 50


def test_too_few_images_are_refused():
    wrong = r"There are 3 images with a usable object; a dataset needs at least 6: 2 for impact, 1 for train, 1 for val"
    with pytest.raises(InputError, match=wrong):
        split_in_proportion([1, 2, 3, 3], SIZES, seed=1)
