"""The decoder's attention: SDPA for the output, exact softmax rows for the description tokens alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from headimpact import clock

NAME = "headimpact"
QUERY_CHUNK = 256
LONG = 512
"""From this many causal tokens on, attention without a mask saves more than a second call costs."""


@dataclass(frozen=True)
class Description:
    """One object's description in a batch of packed sequences.

    Attributes:
        row: which sequence of the batch.
        queries: packed indices of the description tokens.
        visual: packed indices of the image's visual tokens, the same for all descriptions of a sequence.
    """

    row: int
    queries: Int[Tensor, "queries"]
    visual: Int[Tensor, "visual"]


@dataclass(frozen=True)
class RowCapture:
    """What to read from every layer's attention, and who takes it.

    Attributes:
        descriptions: the objects of the batch.
        take: called once a layer with the layer's index and, per object, the attention of its description
            tokens to the visual tokens, averaged over the description tokens: ``Float[Tensor, "heads visual"]``.
            The rows are the model's own softmax over all keys, in float32 (design: A(l, h, v)).
    """

    descriptions: Sequence[Description]
    take: Callable[[int, list[Tensor]], None]


def softmax_rows(
    query: Float[Tensor, "heads queries width"],
    key: Float[Tensor, "kv_heads keys width"],
    mask: Bool[Tensor, "queries keys"],
    scaling: float,
    softcap: float | None,
) -> Float[Tensor, "heads queries keys"]:
    """Attention probabilities in float32; key heads serve equal groups of query heads (GQA)."""
    heads, queries, width = query.shape
    grouped = query.float().reshape(key.shape[0], -1, width)
    scores = (grouped @ key.float().transpose(1, 2)).reshape(heads, queries, -1) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)


def softcapped_attention(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch kv_heads keys width"],
    value: Float[Tensor, "batch kv_heads keys width"],
    mask: Bool[Tensor, "batch 1 queries keys"],
    scaling: float,
    softcap: float,
) -> Float[Tensor, "batch queries heads width"]:
    """Attention with Gemma 2's logit softcap, which SDPA cannot do; sequence by sequence and in chunks of queries, so
    that no more than ``heads x QUERY_CHUNK x keys`` probabilities exist at a time (and stay in a CPU's cache)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    query = query * (scaling / softcap)
    outputs = [
        _softcapped(chunk, key[row], value[row], mask_chunk, softcap)
        for row in range(len(query))
        for chunk, mask_chunk in zip(
            query[row].split(QUERY_CHUNK, dim=1), mask[row].split(QUERY_CHUNK, dim=1), strict=True
        )
    ]
    return torch.cat(outputs, dim=1).unflatten(1, (len(query), -1)).permute(1, 2, 0, 3).contiguous()


def _softcapped(
    query: Float[Tensor, "heads queries width"],
    key: Float[Tensor, "heads keys width"],
    value: Float[Tensor, "heads keys width"],
    mask: Bool[Tensor, "1 queries keys"],
    softcap: float,
) -> Float[Tensor, "heads queries width"]:
    """Of queries that are scaled and divided by the softcap."""
    closed = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill(~mask, float("-inf"))
    # One pass over the largest tensor there is, not two: softcap * capped, -inf where closed.
    scores = torch.add(closed, torch.tanh(query @ key.transpose(1, 2)), alpha=softcap)
    return scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value


@torch.no_grad()
def capture_rows(
    capture: RowCapture,
    layer: int,
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch kv_heads keys width"],
    mask: Bool[Tensor, "batch 1 queries keys"],
    scaling: float,
    softcap: float | None,
) -> None:
    """Compute the rows of all descriptions, keep the visual columns, average over each description's tokens, and hand
    them on; the rows of one sequence are computed together, ``QUERY_CHUNK`` at a time."""
    of_rows: dict[int, list[int]] = {}
    for index, description in enumerate(capture.descriptions):
        of_rows.setdefault(description.row, []).append(index)
    maps: dict[int, Tensor] = {}
    for row, indices in of_rows.items():
        chosen = [capture.descriptions[index] for index in indices]
        visual = chosen[0].visual.to(query.device)
        queries = torch.cat([description.queries for description in chosen]).to(query.device)
        rows = torch.cat(
            [
                softmax_rows(query[row][:, chunk], key[row], mask[row, 0, chunk], scaling, softcap)[:, :, visual]
                for chunk in queries.split(QUERY_CHUNK)
            ],
            dim=1,
        )
        means = [of_one.mean(dim=1) for of_one in rows.split([len(d.queries) for d in chosen], dim=1)]
        maps.update(zip(indices, means, strict=True))
    capture.take(layer, [maps[index] for index in range(len(capture.descriptions))])


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    softcap: float | None = None,
    capture: RowCapture | None = None,
    causal: int = 0,
    **kwargs,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every decoder layer (``AttentionInterface``).

    A ``capture`` reaches it as a keyword argument of the decoder's forward, and so does the number of first tokens of
    which the mask is ``causal``.
    """
    if capture is not None:
        with clock.part("capture"):
            capture_rows(capture, cast(int, module.layer_idx), query, key, attention_mask, scaling, softcap)
    if softcap is not None:
        return softcapped_attention(query, key, value, attention_mask, scaling, softcap), None
    if causal:
        return partly_causal_attention(module, query, key, value, attention_mask, scaling, causal, **kwargs), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def partly_causal_attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads tokens width"],
    key: Float[Tensor, "batch kv_heads tokens width"],
    value: Float[Tensor, "batch kv_heads tokens width"],
    mask: Bool[Tensor, "batch 1 tokens tokens"],
    scaling: float,
    causal: int,
    **kwargs,
) -> Float[Tensor, "batch tokens heads width"]:
    """SDPA, in which the ``causal`` first queries go without the mask: it would compute all that is masked there, which
    is half of everything, and a GPU has faster kernels for causal attention than for a mask."""
    first = [states[:, :, :causal] for states in (query, key, value)]
    output, _ = sdpa_attention_forward(
        module,
        *first,
        None,  # pyright: ignore[reportCallIssue] # three tensors
        scaling=scaling,
        **{**kwargs, "is_causal": True},
    )
    if causal == query.shape[2]:
        return output
    rest, mask = query[:, :, causal:], mask[:, :, causal:]
    others, _ = sdpa_attention_forward(module, rest, key, value, mask, scaling=scaling, **kwargs)
    return torch.cat([output, others], dim=1)


def _full_mask(*args, **kwargs) -> Tensor | None:
    """SDPA's boolean mask, never replaced by ``is_causal``: softcapped attention has to see it."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, _full_mask)
