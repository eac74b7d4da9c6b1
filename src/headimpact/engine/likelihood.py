"""Log-probabilities of chosen tokens of packed conversations: only those hidden states are projected."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headimpact import clock
from headimpact.vlm.base import Vlm
from headimpact.vlm.packing import PackedImages


def _predicting_logits(
    vlm: Vlm, packed: PackedImages, hidden: Tensor, picked: Sequence[Tensor]
) -> tuple[Float[Tensor, "picked vocabulary"], Int[Tensor, "picked"]]:
    """Logits that predict the picked tokens, and those tokens' ids."""
    rows, columns, ids = [], [], []
    for index, tokens in enumerate(picked):
        row, column = packed.predicting(index, tokens)
        rows.append(row)
        columns.append(column)
        ids.append(packed.tokens[index].ids[tokens])
    places = torch.cat(rows).to(hidden.device), torch.cat(columns).to(hidden.device)
    with clock.part("decoder"):
        logits = vlm.logits(hidden[places])
    return logits, torch.cat(ids).to(hidden.device)


def log_probabilities(
    vlm: Vlm,
    packed: PackedImages,
    hidden: Float[Tensor, "batch tokens width"],
    picked: Sequence[Int[Tensor, "_"]],
) -> list[Float[Tensor, "_"]]:
    """Log-probability of every picked token, one tensor per conversation, in float32.

    Args:
        vlm: projects hidden states to logits.
        packed: the conversations.
        hidden: the decoder's last hidden states of ``packed.batch``.
        picked: per conversation of ``packed`` the indices of the tokens that count; may be empty.
    """
    logits, ids = _predicting_logits(vlm, packed, hidden, picked)
    chosen = logits.log_softmax(dim=-1).gather(1, ids[:, None])[:, 0]
    return list(chosen.split([len(tokens) for tokens in picked]))


def distributions(
    vlm: Vlm,
    packed: PackedImages,
    hidden: Float[Tensor, "batch tokens width"],
    picked: Sequence[Int[Tensor, "_"]],
) -> list[Float[Tensor, "_ vocabulary"]]:
    """Log-probability of every token of the vocabulary at the place of every picked token, in float32; one tensor per
    conversation. Arguments as for :func:`log_probabilities`."""
    logits, _ = _predicting_logits(vlm, packed, hidden, picked)
    return list(logits.log_softmax(dim=-1).split([len(tokens) for tokens in picked]))


def option_log_probabilities(
    vlm: Vlm,
    packed: PackedImages,
    hidden: Float[Tensor, "batch tokens width"],
    labels: Sequence[Int[Tensor, "options"] | None],
) -> Float[Tensor, "questions options"]:
    """Log-probability of each option label at the place of the answer's label; of a question with fewer options than
    others, minus infinity behind its last.

    Args:
        vlm: projects hidden states to logits.
        packed: conversations; the target of a question is its label's token.
        hidden: the decoder's last hidden states of ``packed.batch``.
        labels: per conversation of ``packed`` the token id of each option label; None where the conversation is not a
            question.
    """
    nothing = torch.empty(0, dtype=torch.long)
    picked = [t.target if ids is not None else nothing for t, ids in zip(packed.tokens, labels, strict=True)]
    logits, _ = _predicting_logits(vlm, packed, hidden, picked)
    of_questions = [ids for ids in labels if ids is not None]
    if not of_questions:
        return logits.new_empty(0, 0)
    options = torch.nn.utils.rnn.pad_sequence(of_questions, batch_first=True, padding_value=-1).to(hidden.device)
    return logits.log_softmax(dim=-1).gather(1, options.clamp(min=0)).masked_fill(options < 0, -torch.inf)
