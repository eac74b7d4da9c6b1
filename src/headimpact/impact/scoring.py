"""Head Impact of a model on images: one packed forward for a few images, layer after layer into the accumulator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from headimpact.data.samples import KeyObject, Sample
from headimpact.errors import InputError
from headimpact.impact.accumulator import ImpactAccumulator
from headimpact.impact.layer_scores import score_layer
from headimpact.vlm import attention, packing
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.packing import Tokens
from headimpact.vlm.tokengrid import token_mask


@dataclass(frozen=True)
class Skipped:
    """An object that has no score, and why."""

    image_id: int
    object_id: int
    reason: str


@dataclass(frozen=True)
class _PreparedImage:
    """One image with what its objects need to be scored."""

    sample: Sample
    encoded: EncodedImage
    objects: list[KeyObject]
    tokens: list[Tokens]
    masks: Bool[Tensor, "objects tokens"]
    foreign: Bool[Tensor, "objects draws tokens"]


def foreign_coverages(
    vlm: Vlm, sample: Sample, obj: KeyObject, everything: Sequence[tuple[int, KeyObject]], draws: int, seed: int
) -> Float[Tensor, "draws tokens"]:
    """What objects of other images would cover of this image's visual tokens (0..1), stretched over it.

    Args:
        vlm: the model, whose geometry it is.
        sample: this image.
        obj: the object whose chance level this is for.
        everything: all objects to draw from, each with the id of its image; one of another image at least.
        draws: how many are drawn, with replacement.
        seed: of the draw, together with the object's id.
    """
    rng = np.random.default_rng([seed, obj.id])
    others = [other for image_id, other in everything if image_id != sample.id]
    drawn = [others[i] for i in rng.integers(len(others), size=draws)]
    stretched = [
        np.asarray(Image.fromarray(other.mask()).resize((sample.width, sample.height), Image.Resampling.NEAREST))
        for other in drawn
    ]
    return vlm.coverages(stretched)


class Scorer:
    """Scores images against the masks of their objects; the chance level comes from the masks of other images.

    Args:
        vlm: the model.
        samples: all images to score; masks for the chance level are drawn from them.
        threshold: coverage from which a visual token belongs to the object.
        draws: masks of other images per object.
        seed: of those draws, together with the object's id.

    Raises:
        InputError: fewer than two images have objects.
    """

    def __init__(self, vlm: Vlm, samples: Sequence[Sample], threshold: float, draws: int, seed: int):
        if sum(bool(sample.objects) for sample in samples) < 2:
            raise InputError(
                "The chance level takes masks of other images: the impact part needs two images with objects."
            )
        self.vlm = vlm
        self.threshold = threshold
        self.draws = draws
        self.seed = seed
        self.everything = [(sample.id, obj) for sample in samples for obj in sample.objects]
        self.accumulator = ImpactAccumulator(vlm.layers, vlm.heads)
        self.skipped: list[Skipped] = []

    def _foreign(self, sample: Sample, obj: KeyObject) -> Bool[Tensor, "draws tokens"]:
        """Token masks of objects of other images, stretched over this image."""
        covered = foreign_coverages(self.vlm, sample, obj, self.everything, self.draws, self.seed)
        return torch.stack([token_mask(coverage, self.threshold) for coverage in covered])

    def _prepare(self, sample: Sample) -> _PreparedImage | None:
        encoded = self.vlm.encode_image(sample.image())
        objects, tokens, masks = [], [], []
        for obj in sample.objects:
            described = self.vlm.tokenize(self.vlm.caption(obj.phrase), encoded.grid)
            mask = token_mask(self.vlm.coverages([obj.mask()])[0], self.threshold)
            if not len(described.target):
                self.skipped.append(Skipped(sample.id, obj.id, "the phrase has no token"))
            elif not mask.any():
                self.skipped.append(Skipped(sample.id, obj.id, "no visual token sees the object"))
            else:
                objects.append(obj)
                tokens.append(described)
                masks.append(mask)
        if not objects:
            return None
        foreign = torch.stack([self._foreign(sample, obj) for obj in objects])
        return _PreparedImage(sample, encoded, objects, tokens, torch.stack(masks), foreign)

    @torch.inference_mode()
    def score(self, samples: Sequence[Sample]) -> None:
        """Add a few images, in one forward."""
        images = [image for sample in samples if (image := self._prepare(sample)) is not None]
        if not images:
            return
        packed = packing.pack_images([image.tokens for image in images], self.vlm.bidirectional_prompt)
        descriptions = []
        for index, image in enumerate(images):
            for j, tokens in enumerate(image.tokens):
                row, where = packed.places[index][j]
                descriptions.append(attention.Description(row, where[tokens.target], tokens.visual))

        def take(layer: int, maps: list[Tensor]) -> None:
            for image, of_image in zip(images, _split(maps, [len(i.objects) for i in images]), strict=True):
                device = of_image[0].device
                scores = score_layer(torch.stack(of_image), image.masks.to(device), image.foreign.to(device))
                self.accumulator.update(layer, scores)

        features = self.vlm.image_features([image.encoded for image in images])
        of_sequences = [features[image] for image in packed.images]
        self.vlm.hidden_states(packed.batch, of_sequences, attention.RowCapture(descriptions, take))
        pairs = [(image.sample.id, obj.id) for image in images for obj in image.objects]
        self.accumulator.close([image for image, _ in pairs], [obj for _, obj in pairs])


def _split(maps: list[Tensor], counts: Sequence[int]) -> Iterator[list[Tensor]]:
    start = 0
    for count in counts:
        yield maps[start : start + count]
        start += count
