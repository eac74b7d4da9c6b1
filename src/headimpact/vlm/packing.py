"""Many conversations over one image, packed into one sequence: a shared trunk and one branch each."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


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


@dataclass(frozen=True)
class Packed:
    """Conversations over one image in one sequence.

    Attributes:
        ids: token ids, trunk first, then the branches.
        positions: position ids; those of a branch continue where the trunk ends.
        mask: true where the query (row) may attend to the key (column).
        visual: packed indices of the visual tokens.
        where: for every conversation, the packed index of each of its tokens.
        members: which conversations (indices into the packed list) these are.
    """

    ids: Int[Tensor, "tokens"]
    positions: Int[Tensor, "axes tokens"]
    mask: Bool[Tensor, "tokens tokens"]
    visual: Int[Tensor, "visual"]
    where: tuple[Int[Tensor, "_"], ...]
    members: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Packed sequences padded on the right to one length.

    Attributes:
        ids: token ids, 0 where padded.
        positions: position ids, 0 where padded.
        mask: true where the query may attend to the key; a padded query attends to itself alone.
        visual: packed indices of the visual tokens, one tensor per sequence.
    """

    ids: Int[Tensor, "batch tokens"]
    positions: Int[Tensor, "axes batch tokens"]
    mask: Bool[Tensor, "batch 1 tokens tokens"]
    visual: tuple[Int[Tensor, "_"], ...]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device (the index lists stay where they are)."""
        return Batch(self.ids.to(device), self.positions.to(device), self.mask.to(device), self.visual)


def common_prefix(sequences: Sequence[Int[Tensor, "_"]]) -> int:
    """Length of the longest prefix that all sequences share."""
    shortest = min(len(sequence) for sequence in sequences)
    stacked = torch.stack([sequence[:shortest] for sequence in sequences])
    differs = (stacked != stacked[0]).any(dim=0)
    return int(differs.int().argmax()) if differs.any() else shortest


def pack(conversations: Sequence[Tokens], members: Sequence[int], bidirectional: bool) -> Packed:
    """Pack conversations that share an image: their longest common prefix once, then one branch each.

    Args:
        conversations: over the same image; with ``bidirectional`` they have the same prompt, too.
        members: their indices in the caller's list, kept in the result.
        bidirectional: the prompt's tokens attend to each other in both directions (PaliGemma); the answer is
            causal in any case.

    Raises:
        ValueError: the common prefix does not hold the image, or ``bidirectional`` prompts differ.
    """
    trunk = common_prefix([conversation.ids for conversation in conversations])
    first = conversations[0]
    if trunk <= int(first.visual[-1]):
        raise ValueError("Conversations packed together must share their image.")
    if bidirectional and any(trunk < conversation.prompt_length for conversation in conversations):
        raise ValueError("Conversations packed together must share their prompt: it attends in both directions.")
    ids, positions, where = [first.ids[:trunk]], [first.positions[:, :trunk]], []
    total = trunk
    for conversation in conversations:
        branch = len(conversation.ids) - trunk
        where.append(torch.cat([torch.arange(trunk), torch.arange(total, total + branch)]))
        ids.append(conversation.ids[trunk:])
        positions.append(conversation.positions[:, trunk:])
        total += branch
    mask = torch.zeros(total, total, dtype=torch.bool)
    for index in where:
        mask[index[:, None], index[None, :]] = torch.ones(len(index), len(index), dtype=torch.bool).tril()
    if bidirectional:
        mask[: first.prompt_length, : first.prompt_length] = True
    return Packed(torch.cat(ids), torch.cat(positions, 1), mask, first.visual, tuple(where), tuple(members))


def pack_image(conversations: Sequence[Tokens], bidirectional: bool) -> list[Packed]:
    """Pack all conversations over one image into as few sequences as the attention allows.

    A causal decoder can share any common prefix, so one sequence is enough. Where image and prompt attend to
    each other in both directions, only conversations with the same prompt can share one.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, conversation in enumerate(conversations):
        prompt = tuple(conversation.ids[: conversation.prompt_length].tolist()) if bidirectional else ()
        groups.setdefault(prompt, []).append(index)
    return [pack([conversations[i] for i in group], group, bidirectional) for group in groups.values()]


def collate(sequences: Sequence[Packed]) -> Batch:
    """Pad packed sequences on the right to the longest one."""
    longest = max(len(packed.ids) for packed in sequences)
    axes = sequences[0].positions.shape[0]
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    positions = torch.zeros(axes, len(sequences), longest, dtype=torch.long)
    # A softmax over no key at all is NaN, also where nobody reads it: a padded query sees itself.
    mask = torch.eye(longest, dtype=torch.bool).repeat(len(sequences), 1, 1)
    for row, packed in enumerate(sequences):
        length = len(packed.ids)
        ids[row, :length] = packed.ids
        positions[:, row, :length] = packed.positions
        mask[row, :length, :length] = packed.mask
    return Batch(ids, positions, mask[:, None], tuple(packed.visual for packed in sequences))


@dataclass(frozen=True)
class PackedImages:
    """Conversations over several images, packed and padded.

    Attributes:
        batch: the padded sequences.
        images: per sequence, the index of its image.
        conversations: per image its conversations.
        places: per image and conversation, the sequence and the packed index of each of its tokens.
    """

    batch: Batch
    images: tuple[int, ...]
    conversations: Sequence[Sequence[Tokens]]
    places: tuple[tuple[tuple[int, Int[Tensor, "_"]], ...], ...]

    def predicting(
        self, image: int, conversation: int, picked: Int[Tensor, "picked"]
    ) -> tuple[Int[Tensor, "picked"], Int[Tensor, "picked"]]:
        """Where the hidden states lie that predict the picked tokens: sequence and packed index."""
        row, where = self.places[image][conversation]
        columns = where[picked - 1]
        return torch.full_like(columns, row), columns


def pack_images(conversations: Sequence[Sequence[Tokens]], bidirectional: bool) -> PackedImages:
    """Pack the conversations over each of several images, and pad the sequences to one length."""
    sequences: list[Packed] = []
    images: list[int] = []
    places: list[dict[int, tuple[int, Tensor]]] = []
    for image, of_image in enumerate(conversations):
        places.append({})
        for packed in pack_image(of_image, bidirectional):
            places[-1] |= {m: (len(sequences), where) for m, where in zip(packed.members, packed.where, strict=True)}
            sequences.append(packed)
            images.append(image)
    ordered = tuple(tuple(by_index[i] for i in range(len(by_index))) for by_index in places)
    return PackedImages(collate(sequences), tuple(images), conversations, ordered)
