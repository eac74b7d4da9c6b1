"""Attention rows and softcapped attention against loops and against the whole at once."""

import torch
from torch import nn

from headimpact.vlm import attention


def test_softmax_rows_against_a_naive_loop():
    torch.manual_seed(0)
    query, key = torch.randn(4, 3, 8), torch.randn(2, 5, 8)
    mask = torch.rand(3, 5) > 0.3
    mask[:, 0] = True
    for softcap in (None, 2.0):
        found = attention.softmax_rows(query, key, mask, 0.25, softcap)
        for head in range(4):
            for row in range(3):
                scores = torch.tensor([float(query[head, row] @ key[head // 2, k]) * 0.25 for k in range(5)])
                if softcap:
                    scores = softcap * torch.tanh(scores / softcap)
                weights = torch.where(mask[row], scores.exp(), 0.0)
                torch.testing.assert_close(found[head, row], weights / weights.sum())


def test_softcapped_attention_in_chunks_equals_the_whole(monkeypatch):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 7, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8)
    mask = torch.ones(7, 7, dtype=torch.bool).tril().expand(2, 1, 7, 7)
    whole = attention.softcapped_attention(query, key, value, mask, 0.3, 5.0)
    monkeypatch.setattr(attention, "QUERY_CHUNK", 2)
    torch.testing.assert_close(attention.softcapped_attention(query, key, value, mask, 0.3, 5.0), whole)


class _GroupedAttention(nn.Module):
    num_key_value_groups = 2


def test_attention_that_is_causal_at_first_is_that_with_the_mask():
    """Outputs and gradients, with a branch behind the trunk, and without one."""
    torch.manual_seed(0)
    module = _GroupedAttention()
    query, key, value = states = [torch.randn(2, heads, 7, 8, requires_grad=True) for heads in (4, 2, 2)]
    mask = torch.ones(7, 7, dtype=torch.bool).tril().expand(2, 1, 7, 7).clone()
    for causal in (5, 7):
        mask[..., 6, 5] = causal == 7
        whole, _ = attention.attention_forward(module, query, key, value, mask, 0.3)
        parts, _ = attention.attention_forward(module, query, key, value, mask, 0.3, causal=causal)
        torch.testing.assert_close(parts, whole)
        expected, found = (torch.autograd.grad(output.square().sum(), states) for output in (whole, parts))
        torch.testing.assert_close(found, expected)
