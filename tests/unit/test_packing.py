"""Packing of conversations by hand: ids, positions and who may see whom."""

import pytest
import torch

from headimpact.vlm import packing
from headimpact.vlm.packing import Packed, Tokens


def tokens(ids: list[int], prompt: int) -> Tokens:
    """A hand-made conversation: ids 9 are visual."""
    tensor = torch.tensor(ids)
    answer = torch.arange(prompt, len(ids))
    return Tokens(tensor, torch.arange(len(ids))[None], (tensor == 9).nonzero()[:, 0], answer, answer[:1])


def as_rows(mask: torch.Tensor) -> list[str]:
    return ["".join("x" if cell else "." for cell in row) for row in mask.tolist()]


def test_a_causal_pack_by_hand():
    packed = packing.pack([tokens([9, 9, 1, 2, 3], 3), tokens([9, 9, 1, 4], 3)], [0, 1], bidirectional=False)
    assert packed.ids.tolist() == [9, 9, 1, 2, 3, 4]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert [where.tolist() for where in packed.where] == [[0, 1, 2, 3, 4], [0, 1, 2, 5]]
    assert as_rows(packed.mask) == ["x.....", "xx....", "xxx...", "xxxx..", "xxxxx.", "xxx..x"]


def test_a_bidirectional_pack_by_hand():
    """The prompt sees itself both ways; the shared start of the answers stays causal."""
    packed = packing.pack([tokens([9, 1, 5, 2], 2), tokens([9, 1, 5, 3], 2)], [0, 1], bidirectional=True)
    assert packed.ids.tolist() == [9, 1, 5, 2, 3]
    assert as_rows(packed.mask) == ["xx...", "xx...", "xxx..", "xxxx.", "xxx.x"]


def test_packing_refuses_what_cannot_share():
    with pytest.raises(ValueError, match="share their image"):
        packing.pack([tokens([9, 9, 1], 2), tokens([8, 9, 1], 2)], [0, 1], bidirectional=False)
    with pytest.raises(ValueError, match="share their prompt"):
        packing.pack([tokens([9, 1, 2], 2), tokens([9, 3, 2], 2)], [0, 1], bidirectional=True)


def test_padding_changes_nothing_and_sees_itself():
    packs: list[Packed] = [
        packing.pack([tokens([9, 1, 2], 2)], [0], bidirectional=False),
        packing.pack([tokens([9, 1, 2, 3, 4], 2)], [0], bidirectional=False),
    ]
    batch = packing.collate(packs)
    assert batch.ids.tolist() == [[9, 1, 2, 0, 0], [9, 1, 2, 3, 4]]
    assert as_rows(batch.mask[0, 0]) == ["x....", "xx...", "xxx..", "...x.", "....x"]
