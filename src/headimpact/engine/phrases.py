"""Images and their phrases in, losses and log-probabilities out, in one packed forward each."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from headimpact.data.samples import KeyObject, Sample
from headimpact.engine import likelihood
from headimpact.vlm import packing
from headimpact.vlm.base import Vlm


def batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    """Consecutive groups of at most ``size`` samples."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


@torch.inference_mode()
def phrase_nll(vlm: Vlm, samples: Sequence[Sample]) -> list[tuple[Sample, KeyObject, float, int]]:
    """Mean NLL (nats) over the description tokens, and their number, for every object of a few images."""
    encoded = [vlm.encode_image(sample.image()) for sample in samples]
    conversations = [
        [vlm.tokenize(vlm.caption(obj.phrase), image.grid) for obj in sample.objects]
        for sample, image in zip(samples, encoded, strict=True)
    ]
    features = vlm.image_features(encoded)
    packed = packing.pack_images(conversations, vlm.bidirectional_prompt)
    hidden = vlm.hidden_states(packed.batch, [features[image] for image in packed.images])
    targets = [tokens.target for of_image in conversations for tokens in of_image]
    log_probs = likelihood.log_probabilities(vlm, packed, hidden, targets)
    objects = [(sample, obj) for sample in samples for obj in sample.objects]
    return [(s, o, -float(p.mean()), len(p)) for (s, o), p in zip(objects, log_probs, strict=True)]


def caption_loss(vlm: Vlm, samples: Sequence[Sample]) -> tuple[Tensor, int]:
    """Summed NLL (nats) of the answers' tokens of all captions of a few images, and the number of those tokens."""
    encoded = [vlm.encode_image(sample.image()) for sample in samples]
    conversations = [
        [vlm.tokenize(vlm.caption(obj.phrase), image.grid) for obj in sample.objects]
        for sample, image in zip(samples, encoded, strict=True)
    ]
    with torch.no_grad():
        features = vlm.image_features(encoded)
    packed = packing.pack_images(conversations, vlm.bidirectional_prompt)
    hidden = vlm.hidden_states(packed.batch, [features[image] for image in packed.images])
    answers = [tokens.answer for of_image in conversations for tokens in of_image]
    log_probs = torch.cat(likelihood.log_probabilities(vlm, packed, hidden, answers))
    return -log_probs.sum(), len(log_probs)
