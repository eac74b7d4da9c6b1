"""Head Impact of a model under every variation of its definition: the attention of three choices of query rows is read
off one packed forward."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headimpact.data.samples import KeyObject, Sample
from headimpact.engine.forward import Engine, Forward, Loaded, Prepare, Prepared
from headimpact.engine.portions import Arrays, Kept, go_over, join
from headimpact.engine.watch import Watch, unwatched
from headimpact.errors import InputError
from headimpact.impact.scoring import ChanceSettings, OtherObjects, Skipped, skipped_arrays, skipped_of
from headimpact.impact.variations import BLOB_COVERAGE, SCORES, Rows, Scores, Variation, ellipse, score
from headimpact.vlm import attention
from headimpact.vlm.base import Vlm
from headimpact.vlm.packing import Tokens
from headimpact.vlm.tokengrid import TokenGrid

QUERIES: dict[Rows, Callable[[Tokens], Int[Tensor, "_"]]] = {
    "phrase": lambda tokens: tokens.target,
    "last token": lambda tokens: tokens.target[-1:],
    "answer": lambda tokens: tokens.answer,
}


@dataclass(frozen=True, eq=False)
class Examination:
    """The scores of the same objects under every variation, by its name; ``image_ids`` and ``object_ids`` name them,
    and ``layers`` are the numbers of the scored layers."""

    image_ids: Int[np.ndarray, " objects"]
    object_ids: Int[np.ndarray, " objects"]
    scores: dict[str, Scores]
    skipped: tuple[Skipped, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True)
class _Covered:
    """What an image's objects need to be scored under any variation, beside their conversations."""

    objects: list[KeyObject]
    covered: Float[Tensor, "objects tokens"]
    foreign: Float[Tensor, "objects draws tokens"]
    blob: Bool[Tensor, "tokens"]
    skipped: list[Skipped]


def examine(
    engine: Engine,
    samples: Sequence[Sample],
    variations: Sequence[Variation],
    everything: Sequence[Sample],
    settings: ChanceSettings,
    watch: Watch = unwatched,
    kept: Kept | None = None,
) -> Examination:
    """Score every head under every variation.

    Args:
        engine: the base.
        samples: the images.
        variations: the ways to score, the definition first.
        everything: all samples of the part; masks for the chance level are drawn from them, as ``score_images`` does.
        settings: how masks come about; thresholds are the variations' own.
        watch: shows the images.
        kept: where the scores of portions are kept, if anywhere.

    Raises:
        InputError: fewer than two images have objects, every object was skipped, or an attention is not finite.
    """

    def compute(images: Iterator[Loaded[_Covered]]) -> Arrays:
        return join(_examined(*read, variations) for read in engine.read(images, _maps))

    prepare = _covered(engine.vlm, OtherObjects(everything), settings)
    found = join(go_over(engine, samples, prepare, compute, watch, "examining", kept))
    if "image_ids" not in found:
        raise InputError("No object was examined: every one was skipped, or the data holds none.")
    scores = {
        variation.name: Scores(**{name: found[_column(number, name)] for name in SCORES})
        for number, variation in enumerate(variations)
    }
    return Examination(
        found["image_ids"], found["object_ids"], scores, tuple(skipped_of(found)), engine.vlm.attention_layers
    )


def _examined(
    prepared: Prepared[_Covered], maps: Sequence[dict[Rows, Tensor]], variations: Sequence[Variation]
) -> Arrays:
    """The scores of the objects of one image."""
    sample, facts = prepared.sample, prepared.facts
    arrays = skipped_arrays(facts.skipped)
    if not facts.objects:
        return arrays
    by_rows: dict[Rows, Tensor] = {rows: torch.stack([of[rows] for of in maps]) for rows in QUERIES}
    if not all(of.isfinite().all() for of in by_rows.values()):
        raise InputError(f"The attention on image {sample.id} is not finite: load the base in float32.")
    arrays["image_ids"] = np.full(len(facts.objects), sample.id, dtype=np.int64)
    arrays["object_ids"] = np.array([obj.id for obj in facts.objects], dtype=np.int64)
    for number, variation in enumerate(variations):
        scores = score(variation, by_rows[variation.rows], facts.covered, facts.foreign, facts.blob)
        arrays |= {_column(number, name): getattr(scores, name) for name in SCORES}
    return arrays


def _column(variation: int, score: str) -> str:
    return f"{variation} {score}"


def _covered(vlm: Vlm, others: OtherObjects, settings: ChanceSettings) -> Prepare[_Covered]:
    """Prepares the captions of an image's objects, with what the variations need; objects without a score are skipped,
    for the reasons that ``score_images`` has."""

    def prepare(sample: Sample, grid: TokenGrid) -> Prepared[_Covered]:
        objects, tokens, covered, skipped = [], [], [], []
        for obj in sample.objects:
            described = vlm.tokenize(vlm.caption(obj.phrase), grid)
            coverage = vlm.coverages([obj.mask()])[0]
            if not len(described.target):
                skipped.append(Skipped(sample.id, obj.id, "the phrase has no token"))
            elif not coverage.any():
                skipped.append(Skipped(sample.id, obj.id, "no visual token sees the object"))
            else:
                objects.append(obj)
                tokens.append(described)
                covered.append(coverage)
        blob = vlm.coverages([ellipse(sample.width, sample.height)])[0] >= BLOB_COVERAGE
        if not objects:
            none = torch.empty(0, grid.tokens)
            return Prepared(sample, [], _Covered([], none, none[:, None], blob, skipped))
        foreign = [others.coverages(vlm, sample, obj, settings.draws, settings.seed) for obj in objects]
        return Prepared(sample, tokens, _Covered(objects, torch.stack(covered), torch.stack(foreign), blob, skipped))

    return prepare


@torch.inference_mode()
def _maps(forward: Forward[_Covered]) -> list[dict[Rows, Float[Tensor, "layers heads _"]]]:
    """The attention of every object of a forward, by choice of query rows."""
    descriptions = [
        attention.Description(row, where[queries(tokens)], where[tokens.visual])
        for (row, where), tokens in zip(forward.packed.places, forward.packed.tokens, strict=True)
        for queries in QUERIES.values()
    ]
    layers: list[list[Tensor]] = []
    take = attention.RowCapture(descriptions, lambda _, maps: layers.append([of_object.cpu() for of_object in maps]))
    forward.hidden(take)
    maps = iter([torch.stack([layer[index] for layer in layers]) for index in range(len(descriptions))])
    return [{rows: next(maps) for rows in QUERIES} for _ in forward.packed.members]
