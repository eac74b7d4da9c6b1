"""How layers are measured beside Head Impact: how strongly the caption loss pulls at a layer, what is lost where it
cannot see the image, how much its heads attend to the image, and how concentrated, all in packed forwards; and how well
its weights are conditioned.

Every measure of ``rules.MEASURES`` that is no column of the HI table is computed here, by :func:`measure`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from headimpact.data.samples import Sample
from headimpact.engine import likelihood
from headimpact.engine.forward import Engine, Forward, Loaded
from headimpact.engine.phrases import backward, captions
from headimpact.engine.portions import Arrays, Kept, go_over, join
from headimpact.engine.watch import Watch, unwatched
from headimpact.errors import InputError
from headimpact.selection.localisation import localisation, spatial_entropy
from headimpact.statistics import clustered_means
from headimpact.vlm import attention
from headimpact.vlm.base import Vlm

_TOGETHER = 8  # images whose pixels are held at a time


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
            - kappa (layers): see :func:`conditioning`, 0..1; needs no data.
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


def measure(
    engine: Engine,
    samples: Sequence[Sample],
    targets: Sequence[str],
    watch: Watch = unwatched,
    kept: Kept | None = None,
) -> LayerMeasures:
    """Measure every layer of a base.

    Args:
        engine: the base, without an adapter.
        samples: images; every object has a phrase.
        targets: the projections that LoRA would adapt.
        watch: shows the images.
        kept: where what was measured of portions is kept, if anywhere.

    Raises:
        InputError: there is no object, or a phrase without a token.
    """

    def compute(images: Iterator[Loaded[None]]) -> Arrays:
        return join(_measured(engine, together, targets) for together in _by(_TOGETHER, images))

    found = join(go_over(engine, samples, captions(engine.vlm), compute, watch, "measuring", kept))
    if not found:
        raise InputError("No object was measured: the data holds none.")
    drop, drop_error = clustered_means(found["drops"], found["image_ids"])
    values = {
        "gradient": np.mean(found["gradients"], axis=0),
        "knockout": drop,
        "share": found["share"].mean(axis=0),
        "localisation": localisation(found["share"], found["entropy"]),
        "kappa": conditioning(engine.vlm, targets),
    }
    return LayerMeasures(values, {"knockout": drop_error})


def _by(size: int, images: Iterator[Loaded[None]]) -> Iterator[list[Loaded[None]]]:
    while together := list(islice(images, size)):
        yield together


def _measured(engine: Engine, images: Sequence[Loaded[None]], targets: Sequence[str]) -> Arrays:
    image_ids, gradients = [], []
    for image in images:
        sample = image.prepared.sample
        if not all(len(tokens.target) for tokens in image.prepared.conversations):
            raise InputError(f"Image {sample.id} has an object whose phrase has no token: leave it out.")
        image_ids += [sample.id] * len(sample.objects)
        gradients.append(gradient(engine, image, targets))
    drops, attended = knockout(engine, images), image_attention(engine, images)
    return {
        "image_ids": np.array(image_ids),
        "gradients": np.stack(gradients),
        "drops": drops,
        "share": attended.share,
        "entropy": attended.entropy,
    }


def gradient(engine: Engine, image: Loaded[None], targets: Sequence[str]) -> Float[np.ndarray, " layers"]:
    """Mean square of the caption loss's gradient on one image, over the weights that LoRA would adapt in each layer.

    The mean over images is the diagonal of the empirical Fisher information, averaged over a layer's weights, so that
    layers of different size compare. Squares and not \\|gradient x weight\\|: the first step of an adapter lowers the
    loss by the gradient's square, whatever the weights are; the product says what *removing* weights would do. The
    loss is the mean NLL (nats) over the answer tokens of the image's captions.

    Args:
        engine: the base, without an adapter; its weights stay as they are.
        image: one image, prepared by :func:`headimpact.engine.phrases.captions`.
        targets: names of the projections within a layer's attention.
    """
    vlm = engine.vlm
    layers = [
        [vlm.model.get_submodule(name).weight for name in vlm.projections([layer], targets)]
        for layer in range(vlm.layers)
    ]
    weights = [weight for layer in layers for weight in layer]
    total = [torch.zeros_like(weight) for weight in weights]

    def add(loss: Tensor) -> None:
        for sum_of_forwards, of_forward in zip(total, torch.autograd.grad(loss, weights), strict=True):
            sum_of_forwards += of_forward

    with _only_trainable(vlm, weights):
        _, tokens = backward(engine, [image], add)
    gradients = iter(total)
    squares = [sum(float((next(gradients) / tokens).float().square().sum()) for _ in layer) for layer in layers]
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


def conditioning(vlm: Vlm, targets: Sequence[str]) -> Float[np.ndarray, " layers"]:
    """How well the weights of each layer are conditioned, by the criterion of KappaTune (PEFT's ``KappaTuneSelector``).

    KappaTune adapts the modules of the lowest condition number kappa, the largest singular value over the smallest:
    they use all directions of their input alike, and are held to change with the least loss of what they hold. Here
    layers compete and not single modules, so that the budget is that of the other rules: a layer's figure is 1 over the
    geometric mean of kappa over the projections that LoRA would adapt.

    Args:
        vlm: the base, without an adapter.
        targets: names of the projections within a layer.
    """
    kappas = [
        [_condition_number(vlm.model.get_submodule(name).weight) for name in vlm.projections([layer], targets)]
        for layer in range(vlm.layers)
    ]
    return np.exp(-np.log(kappas).mean(axis=1))


def _condition_number(weight: Tensor) -> float:
    singular = torch.linalg.svdvals(weight.detach().float())
    return float(singular[0] / (singular[-1] + 1e-8))  # as KappaTuneSelector has it


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


def knockout(engine: Engine, images: Sequence[Loaded[None]]) -> Float[np.ndarray, "objects layers"]:
    """What each object's phrase loses in log-probability (nats per token) when one layer does not see the image.

    In that layer alone the queries of the description tokens, and of the token before them, which predicts the first,
    cannot attend to the visual tokens (attention knockout, as in *Dissecting Recall of Factual Associations in
    Auto-Regressive Language Models*). Above 0 where it helps that the layer sees the image; may be below.

    Args:
        engine: the base.
        images: prepared by :func:`headimpact.engine.phrases.captions`; every phrase has a token.
    """
    return np.array([drops for _, of_image in engine.read(images, _drops) for drops in of_image])


@torch.inference_mode()
def _drops(forward: Forward[None]) -> list[Float[np.ndarray, " layers"]]:
    vlm, packed = forward.engine.vlm, forward.packed
    blocked = torch.zeros_like(packed.batch.mask)
    for (row, where), tokens in zip(packed.places, packed.tokens, strict=True):
        queries = where[torch.cat([tokens.target[:1] - 1, tokens.target])]
        blocked[row, 0, queries[:, None], where[tokens.visual]] = True
    seeing = _phrase_log_probabilities(forward)
    drops = []
    for layer in range(vlm.layers):
        with attention_blocked(vlm, [layer], blocked):
            drops.append(seeing - _phrase_log_probabilities(forward))
    return list(np.stack(drops, axis=1))


def _phrase_log_probabilities(forward: Forward[None]) -> Float[np.ndarray, " objects"]:
    """Mean log-probability of each phrase's tokens."""
    targets = [tokens.target for tokens in forward.packed.tokens]
    phrases = likelihood.log_probabilities(forward.engine.vlm, forward.packed, forward.hidden(), targets)
    return np.array([float(phrase.mean()) for phrase in phrases])


def image_attention(engine: Engine, images: Sequence[Loaded[None]]) -> ImageAttention:
    """How every head attends to a few images, object by object.

    Args:
        engine: the base.
        images: prepared by :func:`headimpact.engine.phrases.captions`; every phrase has a token.
    """
    objects = [(maps, prepared.sample) for prepared, of_image in engine.read(images, _image_maps) for maps in of_image]
    entropies = [
        spatial_entropy(maps.flatten(0, 1), engine.vlm.grid(sample.width, sample.height)).reshape(maps.shape[:2])
        for maps, sample in objects
    ]
    shares = [maps.sum(-1).numpy().astype(np.float64) for maps, _ in objects]
    return ImageAttention(np.stack(shares), np.stack(entropies))


@torch.inference_mode()
def _image_maps(forward: Forward[None]) -> list[Float[Tensor, "layers heads visual"]]:
    descriptions = [
        attention.Description(row, where[tokens.target], where[tokens.visual])
        for (row, where), tokens in zip(forward.packed.places, forward.packed.tokens, strict=True)
    ]
    layers: list[list[Tensor]] = []
    forward.hidden(attention.RowCapture(descriptions, lambda _, maps: layers.append([rows.cpu() for rows in maps])))
    return [torch.stack([layer[index] for layer in layers]) for index in range(len(descriptions))]
