"""Many conversations over one image, packed into one sequence: a shared trunk and one branch each."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

SHORT_TRUNK = 256
"""A sequence may have this many tokens in its branches, however short its trunk is."""


class PromptAttention(Enum):
    """Which tokens of a conversation attend to later ones, too; the answer is causal in any case."""

    CAUSAL = "none of them"
    PREFIX = "those of the prompt, to all of the prompt: only conversations with the same prompt can share an image"
    IMAGE_BLOCK = "the visual ones, to all visual ones"
    RECURRENT = "none of them; layers that are no attention carry values on whatever the mask: one conversation each"


@dataclass(frozen=True)
class Tokens:
    """One conversation as tokens.

    Attributes:
        ids: token ids of the whole conversation.
        positions: position ids, one row per rotary axis (1, or 3 for Qwen2-VL).
        visual: indices of the visual tokens.
        answer: indices of the assistant's answer, its end token included.
        target: indices of the tokens of interest within the answer (the phrase, or the option label).
    """

    ids: Int[Tensor, "tokens"]
    positions: Int[Tensor, "axes tokens"]
    visual: Int[Tensor, "visual"]
    answer: Int[Tensor, "answer"]
    target: Int[Tensor, "target"]

    @property
    def prompt_length(self) -> int:
        """Number of tokens before the answer."""
        return int(self.answer[0])

    def both_ways(self, attention: PromptAttention) -> tuple[int, int]:
        """The tokens that attend to each other in both directions: the first, and one past the last."""
        match attention:
            case PromptAttention.CAUSAL | PromptAttention.RECURRENT:
                return 0, 0
            case PromptAttention.PREFIX:
                return 0, self.prompt_length
            case PromptAttention.IMAGE_BLOCK:
                return int(self.visual[0]), int(self.visual[-1]) + 1


@dataclass(frozen=True)
class Packed:
    """Conversations over one image in one sequence.

    Attributes:
        ids: token ids, trunk first, then the branches.
        positions: position ids; those of a branch continue where the trunk ends.
        branches: 0 for the tokens of the trunk, from 1 for those of each branch.
        both_ways: the tokens that attend to each other in both directions (``Tokens.both_ways``).
        visual: packed indices of the visual tokens.
        where: for every conversation, the packed index of each of its tokens.
        members: which conversations (indices into the packed list) these are.
    """

    ids: Int[Tensor, "tokens"]
    positions: Int[Tensor, "axes tokens"]
    branches: Int[Tensor, "tokens"]
    both_ways: tuple[int, int]
    visual: Int[Tensor, "visual"]
    where: tuple[Int[Tensor, "_"], ...]
    members: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Packed sequences padded on the right to one length.

    Attributes:
        ids: token ids, 0 where padded.
        positions: position ids, 0 where padded.
        branches: as of :class:`Packed`, -1 where padded.
        both_ways: as of :class:`Packed`, a first and a last a sequence.
        visual: packed indices of the visual tokens, one tensor per sequence.
        causal: how many first tokens of every sequence attend to all before them and to nothing else.
    """

    ids: Int[Tensor, "batch tokens"]
    positions: Int[Tensor, "axes batch tokens"]
    branches: Int[Tensor, "batch tokens"]
    both_ways: Int[Tensor, "batch 2"]
    visual: tuple[Int[Tensor, "_"], ...]
    causal: int

    @cached_property
    def mask(self) -> Bool[Tensor, "batch 1 tokens tokens"]:
        """True where the query (row) may attend to the key (column); a padded query attends to itself alone."""
        index = torch.arange(self.ids.shape[1], device=self.ids.device)
        query, key = self.branches[:, :, None], self.branches[:, None, :]
        mask = ((key == 0) & (query >= 0)) | ((key == query) & (query >= 0))
        mask &= index[None, None, :] <= index[None, :, None]
        within = (index >= self.both_ways[:, :1]) & (index < self.both_ways[:, 1:])
        mask |= within[:, :, None] & within[:, None, :]
        # A softmax over no key at all is NaN, also where nobody reads it: a padded query sees itself.
        mask |= torch.eye(len(index), dtype=torch.bool, device=mask.device)
        return mask[:, None]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device (the index lists stay where they are)."""
        if self.ids.device == torch.device(device):
            return self
        return Batch(
            ids=self.ids.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            branches=self.branches.to(device, non_blocking=True),
            both_ways=self.both_ways.to(device, non_blocking=True),
            visual=self.visual,
            causal=self.causal,
        )


def common_prefix(sequences: Sequence[Int[Tensor, "_"]]) -> int:
    """Length of the longest prefix that all sequences share."""
    shortest = min(len(sequence) for sequence in sequences)
    stacked = torch.stack([sequence[:shortest] for sequence in sequences])
    differs = (stacked != stacked[0]).any(dim=0)
    return int(differs.int().argmax()) if differs.any() else shortest


def pack(conversations: Sequence[Tokens], members: Sequence[int], attention: PromptAttention) -> Packed:
    """Pack conversations that share an image: their longest common prefix once, then one branch each.

    Args:
        conversations: over the same image; where the whole prompt attends in both directions it is the same, too.
        members: their indices in the caller's list, kept in the result.
        attention: the decoder's.

    Raises:
        ValueError: the common prefix does not hold the image, or all that attends in both directions; there are several
            conversations, and the decoder is recurrent.
    """
    if attention is PromptAttention.RECURRENT and len(conversations) > 1:
        raise ValueError("A recurrent decoder takes one conversation a sequence: packed ones would see each other.")
    trunk = common_prefix([conversation.ids for conversation in conversations])
    first = conversations[0]
    if trunk <= int(first.visual[-1]):
        raise ValueError("Conversations packed together must share their image.")
    both_ways = first.both_ways(attention)
    if any(trunk < conversation.both_ways(attention)[1] for conversation in conversations):
        raise ValueError("Conversations packed together must share their prompt: it attends in both directions.")
    ids, positions, where = [first.ids[:trunk]], [first.positions[:, :trunk]], []
    branches = [torch.zeros(trunk, dtype=torch.long)]
    total = trunk
    for number, conversation in enumerate(conversations, 1):
        branch = len(conversation.ids) - trunk
        where.append(torch.cat([torch.arange(trunk), torch.arange(total, total + branch)]))
        ids.append(conversation.ids[trunk:])
        positions.append(conversation.positions[:, trunk:])
        branches.append(torch.full((branch,), number))
        total += branch
    return Packed(
        ids=torch.cat(ids),
        positions=torch.cat(positions, 1),
        branches=torch.cat(branches),
        both_ways=both_ways,
        visual=first.visual,
        where=tuple(where),
        members=tuple(members),
    )


def pack_image(conversations: Sequence[Tokens], attention: PromptAttention) -> list[Packed]:
    """Pack all conversations over one image into sequences.

    A causal decoder can share any common prefix, and one that looks back and forth within the image any that holds the
    image. Where image and prompt attend to each other in both directions, only conversations with the same prompt can
    share one, and where something else than attention carries values on, none can. Attention grows with the square of
    a sequence, so a sequence has branches of together no more tokens than its trunk has (or than ``SHORT_TRUNK``): the
    cost grows in proportion to the conversations, and no sequence is longer than twice the image and its prompt.
    """
    if attention is PromptAttention.RECURRENT:
        return [pack([conversation], [index], attention) for index, conversation in enumerate(conversations)]
    groups: dict[Hashable, list[int]] = {}
    for index, conversation in enumerate(conversations):
        same = conversation.prompt_length if attention is PromptAttention.PREFIX else 0
        groups.setdefault(tuple(conversation.ids[:same].tolist()), []).append(index)
    return [
        pack([conversations[i] for i in piece], piece, attention)
        for group in groups.values()
        for piece in _cut(conversations, group)
    ]


def _cut(conversations: Sequence[Tokens], group: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive conversations that go into one sequence."""
    trunk = common_prefix([conversations[i].ids for i in group])
    most = max(trunk, SHORT_TRUNK)
    piece: list[int] = []
    tokens = 0
    for index in group:
        branch = len(conversations[index].ids) - trunk
        if piece and tokens + branch > most:
            yield piece
            piece, tokens = [], 0
        piece.append(index)
        tokens += branch
    yield piece


def collate(sequences: Sequence[Packed]) -> Batch:
    """Pad packed sequences on the right to the longest one."""
    longest = max(len(packed.ids) for packed in sequences)
    axes = sequences[0].positions.shape[0]
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    positions = torch.zeros(axes, len(sequences), longest, dtype=torch.long)
    branches = torch.full((len(sequences), longest), -1)
    for row, packed in enumerate(sequences):
        length = len(packed.ids)
        ids[row, :length] = packed.ids
        positions[:, row, :length] = packed.positions
        branches[row, :length] = packed.branches
    both_ways = torch.tensor([packed.both_ways for packed in sequences])
    causal = 0 if both_ways.any() else min(int((packed.branches == 0).sum()) for packed in sequences)
    return Batch(ids, positions, branches, both_ways, tuple(packed.visual for packed in sequences), causal)


def forwards(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Which sequences go through the decoder together: those of like length, of at most ``most_tokens`` with the
    padding, or one that is longer than that.

    Args:
        lengths: tokens of each sequence.
        most_tokens: bound of a batch, rows times columns.

    Returns:
        Indices into ``lengths``, from the shortest sequences to the longest.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= most_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@dataclass(frozen=True)
class PackedImages:
    """Conversations over several images, packed and padded.

    Attributes:
        batch: the padded sequences.
        images: per sequence, the index of its image.
        members: the conversations that are in it, each as the index of its image and its own among those of that image.
        tokens: these conversations.
        places: per conversation its sequence, and the packed index of each of its tokens.
    """

    batch: Batch
    images: tuple[int, ...]
    members: tuple[tuple[int, int], ...]
    tokens: tuple[Tokens, ...]
    places: tuple[tuple[int, Int[Tensor, "_"]], ...]

    def predicting(
        self, conversation: int, picked: Int[Tensor, "picked"]
    ) -> tuple[Int[Tensor, "picked"], Int[Tensor, "picked"]]:
        """Where the hidden states lie that predict the picked tokens of a conversation: sequence and packed index."""
        row, where = self.places[conversation]
        columns = where[picked - 1]
        return torch.full_like(columns, row), columns


def join(sequences: Sequence[tuple[int, Packed]], conversations: Sequence[Sequence[Tokens]]) -> PackedImages:
    """Pad packed sequences of several images to one length.

    Args:
        sequences: each with the index of its image.
        conversations: of every image, also those that are in none of the sequences.
    """
    found = [
        ((image, member), (row, where))
        for row, (image, packed) in enumerate(sequences)
        for member, where in zip(packed.members, packed.where, strict=True)
    ]
    found.sort(key=lambda entry: entry[0])
    return PackedImages(
        batch=collate([packed for _, packed in sequences]),
        images=tuple(image for image, _ in sequences),
        members=tuple(member for member, _ in found),
        tokens=tuple(conversations[image][member] for (image, member), _ in found),
        places=tuple(place for _, place in found),
    )


def pack_images(conversations: Sequence[Sequence[Tokens]], attention: PromptAttention) -> PackedImages:
    """Pack all conversations over each of several images, and pad the sequences to one length."""
    sequences = [
        (image, packed) for image, of_image in enumerate(conversations) for packed in pack_image(of_image, attention)
    ]
    return join(sequences, conversations)
