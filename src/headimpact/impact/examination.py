"""Head Impact of a model under every variation of its definition: the attention of three choices of query rows is read
in one packed forward for a few images."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headimpact.data.samples import KeyObject, Sample
from headimpact.errors import InputError
from headimpact.impact.scoring import Skipped, foreign_coverages
from headimpact.impact.variations import BLOB_COVERAGE, Rows, Scores, Variation, ellipse, join, score
from headimpact.vlm import attention, packing
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.packing import Tokens

QUERIES: dict[Rows, Callable[[Tokens], Int[Tensor, "_"]]] = {
    "phrase": lambda tokens: tokens.target,
    "last token": lambda tokens: tokens.target[-1:],
    "answer": lambda tokens: tokens.answer,
}


@dataclass(frozen=True, eq=False)
class Examination:
    """The scores of the same objects under every variation, by its name; ``image_ids`` and ``object_ids`` name them."""

    image_ids: Int[np.ndarray, " objects"]
    object_ids: Int[np.ndarray, " objects"]
    scores: dict[str, Scores]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class _PreparedImage:
    """One image with what its objects need to be scored under any variation."""

    sample: Sample
    encoded: EncodedImage
    objects: list[KeyObject]
    tokens: list[Tokens]
    covered: Float[Tensor, "objects tokens"]
    foreign: Float[Tensor, "objects draws tokens"]
    blob: Bool[Tensor, "tokens"]


def examine(
    vlm: Vlm,
    groups: Iterable[Sequence[Sample]],
    variations: Sequence[Variation],
    everything: Sequence[Sample],
    draws: int,
    seed: int,
) -> Examination:
    """Score every head under every variation.

    Args:
        vlm: the model.
        groups: the samples, a few images at a time.
        variations: the ways to score, the definition first.
        everything: all samples of the part; masks for the chance level are drawn from them, as :class:`Scorer` does.
        draws: masks of other images per object.
        seed: of those draws, together with the object's id.

    Raises:
        InputError: fewer than two images have objects, every object was skipped, or an attention is not finite.
    """
    known = [(sample.id, obj) for sample in everything for obj in sample.objects]
    if len({image_id for image_id, _ in known}) < 2:
        raise InputError("The chance level takes masks of other images: the impact part needs two images with objects.")
    parts: dict[str, list[Scores]] = {variation.name: [] for variation in variations}
    ids: list[tuple[int, int]] = []
    skipped: list[Skipped] = []
    for group in groups:
        prepared = [_prepare(vlm, sample, known, draws, seed, skipped) for sample in group]
        images = [image for image in prepared if image is not None]
        for image, maps in zip(images, _maps(vlm, images) if images else [], strict=True):
            for variation in variations:
                scores = score(variation, maps[variation.rows], image.covered, image.foreign, image.blob)
                parts[variation.name].append(scores)
            ids += [(image.sample.id, obj.id) for obj in image.objects]
    if not ids:
        raise InputError("No object was examined: every one was skipped, or the data holds none.")
    image_ids, object_ids = np.array(ids, dtype=np.int64).T
    scores_by_variation = {name: join(of_images) for name, of_images in parts.items()}
    return Examination(image_ids, object_ids, scores_by_variation, tuple(skipped))


def _prepare(
    vlm: Vlm, sample: Sample, known: Sequence[tuple[int, KeyObject]], draws: int, seed: int, skipped: list[Skipped]
) -> _PreparedImage | None:
    """What an image needs; objects without a score go to ``skipped``, for the reasons that score has."""
    encoded = vlm.encode_image(sample.image())
    objects, tokens, covered = [], [], []
    for obj in sample.objects:
        described = vlm.tokenize(vlm.caption(obj.phrase), encoded.grid)
        coverage = vlm.coverages([obj.mask()])[0]
        if not len(described.target):
            skipped.append(Skipped(sample.id, obj.id, "the phrase has no token"))
        elif not coverage.any():
            skipped.append(Skipped(sample.id, obj.id, "no visual token sees the object"))
        else:
            objects.append(obj)
            tokens.append(described)
            covered.append(coverage)
    if not objects:
        return None
    foreign = torch.stack([foreign_coverages(vlm, sample, obj, known, draws, seed) for obj in objects])
    blob = vlm.coverages([ellipse(sample.width, sample.height)])[0] >= BLOB_COVERAGE
    return _PreparedImage(sample, encoded, objects, tokens, torch.stack(covered), foreign, blob)


@torch.inference_mode()
def _maps(vlm: Vlm, images: Sequence[_PreparedImage]) -> list[dict[Rows, Float[Tensor, "_ layers heads _"]]]:
    """Per image and choice of query rows the attention of its objects: ``objects layers heads tokens``."""
    packed = packing.pack_images([image.tokens for image in images], vlm.bidirectional_prompt)
    places, descriptions = [], []
    for index, image in enumerate(images):
        for rows, queries in QUERIES.items():
            places.append((index, rows, len(image.tokens)))
            for (row, where), tokens in zip(packed.places[index], image.tokens, strict=True):
                descriptions.append(attention.Description(row, where[queries(tokens)], where[tokens.visual]))
    layers: list[list[Tensor]] = []
    capture = attention.RowCapture(
        descriptions, lambda layer, maps: layers.append([of_object.cpu() for of_object in maps])
    )
    features = vlm.image_features([image.encoded for image in images])
    vlm.hidden_states(packed.batch, [features[image] for image in packed.images], capture)
    by_rows: list[dict[Rows, Tensor]] = [{} for _ in images]
    start = 0
    for index, rows, count in places:
        maps = torch.stack([torch.stack(layer[start : start + count]) for layer in layers], dim=1)
        if not maps.isfinite().all():
            raise InputError(
                f"The attention on image {images[index].sample.id} is not finite: load the base in float32."
            )
        by_rows[index][rows] = maps
        start += count
    return by_rows
