"""What Head Impact does not say about a layer: how strongly the caption loss pulls at it, what is lost without its
look at the image, how much its heads look, and how concentrated. All in packed forwards."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from headimpact.data.coco import Sample
from headimpact.engine import likelihood
from headimpact.engine.phrases import caption_loss
from headimpact.errors import InputError
from headimpact.impact.layer_scores import binarise
from headimpact.statistics import clustered_means
from headimpact.vlm import attention, packing
from headimpact.vlm.base import Vlm
from headimpact.vlm.packing import PackedImages, Tokens
from headimpact.vlm.tokengrid import TokenGrid

PICKED_HEADS = 10
_NEIGHBOURS = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])  # the eight of the same map


@dataclass(frozen=True, eq=False)
class Measures:
    """What was measured of every layer.

    Attributes:
        gradient: see :func:`gradient`; mean over images, from 0.
        knockout: see :func:`knockout`; mean over objects, in nats per token.
        knockout_se: its standard error, clustered by image.
        share: share of the description tokens' attention that goes to the image, 0..1; needs no mask.
        localisation: see :func:`localisation`, 0..1.
    """

    gradient: Float[np.ndarray, " layers"]
    knockout: Float[np.ndarray, " layers"]
    knockout_se: Float[np.ndarray, " layers"]
    share: Float[np.ndarray, "layers heads"]
    localisation: Float[np.ndarray, "layers heads"]

    def table(self) -> pd.DataFrame:
        """One row a layer: layer, gradient, knockout, knockout_se, share, localisation (means over heads)."""
        return pd.DataFrame(
            {
                "layer": np.arange(len(self.gradient)),
                "gradient": self.gradient,
                "knockout": self.knockout,
                "knockout_se": self.knockout_se,
                "share": self.share.mean(axis=1),
                "localisation": self.localisation.mean(axis=1),
            }
        )


@dataclass(frozen=True, eq=False)
class Looks:
    """How every head looks at the image while it reads each object's description.

    Attributes:
        share: see :class:`Measures`.
        entropy: spatial entropy of the attention (:func:`spatial_entropy`), in nats.
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
        talks = [
            [vlm.tokenize(vlm.caption(obj.phrase), image.grid) for obj in sample.objects]
            for sample, image in zip(samples, encoded, strict=True)
        ]
        features = vlm.image_features(encoded)
        packed = packing.pack_images(talks, vlm.bidirectional_prompt)
        grids = [image.grid for image, talk in zip(encoded, talks, strict=True) for _ in talk]
        everything = [tokens for talk in talks for tokens in talk]
        if silent := [
            sample.id for sample, talk in zip(samples, talks, strict=True) if not all(len(t.target) for t in talk)
        ]:
            raise InputError(f"Image {silent[0]} has an object whose phrase has no token: leave it out.")
        return cls(packed, [features[image] for image in packed.images], grids, everything)

    def places(self) -> Iterator[tuple[int, Tensor, Tokens]]:
        """Per object its sequence, the packed index of each of its tokens, and these tokens."""
        everywhere = [place for about in self.packed.places for place in about]
        for (row, where), tokens in zip(everywhere, self.tokens, strict=True):
            yield row, where, tokens


def measure(vlm: Vlm, groups: Iterable[Sequence[Sample]], targets: Sequence[str]) -> Measures:
    """Measure every layer of a base.

    Args:
        vlm: the base, without an adapter.
        groups: the samples, a few images at a time; every object has a phrase.
        targets: the projections that LoRA would adapt.

    Raises:
        InputError: there is no object, or a phrase without a token.
    """
    gradients, drops, looks, images = [], [], [], []
    for samples in groups:
        gradients += [gradient(vlm, sample, targets) for sample in samples]
        drops.append(knockout(vlm, samples))
        looks.append(look(vlm, samples))
        images += [sample.id for sample in samples for _ in sample.objects]
    if not images:
        raise InputError("No object was measured: the data holds none.")
    share = np.concatenate([found.share for found in looks])
    entropy = np.concatenate([found.entropy for found in looks])
    drop, drop_se = clustered_means(np.concatenate(drops), np.array(images))
    return Measures(np.mean(gradients, axis=0), drop, drop_se, share.mean(axis=0), localisation(share, entropy))


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
def cut(vlm: Vlm, layers: Sequence[int], blocked: Bool[Tensor, "batch 1 queries keys"]) -> Iterator[None]:
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
    Auto-Regressive Language Models*). Above 0 where the layer's look at the image helps; may be below.

    Raises:
        InputError: a phrase without a token.
    """
    captions = _Captions.of(vlm, samples)
    blocked = torch.zeros_like(captions.packed.batch.mask)
    for row, where, tokens in captions.places():
        queries = where[torch.cat([tokens.target[:1] - 1, tokens.target])]
        blocked[row, 0, queries[:, None], where[tokens.visual]] = True
    whole = _phrase_log_probabilities(vlm, captions)
    drops = []
    for layer in range(vlm.layers):
        with cut(vlm, [layer], blocked):
            drops.append(whole - _phrase_log_probabilities(vlm, captions))
    return np.stack(drops, axis=1)


def _phrase_log_probabilities(vlm: Vlm, captions: _Captions) -> Float[np.ndarray, " objects"]:
    """Mean log-probability of each phrase's tokens."""
    hidden = vlm.hidden_states(captions.packed.batch, captions.features)
    targets = [tokens.target for tokens in captions.tokens]
    found = likelihood.log_probabilities(vlm, captions.packed, hidden, targets)
    return np.array([float(one.mean()) for one in found])


@torch.inference_mode()
def look(vlm: Vlm, samples: Sequence[Sample]) -> Looks:
    """How every head looks at a few images, object by object.

    Raises:
        InputError: a phrase without a token.
    """
    captions = _Captions.of(vlm, samples)
    descriptions = [
        attention.Description(row, where[tokens.target], where[tokens.visual])
        for row, where, tokens in captions.places()
    ]
    layers: list[list[Tensor]] = []
    capture = attention.RowCapture(descriptions, lambda layer, maps: layers.append([one.cpu() for one in maps]))
    vlm.hidden_states(captions.packed.batch, captions.features, capture)
    objects = [torch.stack([layer[index] for layer in layers]) for index in range(len(descriptions))]
    entropies = [
        spatial_entropy(maps.flatten(0, 1), grid).reshape(maps.shape[:2])
        for maps, grid in zip(objects, captions.grids, strict=True)
    ]
    return Looks(np.stack([maps.sum(-1).numpy().astype(np.float64) for maps in objects]), np.stack(entropies))


def spatial_entropy(maps: Float[Tensor, "maps tokens"], grid: TokenGrid) -> Float[np.ndarray, " maps"]:
    """Entropy (nats) of how an attention map's mass is spread over its connected regions; 0 is a single region.

    After "Your Large Vision-Language Model Only Needs A Few Attention Heads For Visual Grounding":
    regions are 8-connected visual tokens, here those above the mean, as for HI (theirs are above twice the mean). Where
    there are crops, they are joined to one plane, and the whole image is a second one. Infinite for a map without
    a token above the mean.
    """
    attended = np.where(binarise(maps).numpy(), maps.numpy().astype(np.float64), 0.0)
    masses, owners = [], []
    for plane in _planes(attended, grid):
        labels, count = cast(tuple[np.ndarray, int], ndimage.label(plane > 0, structure=_NEIGHBOURS))
        owner = np.zeros(count + 1, dtype=np.intp)
        owner[labels] = np.arange(len(plane))[:, None, None]
        masses.append(np.bincount(labels.ravel(), weights=plane.ravel(), minlength=count + 1)[1:])
        owners.append(owner[1:])
    mass, owner = np.concatenate(masses), np.concatenate(owners)
    total = np.bincount(owner, weights=mass, minlength=len(maps))
    part = mass / total[owner]
    return np.where(total > 0, np.bincount(owner, weights=-part * np.log(part), minlength=len(maps)), np.inf)


def _planes(maps: Float[np.ndarray, "maps tokens"], grid: TokenGrid) -> list[Float[np.ndarray, "maps _rows _cols"]]:
    """Attention maps laid out as the image: the crops joined (where there are any), and the whole."""
    blocks = maps.reshape(len(maps), grid.blocks, grid.rows, grid.cols)
    if grid.blocks == 1:
        return [blocks[:, 0]]
    crops = blocks[:, :-1].reshape(len(maps), grid.crop_rows, grid.crop_cols, grid.rows, grid.cols)
    joined = crops.transpose(0, 1, 3, 2, 4).reshape(len(maps), grid.crop_rows * grid.rows, -1)
    return [joined, blocks[:, -1]]


def localisation(
    share: Float[np.ndarray, "objects layers heads"],
    entropy: Float[np.ndarray, "objects layers heads"],
    picked: int = PICKED_HEADS,
) -> Float[np.ndarray, "layers heads"]:
    """How often each head is one of the ``picked`` that localise an object, 0..1; source: see ``spatial_entropy``.

    Of the heads whose mean attention share on the image is at least that at the elbow, those of the lowest spatial
    entropy are picked for each object; heads of equal entropy share the last places, so that no index is favoured.
    """
    mean = share.mean(axis=0)
    ranked = np.where(mean >= elbow(mean.ravel()), entropy, np.inf).reshape(len(entropy), -1)
    picks = np.zeros(ranked.shape)
    for row, one in zip(picks, ranked, strict=True):
        ordered = np.sort(one)
        below, up_to = np.searchsorted(ordered, one), np.searchsorted(ordered, one, side="right")
        row[:] = np.where(np.isfinite(one), np.clip((picked - below) / (up_to - below), 0, 1), 0)
    return picks.mean(axis=0).reshape(mean.shape)


def elbow(values: Float[np.ndarray, " values"]) -> float:
    """The value at which the ascending curve lies farthest from the line between its first and its last point; the
    lowest value where the curve is that line."""
    ordered = np.sort(values)
    line = np.linspace(ordered[0], ordered[-1], len(ordered))
    return float(ordered[np.argmax(np.abs(line - ordered))])
