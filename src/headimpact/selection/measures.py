"""How layers are measured beside Head Impact: how strongly the caption loss pulls at a layer, what is lost where it
cannot see the image, how much its heads attend to the image, and how concentrated. All in packed forwards.

Every measure of ``rules.MEASURES`` that is no column of the HI table is computed here, by :func:`measure`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from headimpact.data.samples import Sample
from headimpact.engine import likelihood
from headimpact.engine.phrases import caption_loss
from headimpact.errors import InputError
from headimpact.selection.localisation import localisation, spatial_entropy
from headimpact.statistics import clustered_means
from headimpact.vlm import attention, packing
from headimpact.vlm.base import Vlm
from headimpact.vlm.packing import PackedImages, Tokens
from headimpact.vlm.tokengrid import TokenGrid


@dataclass(frozen=True, eq=False)
class LayerMeasures:
    """What was measured of every layer.

    Attributes:
        values: by name of the measure, one figure a layer, or one a layer and head.

            - gradient (layers): see :func:`gradient`; mean over images, from 0.
            - knockout (layers): see :func:`knockout`; mean over objects, in nats per token.
            - share (layers heads): share of the description tokens' attention that goes to the image, 0..1; needs no
              mask.
            - localisation (layers heads): see :func:`localisation`, 0..1.
        errors: by name, for some of them, the standard error of every layer, clustered by image.
    """

    values: Mapping[str, Shaped[np.ndarray, "..."]]
    errors: Mapping[str, Float[np.ndarray, " layers"]]

    def table(self) -> pd.DataFrame:
        """One row a layer: layer, and for each measure its mean over heads and, where it is known, ``<name>_se``."""
        columns: dict[str, np.ndarray] = {}
        for name, values in self.values.items():
            columns[name] = values.mean(axis=1) if values.ndim > 1 else values
            if name in self.errors:
                columns[f"{name}_se"] = self.errors[name]
        layers = len(next(iter(columns.values())))
        return pd.DataFrame({"layer": np.arange(layers)} | columns)


@dataclass(frozen=True, eq=False)
class ImageAttention:
    """How every head attends to the image while it reads each object's description.

    Attributes:
        share: share of the attention that goes to the image, 0..1.
        entropy: spatial entropy of the attention on the image (:func:`spatial_entropy`), in nats.
    """

    share: Float[np.ndarray, "objects layers heads"]
    entropy: Float[np.ndarray, "objects layers heads"]


@dataclass(frozen=True)
class _Captions:
    """The captions of a few images, packed, with the visual tokens' embeddings of every sequence."""

    packed: PackedImages
    features: list[Tensor]
    grids: list[TokenGrid]
    tokens: list[Tokens]

    @classmethod
    def of(cls, vlm: Vlm, samples: Sequence[Sample]) -> "_Captions":
        encoded = [vlm.encode_image(sample.image()) for sample in samples]
        conversations = [
            [vlm.tokenize(vlm.caption(obj.phrase), image.grid) for obj in sample.objects]
            for sample, image in zip(samples, encoded, strict=True)
        ]
        features = vlm.image_features(encoded)
        packed = packing.pack_images(conversations, vlm.bidirectional_prompt)
        grids = [image.grid for image, about in zip(encoded, conversations, strict=True) for _ in about]
        tokens = [caption for about in conversations for caption in about]
        if silent := [
            sample.id
            for sample, about in zip(samples, conversations, strict=True)
            if not all(len(caption.target) for caption in about)
        ]:
            raise InputError(f"Image {silent[0]} has an object whose phrase has no token: leave it out.")
        return cls(packed, [features[image] for image in packed.images], grids, tokens)

    def places(self) -> Iterator[tuple[int, Tensor, Tokens]]:
        """Per object its sequence, the packed index of each of its tokens, and these tokens."""
        places = [place for about in self.packed.places for place in about]
        for (row, where), tokens in zip(places, self.tokens, strict=True):
            yield row, where, tokens


def measure(vlm: Vlm, groups: Iterable[Sequence[Sample]], targets: Sequence[str]) -> LayerMeasures:
    """Measure every layer of a base.

    Args:
        vlm: the base, without an adapter.
        groups: the samples, a few images at a time; every object has a phrase.
        targets: the projections that LoRA would adapt.

    Raises:
        InputError: there is no object, or a phrase without a token.
    """
    gradients, drops, attentions, image_ids = [], [], [], []
    for samples in groups:
        gradients += [gradient(vlm, sample, targets) for sample in samples]
        drops.append(knockout(vlm, samples))
        attentions.append(image_attention(vlm, samples))
        image_ids += [sample.id for sample in samples for _ in sample.objects]
    if not image_ids:
        raise InputError("No object was measured: the data holds none.")
    share = np.concatenate([attended.share for attended in attentions])
    entropy = np.concatenate([attended.entropy for attended in attentions])
    drop, drop_error = clustered_means(np.concatenate(drops), np.array(image_ids))
    values = {
        "gradient": np.mean(gradients, axis=0),
        "knockout": drop,
        "share": share.mean(axis=0),
        "localisation": localisation(share, entropy),
    }
    return LayerMeasures(values, {"knockout": drop_error})


def gradient(vlm: Vlm, sample: Sample, targets: Sequence[str]) -> Float[np.ndarray, " layers"]:
    """Mean square of the caption loss's gradient on one image, over the weights that LoRA would adapt in each layer.

    The mean over images is the diagonal of the empirical Fisher information, averaged over a layer's weights, so that
    layers of different size compare. Squares and not \\|gradient x weight\\|: the first step of an adapter lowers the
    loss by the gradient's square, whatever the weights are; the product says what *removing* weights would do. The
    loss is the mean NLL (nats) over the answer tokens of the image's captions.

    Args:
        vlm: the base, without an adapter; its weights stay as they are.
        sample: one image with its objects.
        targets: names of the projections within a layer's attention.
    """
    layers = [
        [vlm.model.get_submodule(name).weight for name in vlm.projections([layer], targets)]
        for layer in range(vlm.layers)
    ]
    weights = [weight for layer in layers for weight in layer]
    with _only_trainable(vlm, weights):
        nll, tokens = caption_loss(vlm, [sample])
        gradients = iter(torch.autograd.grad(nll / tokens, weights))
    squares = [sum(float(next(gradients).float().square().sum()) for _ in layer) for layer in layers]
    return np.array(squares) / [sum(weight.numel() for weight in layer) for layer in layers]


@contextmanager
def _only_trainable(vlm: Vlm, weights: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Within the block these weights alone keep what a gradient needs."""
    before = [(parameter, parameter.requires_grad) for parameter in vlm.model.parameters()]
    vlm.model.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)


@contextmanager
def attention_blocked(vlm: Vlm, layers: Sequence[int], blocked: Bool[Tensor, "batch 1 queries keys"]) -> Iterator[None]:
    """Within the block no query of ``layers`` sees the keys that are ``blocked`` for it.

    Every family hands each layer its own (boolean) mask by name, whatever form the decoder takes.
    """
    seen = ~blocked.to(vlm.device)

    def hide(module, positional, named):
        return positional, named | {"attention_mask": named["attention_mask"] & seen}

    blocks = vlm.decoder.get_submodule("layers")
    handles = [
        blocks.get_submodule(f"{layer}.self_attn").register_forward_pre_hook(hide, with_kwargs=True) for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def knockout(vlm: Vlm, samples: Sequence[Sample]) -> Float[np.ndarray, "objects layers"]:
    """What each object's phrase loses in log-probability (nats per token) when one layer does not see the image.

    In that layer alone the queries of the description tokens, and of the token before them, which predicts the first,
    cannot attend to the visual tokens (attention knockout, as in *Dissecting Recall of Factual Associations in
    Auto-Regressive Language Models*). Above 0 where it helps that the layer sees the image; may be below.

    Raises:
        InputError: a phrase without a token.
    """
    captions = _Captions.of(vlm, samples)
    blocked = torch.zeros_like(captions.packed.batch.mask)
    for row, where, tokens in captions.places():
        queries = where[torch.cat([tokens.target[:1] - 1, tokens.target])]
        blocked[row, 0, queries[:, None], where[tokens.visual]] = True
    seeing = _phrase_log_probabilities(vlm, captions)
    drops = []
    for layer in range(vlm.layers):
        with attention_blocked(vlm, [layer], blocked):
            drops.append(seeing - _phrase_log_probabilities(vlm, captions))
    return np.stack(drops, axis=1)


def _phrase_log_probabilities(vlm: Vlm, captions: _Captions) -> Float[np.ndarray, " objects"]:
    """Mean log-probability of each phrase's tokens."""
    hidden = vlm.hidden_states(captions.packed.batch, captions.features)
    targets = [tokens.target for tokens in captions.tokens]
    phrases = likelihood.log_probabilities(vlm, captions.packed, hidden, targets)
    return np.array([float(phrase.mean()) for phrase in phrases])


@torch.inference_mode()
def image_attention(vlm: Vlm, samples: Sequence[Sample]) -> ImageAttention:
    """How every head attends to a few images, object by object.

    Raises:
        InputError: a phrase without a token.
    """
    captions = _Captions.of(vlm, samples)
    descriptions = [
        attention.Description(row, where[tokens.target], where[tokens.visual])
        for row, where, tokens in captions.places()
    ]
    layers: list[list[Tensor]] = []
    capture = attention.RowCapture(descriptions, lambda layer, maps: layers.append([rows.cpu() for rows in maps]))
    vlm.hidden_states(captions.packed.batch, captions.features, capture)
    objects = [torch.stack([layer[index] for layer in layers]) for index in range(len(descriptions))]
    entropies = [
        spatial_entropy(maps.flatten(0, 1), grid).reshape(maps.shape[:2])
        for maps, grid in zip(objects, captions.grids, strict=True)
    ]
    shares = [maps.sum(-1).numpy().astype(np.float64) for maps in objects]
    return ImageAttention(np.stack(shares), np.stack(entropies))
