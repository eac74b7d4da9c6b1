"""Inputs of a transformers model's own forward: those of several conversations in one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def join(conversations: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Put the inputs of several conversations into one batch, as ``generate`` takes it.

    Args:
        conversations: each as ``Vlm.native_inputs`` gives it. What has a value a token is padded on the left, where
            ``attention_mask`` is 0 then; of all else the first axis is one of images or patches, which follow each
            other, and the others are filled up with zeros, as Idefics3 takes images of fewer crops.
    """
    lengths = [inputs["input_ids"].shape[1] for inputs in conversations]
    return {
        name: torch.cat(_left([inputs[name] for inputs in conversations], max(lengths)))
        if tensor.shape == (1, lengths[0])
        else torch.cat(_filled([inputs[name] for inputs in conversations]))
        for name, tensor in conversations[0].items()
    }


def _left(rows: Sequence[Tensor], length: int) -> list[Tensor]:
    return [nn.functional.pad(row, (length - row.shape[1], 0)) for row in rows]


def _filled(tensors: Sequence[Tensor]) -> list[Tensor]:
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    filled = [tensor.new_zeros(tensor.shape[0], *shape) for tensor in tensors]
    for whole, tensor in zip(filled, tensors, strict=True):
        whole[tuple(slice(size) for size in tensor.shape)] = tensor
    return filled
