"""The obvious way: one conversation a sequence through the model's own forward, ``eager`` attention."""

import torch
from torch import Tensor

from headimpact.vlm import attention
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.packing import Tokens


def native_forward(vlm: Vlm, tokens: Tokens, encoded: EncodedImage, **arguments):
    """transformers' own output for one conversation."""
    vlm.model.set_attn_implementation("eager")
    with torch.inference_mode():
        output = vlm.model(**vlm.native_inputs(tokens, encoded), use_cache=False, **arguments)
    vlm.model.set_attn_implementation({"text_config": attention.NAME, "vision_config": "sdpa"})
    return output


def log_probabilities(vlm: Vlm, tokens: Tokens, encoded: EncodedImage) -> Tensor:
    """Log-probabilities ``tokens vocabulary`` of what comes after every token."""
    return native_forward(vlm, tokens, encoded).logits[0].float().log_softmax(-1)


def attention_maps(vlm: Vlm, tokens: Tokens, encoded: EncodedImage) -> Tensor:
    """Attention ``layers heads queries keys``."""
    return torch.cat(native_forward(vlm, tokens, encoded, output_attentions=True).attentions)


def answer_loss(vlm: Vlm, tokens: Tokens, encoded: EncodedImage) -> float:
    """transformers' own loss on the answer: the mean over its tokens, in nats."""
    labels = torch.full_like(tokens.ids, -100)
    labels[tokens.answer] = tokens.ids[tokens.answer]
    return native_forward(vlm, tokens, encoded, labels=labels[None]).loss.item()


def phrase_nll(vlm: Vlm, phrase: str, encoded: EncodedImage) -> float:
    """Mean NLL (nats) of a phrase's tokens."""
    tokens = vlm.tokenize(vlm.caption(phrase), encoded.grid)
    logs = log_probabilities(vlm, tokens, encoded)
    return -sum(float(logs[t - 1, tokens.ids[t]]) for t in tokens.target) / len(tokens.target)
