"""Images and their phrases in, losses and log-probabilities out."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headimpact import clock
from headimpact.data.samples import KeyObject, Sample
from headimpact.engine import likelihood
from headimpact.engine.forward import Engine, Forward, Loaded, Prepare, Prepared
from headimpact.vlm.base import Vlm
from headimpact.vlm.tokengrid import TokenGrid


@dataclass(frozen=True)
class _Captions:
    """Two of the same base are equal: what one has prepared and the engine has kept serves the other."""

    vlm: Vlm

    def __call__(self, sample: Sample, grid: TokenGrid) -> Prepared[None] | None:
        vlm = self.vlm
        if not sample.objects:
            return None
        return Prepared(sample, [vlm.tokenize(vlm.caption(obj.phrase), grid) for obj in sample.objects], None)


def captions(vlm: Vlm) -> Prepare[None]:
    """Prepares the caption of every object of an image."""
    return _Captions(vlm)


@torch.inference_mode()
def _phrase_log_probabilities(forward: Forward) -> list[Tensor]:
    targets = [tokens.target for tokens in forward.packed.tokens]
    log_probs = likelihood.log_probabilities(forward.engine.vlm, forward.packed, forward.hidden(), targets)
    return [of_phrase.cpu() for of_phrase in log_probs]


def phrase_nll(engine: Engine, images: Iterable[Loaded[None]]) -> Iterator[tuple[Sample, KeyObject, float, int]]:
    """Mean NLL (nats) over the description tokens, and their number, for every object of some images.

    Args:
        engine: the base.
        images: prepared by :func:`captions`.
    """
    for prepared, log_probs in engine.read(images, _phrase_log_probabilities):
        for obj, of_phrase in zip(prepared.sample.objects, log_probs, strict=True):
            yield prepared.sample, obj, -float(of_phrase.mean()), len(of_phrase)


def caption_losses(forward: Forward) -> list[Float[Tensor, "_"]]:
    """NLL (nats) of the answer's tokens of every caption of a forward."""
    answers = [tokens.answer for tokens in forward.packed.tokens]
    log_probs = likelihood.log_probabilities(forward.engine.vlm, forward.packed, forward.hidden(), answers)
    return [-of_caption for of_caption in log_probs]


Losses = Callable[[Forward], list[Float[Tensor, "_"]]]
"""The loss of each of the answer's tokens, for every caption of a forward."""


def backward(
    engine: Engine, images: Iterable[Loaded[None]], step: Callable[[Tensor], None], losses: Losses = caption_losses
) -> tuple[float, int]:
    """The gradient of the summed loss of the answers' tokens of all captions of a few images.

    Args:
        engine: the base with its adapter.
        images: prepared by :func:`captions`.
        step: takes the summed loss of one forward and adds its gradient to that of the forwards before.
        losses: gives the losses; their NLL, if nothing else is said.

    Returns:
        The summed loss (nats), and the number of those tokens.
    """

    def read(forward: Forward[None]) -> list[tuple[float, int]]:
        of_captions = losses(forward)
        values = [(float(loss.detach().sum()), len(loss)) for loss in of_captions]
        with clock.part("backward"):
            step(torch.cat(of_captions).sum())
        return values

    read_off = [value for _, values in engine.read(images, read) for value in values]
    return sum(loss for loss, _ in read_off), sum(tokens for _, tokens in read_off)
