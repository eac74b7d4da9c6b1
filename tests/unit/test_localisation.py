"""Spatial entropy, the elbow and the heads that localise, by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from headimpact.selection import localisation
from headimpact.vlm.tokengrid import TokenGrid


def picture(*rows: str) -> Tensor:
    """Attention from a drawing: a digit is a weight, a point none."""
    return torch.tensor([[0.0 if cell == "." else float(cell) for cell in row] for row in rows]).flatten()


@pytest.mark.parametrize(
    ("rows", "entropy"),
    [
        (["9...", "....", "....", "...."], 0.0),
        (["9...", "9...", ".9..", "...."], 0.0),  # corners touch
        (["9...", "....", "....", "...9"], math.log(2)),
        (["6...", "....", ".3..", "...."], -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))),
        (["91..", "....", "....", "...."], 0.0),  # the 1 is at most the mean: no part of the region
        (["5555", "5555", "5555", "5555"], math.inf),
        (["....", "....", "....", "...."], math.inf),
    ],
)
def test_spatial_entropy_by_hand(rows, entropy):
    """Beside another map, which must not matter."""
    other = picture("9.9.", "....", "9.9.", "....")
    found = localisation.spatial_entropy(torch.stack([picture(*rows), other]), TokenGrid(4, 4))
    assert found == pytest.approx([entropy, math.log(4)])


def test_crops_are_joined_and_the_whole_image_is_a_map_of_its_own():
    left, right, whole = picture("..", ".9"), picture("..", "9."), picture("..", "..")
    grid = TokenGrid(2, 2, 1, 2)
    maps = torch.stack([torch.cat([left, right, whole]), torch.cat([left, whole, right])])
    assert localisation.spatial_entropy(maps, grid) == pytest.approx([0, math.log(2)])
    above, below = picture("..", ".9"), picture(".9", "..")
    maps = torch.cat([above, below, whole])[None]
    assert localisation.spatial_entropy(maps, TokenGrid(2, 2, 2, 1)) == pytest.approx([0])


@pytest.mark.parametrize(
    ("values", "elbow"),
    [
        ([0.9, 0.1, 0.12, 0.11, 0.13], 0.13),  # few are high
        ([0.9, 0.1, 0.92, 0.91, 0.93], 0.9),  # few are low
        ([0.3, 0.3, 0.3], 0.3),
        ([0.7], 0.7),
    ],
)
def test_elbow_by_hand(values, elbow):
    assert localisation.elbow(np.array(values)) == elbow


def test_localisation_by_hand():
    """Heads that do not look at the image are out; the most concentrated are picked; equal ones share a place."""
    share = np.array([[[0.01, 0.8], [0.82, 0.81]]]).repeat(2, axis=0)
    entropy = np.array([[[0.0, 0.5], [0.2, 0.9]], [[0.0, 0.7], [0.7, np.inf]]])
    found = localisation.localisation(share, entropy, picked=1)
    assert found.tolist() == [[0.0, 0.25], [0.75, 0.0]]
    found = localisation.localisation(share, entropy, picked=10)
    assert found.tolist() == [[0.0, 1.0], [1.0, 0.5]]
