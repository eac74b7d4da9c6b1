"""Attention rows and softcapped attention against loops and against the whole at once."""

import torch

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
