"""Packing of conversations by hand: ids, positions and who may see whom."""

import pytest
import torch

from headimpact.vlm import packing
from headimpact.vlm.packing import Packed, PromptAttention, Tokens


def tokens(ids: list[int], prompt: int) -> Tokens:
    """A hand-made conversation: ids 9 are visual."""
    tensor = torch.tensor(ids)
    answer = torch.arange(prompt, len(ids))
    return Tokens(tensor, torch.arange(len(ids))[None], (tensor == 9).nonzero()[:, 0], answer, answer[:1])


def as_rows(mask: torch.Tensor) -> list[str]:
    return ["".join("x" if cell else "." for cell in row) for row in mask.tolist()]


def seen(packed: Packed) -> list[str]:
    """Which tokens every token of a single sequence attends to."""
    return as_rows(packing.collate([packed]).mask[0, 0])


def test_a_recurrent_decoder_has_one_conversation_a_sequence():
    pair = [tokens([9, 9, 1, 2, 3], 3), tokens([9, 9, 1, 4], 3)]
    packed = packing.pack_image(pair, PromptAttention.RECURRENT)
    assert [group.members for group in packed] == [(0,), (1,)]
    assert [group.ids.tolist() for group in packed] == [pair[0].ids.tolist(), pair[1].ids.tolist()]
    with pytest.raises(ValueError, match="takes one conversation a sequence"):
        packing.pack(pair, [0, 1], PromptAttention.RECURRENT)


def test_a_causal_pack_by_hand():
    packed = packing.pack([tokens([9, 9, 1, 2, 3], 3), tokens([9, 9, 1, 4], 3)], [0, 1], PromptAttention.CAUSAL)
    assert packed.ids.tolist() == [9, 9, 1, 2, 3, 4]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert [where.tolist() for where in packed.where] == [[0, 1, 2, 3, 4], [0, 1, 2, 5]]
    assert seen(packed) == ["x.....", "xx....", "xxx...", "xxxx..", "xxxxx.", "xxx..x"]
    assert packing.collate([packed]).causal == 3


def test_a_bidirectional_pack_by_hand():
    """The prompt sees itself both ways; the shared start of the answers stays causal."""
    packed = packing.pack([tokens([9, 1, 5, 2], 2), tokens([9, 1, 5, 3], 2)], [0, 1], PromptAttention.PREFIX)
    assert packed.ids.tolist() == [9, 1, 5, 2, 3]
    assert seen(packed) == ["xx...", "xx...", "xxx..", "xxxx.", "xxx.x"]
    assert packing.collate([packed]).causal == 0


def test_an_image_block_by_hand():
    """The image sees itself both ways and nothing behind it; what follows is causal, and the prompts differ."""
    first, second = tokens([1, 9, 9, 2, 3], 4), tokens([1, 9, 9, 4, 5], 4)
    packed = packing.pack([first, second], [0, 1], PromptAttention.IMAGE_BLOCK)
    assert packed.both_ways == (1, 3)
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 3, 4]]
    assert seen(packed) == ["x......", "xxx....", "xxx....", "xxxx...", "xxxxx..", "xxx..x.", "xxx..xx"]
    assert [group.members for group in packing.pack_image([first, second], PromptAttention.IMAGE_BLOCK)] == [(0, 1)]


def test_packing_refuses_what_cannot_share():
    with pytest.raises(ValueError, match="share their image"):
        packing.pack([tokens([9, 9, 1], 2), tokens([8, 9, 1], 2)], [0, 1], PromptAttention.CAUSAL)
    with pytest.raises(ValueError, match="share their prompt"):
        packing.pack([tokens([9, 1, 2], 2), tokens([9, 3, 2], 2)], [0, 1], PromptAttention.PREFIX)


def test_padding_changes_nothing_and_sees_itself():
    packs: list[Packed] = [
        packing.pack([tokens([9, 1, 2], 2)], [0], PromptAttention.CAUSAL),
        packing.pack([tokens([9, 1, 2, 3, 4], 2)], [0], PromptAttention.CAUSAL),
    ]
    batch = packing.collate(packs)
    assert batch.ids.tolist() == [[9, 1, 2, 0, 0], [9, 1, 2, 3, 4]]
    assert as_rows(batch.mask[0, 0]) == ["x....", "xx...", "xxx..", "...x.", "....x"]
    assert batch.branches.tolist() == [[0, 0, 0, -1, -1], [0] * 5]
    assert batch.causal == 3


def test_a_prompt_in_both_directions_ends_where_its_sequence_does():
    """Beside a longer one, and beside one that is causal."""
    packs = [
        packing.pack([tokens([9, 1, 2], 2)], [0], PromptAttention.PREFIX),
        packing.pack([tokens([9, 9, 1, 2], 3)], [0], PromptAttention.PREFIX),
        packing.pack([tokens([9, 1], 1)], [0], PromptAttention.CAUSAL),
    ]
    mask = packing.collate(packs).mask[:, 0]
    assert as_rows(mask[0]) == ["xx..", "xx..", "xxx.", "...x"]
    assert as_rows(mask[1]) == ["xxx.", "xxx.", "xxx.", "xxxx"]
    assert as_rows(mask[2]) == ["x...", "xx..", "..x.", "...x"]


def test_conversations_of_several_images_by_hand():
    """Image and place of each, where sequences come in another order than the images."""
    first = [tokens([9, 1, 2], 2), tokens([9, 1, 3], 2)]
    second = [tokens([9, 9, 4], 2)]
    sequences = [
        (1, packing.pack(second, [0], PromptAttention.CAUSAL)),
        (0, packing.pack(first, [0, 1], PromptAttention.CAUSAL)),
    ]
    packed = packing.join(sequences, [first, second])
    assert packed.images == (1, 0)
    assert packed.members == ((0, 0), (0, 1), (1, 0))
    assert [one.ids.tolist() for one in packed.tokens] == [[9, 1, 2], [9, 1, 3], [9, 9, 4]]
    assert [(row, where.tolist()) for row, where in packed.places] == [(1, [0, 1, 2]), (1, [0, 1, 3]), (0, [0, 1, 2])]
    rows, columns = packed.predicting(1, torch.tensor([2]))
    assert (rows.tolist(), columns.tolist()) == ([1], [1])
