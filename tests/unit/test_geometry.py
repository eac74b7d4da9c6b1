"""Geometry by hand, and against PIL."""

import numpy as np
import pytest
from PIL import Image

from headimpact.vlm.geometry import Geometry, plane

LANCZOS, NEAREST = Image.Resampling.LANCZOS, Image.Resampling.NEAREST


def one(*sizes: tuple[int, int], pixels: int, tokens: tuple[int, int], crops: tuple[int, int] = (1, 1)) -> Geometry:
    height, width = sizes[0]
    return Geometry(width, height, (plane(sizes, LANCZOS, pixels, tokens, crops),))


def test_without_resizing_a_token_sees_the_mean_of_its_pixels():
    mask = np.zeros((4, 6), dtype=bool)
    mask[0, :3] = mask[3, 5] = True
    assert one((4, 6), pixels=2, tokens=(2, 3)).coverage(mask).tolist() == [0.5, 0.25, 0, 0, 0, 0.25]


def test_crops_come_one_after_the_other_and_their_last_pixels_are_not_seen():
    picture = np.arange(50).reshape(5, 10)
    geometry = one((5, 10), pixels=2, tokens=(2, 2), crops=(1, 2))
    corners = np.array([0, 2, 20, 22, 5, 7, 25, 27])
    assert geometry.tokens == 8
    np.testing.assert_allclose(geometry.means(picture), corners + 5.5)
    unseen = np.zeros((5, 10), dtype=bool)
    unseen[4], unseen[:, [4, 9]] = True, True
    assert not geometry.coverage(unseen).any()


def test_planes_come_in_their_order():
    first, second = (plane([(4, 4)], LANCZOS, side, (4 // side, 4 // side)) for side in (2, 4))
    geometry = Geometry(4, 4, (first, second))
    mask = np.zeros((4, 4), dtype=bool)
    mask[:2, 2:] = True
    assert geometry.tokens == 5
    assert geometry.coverage(mask).tolist() == [0, 1, 0, 0, 0.25]


@pytest.mark.parametrize("resample", Image.Resampling)
def test_resizing_twice_is_what_pil_does(resample: int):
    """Along an axis of more pixels than go through PIL at a time, and of one that stays as it is."""
    picture = np.random.default_rng(0).random((700, 40), dtype=np.float32)
    sizes = [(700, 40), (90, 60), (48, 60)]
    geometry = Geometry(40, 700, (plane(sizes, resample, 12, (4, 5)),))
    resized = Image.fromarray(picture).resize((60, 90), resample).resize((60, 48), resample)
    expected = np.asarray(resized).reshape(4, 12, 5, 12).mean(axis=(1, 3)).ravel()
    np.testing.assert_allclose(geometry.means(picture), expected, atol=1e-5)


def test_coverage_is_the_mean_of_the_mask_within_0_and_1():
    mask = np.zeros((30, 40), dtype=bool)
    mask[4:21, 15:33] = True
    geometry = one((30, 40), (90, 120), pixels=3, tokens=(30, 40))
    means = geometry.means(mask.astype(float))
    assert means.min() < -1e-3
    assert means.max() > 1 + 1e-3
    np.testing.assert_allclose(geometry.coverage(mask), means.clip(0, 1), atol=1e-5)
    assert not geometry.coverage(np.zeros((30, 40), dtype=bool)).any()
    assert (geometry.coverage(np.ones((30, 40), dtype=bool)) == 1).all()


def test_half_is_half_whatever_the_sizes():
    """The threshold of a token mask: rounding must not decide on the two halves of an image."""
    for side in range(20, 200, 7):
        half = np.zeros((2 * side, 2 * side), dtype=bool)
        half[:, :side] = True
        covered = one((2 * side, 2 * side), (70, 70), pixels=14, tokens=(5, 5)).coverage(half).reshape(5, 5)
        assert (covered[:, 2] == 0.5).all(), side


def test_what_a_filter_rings_beyond_the_edge_is_not_seen():
    """The last pixel of a crop, which no token sees; shrunk to half, the filter spreads it a little."""
    mask = np.zeros((132, 132), dtype=bool)
    mask[131, 131] = True
    geometry = one((132, 132), (66, 66), pixels=16, tokens=(4, 4))
    assert geometry.means(mask.astype(float)).max() > 0
    assert not geometry.coverage(mask).any()


@pytest.mark.parametrize("size", [(17, 23), (40, 30), (300, 500), (1, 1), (30, 40)])
def test_a_mask_of_another_size_is_stretched_as_pil_does(size: tuple[int, int]):
    mask = np.random.default_rng(1).random(size) < 0.1
    mask[:, 0] = mask[-1] = False
    geometry = one((30, 40), (28, 42), pixels=14, tokens=(2, 3))
    stretched = np.asarray(Image.fromarray(mask).resize((40, 30), NEAREST))
    assert geometry.coverage(mask).tolist() == geometry.coverage(stretched).tolist()
