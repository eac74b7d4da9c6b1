"""Head Impact of a model on images: read off packed forwards, layer after layer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headimpact import clock
from headimpact.data.samples import KeyObject, Sample
from headimpact.engine.forward import Engine, Forward, Loaded, Prepare, Prepared
from headimpact.engine.portions import Arrays, Kept, go_over, join
from headimpact.engine.watch import Watch, unwatched
from headimpact.errors import InputError
from headimpact.impact.accumulator import ImpactAccumulator, impact_of
from headimpact.impact.head_impact import Impact
from headimpact.impact.layer_scores import LayerScores, score_layer
from headimpact.vlm import attention
from headimpact.vlm.base import Vlm
from headimpact.vlm.tokengrid import TokenGrid, token_mask


@dataclass(frozen=True)
class Skipped:
    """An object that has no score, and why."""

    image_id: int
    object_id: int
    reason: str


@dataclass(frozen=True)
class _Masked:
    """What an image's objects need to be scored beside their conversations."""

    objects: list[KeyObject]
    masks: Bool[Tensor, "objects tokens"]
    foreign: Bool[Tensor, "objects draws tokens"]
    skipped: list[Skipped]


class OtherObjects:
    """The objects of all images, to draw those of other images from.

    Args:
        samples: all images; two of them at least have objects.

    Raises:
        InputError: fewer than two images have objects.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        counts = np.fromiter((len(sample.objects) for sample in samples), np.int64)
        if (counts > 0).sum() < 2:
            raise InputError(
                "The chance level takes masks of other images: the impact part needs two images with objects."
            )
        self._samples = samples
        self._starts = np.concatenate([[0], counts.cumsum()])
        ids = np.fromiter((sample.id for sample in samples), np.int64)
        self._by_id = np.argsort(ids, kind="stable")
        self._ids = ids[self._by_id]

    def _object(self, number: int) -> KeyObject:
        """One of all objects, which stay where they are: the masks of a large dataset are on disk."""
        index = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._samples[index].objects[number - int(self._starts[index])]

    def coverages(
        self, vlm: Vlm, sample: Sample, obj: KeyObject, draws: int, seed: int
    ) -> Float[Tensor, "draws tokens"]:
        """What objects of other images would cover of an image's visual tokens (0..1), stretched over it.

        Args:
            vlm: the model, whose geometry it is.
            sample: one of the images.
            obj: the object whose chance level this is for.
            draws: how many are drawn, with replacement.
            seed: of the draw, together with the object's id.
        """
        rng = np.random.default_rng([seed, obj.id])
        place = self._by_id[np.searchsorted(self._ids, sample.id)]
        first, own = int(self._starts[place]), len(sample.objects)
        indices = rng.integers(int(self._starts[-1]) - own, size=draws).tolist()
        drawn = [self._object(i if i < first else i + own) for i in indices]
        return vlm.coverages([other.mask() for other in drawn], (sample.width, sample.height))


@dataclass(frozen=True)
class ChanceSettings:
    """How the token masks of objects come about, and those of their chance level.

    Attributes:
        threshold: coverage from which a visual token belongs to the object.
        draws: masks of other images per object.
        seed: of those draws, together with the object's id.
    """

    threshold: float
    draws: int
    seed: int


def score_images(
    engine: Engine,
    samples: Sequence[Sample],
    settings: ChanceSettings,
    watch: Watch = unwatched,
    kept: Kept | None = None,
) -> tuple[Impact, list[Skipped]]:
    """Score images against the masks of their objects; the chance level comes from the masks of other images.

    Args:
        engine: the base.
        samples: all images to score; masks for the chance level are drawn from them.
        settings: how masks come about.
        watch: shows the images.
        kept: where the scores of portions are kept, if anywhere.

    Returns:
        The scores, and the objects that have none.

    Raises:
        InputError: fewer than two images have objects, or no object was scored.
    """

    def compute(images: Iterator[Loaded[_Masked]]) -> Arrays:
        skipped: list[Skipped] = []
        accumulator = ImpactAccumulator(len(engine.vlm.attention_layers), engine.vlm.heads)
        for prepared, scores in engine.read(images, _read):
            skipped += prepared.facts.skipped
            if not scores:
                continue
            for layer, of_layer in enumerate(torch.stack(scores, dim=1)):
                accumulator.update(layer, LayerScores(*of_layer.unbind(dim=1)))
            objects = prepared.facts.objects
            accumulator.close([prepared.sample.id] * len(objects), [obj.id for obj in objects])
        return accumulator.arrays() | skipped_arrays(skipped)

    prepare = _masked(engine.vlm, samples, settings)
    found = join(go_over(engine, samples, prepare, compute, watch, "scoring", kept))
    return impact_of(found, engine.vlm.attention_layers), skipped_of(found)


_SKIPPED = ("skipped_image", "skipped_object", "skipped_reason")


def skipped_arrays(skipped: Sequence[Skipped]) -> Arrays:
    """Skipped objects as arrays."""
    columns = [[one.image_id for one in skipped], [one.object_id for one in skipped], [one.reason for one in skipped]]
    types = (np.int64, np.int64, np.str_)
    return {name: np.array(column, dtype=kind) for name, column, kind in zip(_SKIPPED, columns, types, strict=True)}


def skipped_of(arrays: Arrays) -> list[Skipped]:
    """What :func:`skipped_arrays` holds."""
    return [Skipped(*values) for values in zip(*(arrays[name].tolist() for name in _SKIPPED), strict=True)]


def _masked(vlm: Vlm, samples: Sequence[Sample], settings: ChanceSettings) -> Prepare[_Masked]:
    """Prepares the captions of an image's objects, with the token masks that their scores need."""
    others = OtherObjects(samples)

    def prepare(sample: Sample, grid: TokenGrid) -> Prepared[_Masked] | None:
        objects, tokens, masks, skipped = [], [], [], []
        for obj in sample.objects:
            described = vlm.tokenize(vlm.caption(obj.phrase), grid)
            mask = token_mask(vlm.coverages([obj.mask()])[0], settings.threshold)
            if not len(described.target):
                skipped.append(Skipped(sample.id, obj.id, "the phrase has no token"))
            elif not mask.any():
                skipped.append(Skipped(sample.id, obj.id, "no visual token sees the object"))
            else:
                objects.append(obj)
                tokens.append(described)
                masks.append(mask)
        if not objects:
            none = torch.empty(0, 0, dtype=torch.bool)
            return Prepared(sample, [], _Masked([], none, none[:, None], skipped)) if skipped else None
        covered = [others.coverages(vlm, sample, obj, settings.draws, settings.seed) for obj in objects]
        foreign = torch.stack(
            [torch.stack([token_mask(one, settings.threshold) for one in draws]) for draws in covered]
        )
        return Prepared(sample, tokens, _Masked(objects, torch.stack(masks), foreign, skipped))

    return prepare


@torch.inference_mode()
def _read(forward: Forward[_Masked]) -> list[Float[Tensor, "layers scores heads"]]:
    """The scores of every object of a forward, in the order of :class:`LayerScores`."""
    descriptions = [
        attention.Description(row, where[tokens.target], where[tokens.visual])
        for (row, where), tokens in zip(forward.packed.places, forward.packed.tokens, strict=True)
    ]
    of_images = [list(group) for _, group in groupby(forward.packed.members, key=lambda member: member[0])]
    layers: list[Tensor] = []

    def take(_: int, maps: list[Tensor]) -> None:
        scores, start = [], 0
        for members in of_images:
            facts = forward.images[members[0][0]].prepared.facts
            chosen = [index for _, index in members]
            attended = torch.stack(maps[start : start + len(members)])
            device = attended.device
            with clock.part("IoU"):
                found = score_layer(attended, facts.masks[chosen].to(device), facts.foreign[chosen].to(device))
            scores.append(torch.stack([found.iou, found.chance, found.auroc, found.mass], dim=1))
            start += len(members)
        layers.append(torch.cat(scores))

    forward.hidden(attention.RowCapture(descriptions, take))
    return list(torch.stack(layers, dim=1).cpu())
