"""The attention of every head to an image while the model reads a phrase and each of its tokens, small enough to be
shown in a page: a byte and a bit a visual token.

What is above the mean, IoU and shares are taken from the attention itself, before it is made small.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8
from torch import Tensor

from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine, Forward, Prepared
from headimpact.engine.watch import Watch, unwatched
from headimpact.errors import InputError
from headimpact.impact.layer_scores import binarise, iou
from headimpact.impact.scoring import Skipped
from headimpact.vlm import attention
from headimpact.vlm.base import Vlm
from headimpact.vlm.conversations import Conversation
from headimpact.vlm.packing import Tokens
from headimpact.vlm.tokengrid import TokenGrid, planes, token_mask

LEVELS = 255
TOP = 8
"""Heads that count as the top heads."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Attention maps; the axes before that of the tokens are the same for all fields.

    Attributes:
        scales: the largest value of each map: a share of the attention, 0..1.
        values: 0..255: a token's share of the attention is about ``values * scales / 255``.
        above: the tokens with more attention than the mean token, eight a byte, the first in the highest bit.
        share: of the attention that goes to the image, 0..1; text gets the rest.
        iou: of the tokens ``above`` and those of the object; NaN without a mask, or where attention is not finite.
    """

    scales: Float32[np.ndarray, "*axes"]
    values: UInt8[np.ndarray, "*axes tokens"]
    above: UInt8[np.ndarray, "*axes _"]
    share: Float32[np.ndarray, "*axes"]
    iou: Float32[np.ndarray, "*axes"]


@dataclass(frozen=True, eq=False)
class Words:
    """What the model says of an image.

    Attributes:
        object_id: of the object; of words without a mask their number.
        phrase: the words that attention is taken from, or what they are called.
        tokens: the conversation.
        pieces: the text of each token of the phrase.
        mask: the visual tokens of the object, in sequence order; None where nobody knows it.
    """

    object_id: int
    phrase: str
    tokens: Tokens
    pieces: tuple[str, ...]
    mask: Bool[Tensor, "tokens"] | None


@dataclass(frozen=True, eq=False)
class Subject:
    """An image, and what the model says of it: one at least."""

    sample: Sample
    grid: TokenGrid
    words: Sequence[Words]


@dataclass(frozen=True, eq=False)
class ObjectMaps:
    """The maps of one phrase.

    Attributes:
        maps: of the axes ``phrases layers heads``: the whole phrase and then each of its tokens, where they were asked
            for; behind the heads the mean of all heads of the layer.
        top: one map, the mean of the top heads, of the whole phrase.
    """

    maps: Maps
    top: Maps


@dataclass(frozen=True, eq=False)
class Look:
    """The maps of one model, original or adapted, over some images.

    Attributes:
        objects: for each image those of its words.
        top: the top heads (layer, head), best first.
        by_impact: whether they are those of highest mean IoU; else of the largest share of attention on the image.
    """

    objects: Sequence[Sequence[ObjectMaps]]
    top: Sequence[tuple[int, int]]
    by_impact: bool

    def scores(self) -> Float64[np.ndarray, "layers _"]:
        """By what the top heads are chosen, of all heads, and behind them of the mean of each layer's heads."""
        maps = [of_object.maps for of_image in self.objects for of_object in of_image]
        return mean_scores(maps, self.by_impact)


# ---- what there is to look at


def subjects_of(vlm: Vlm, samples: Sequence[Sample], threshold: float) -> tuple[list[Subject], list[Skipped]]:
    """Images with what the model says of their objects; an image of which nothing can be said is left out.

    Args:
        vlm: the model.
        samples: the images.
        threshold: coverage from which a visual token belongs to the object.

    Raises:
        InputError: a phrase holds what stands for a part of the image.
    """
    subjects, skipped = [], []
    for sample in samples:
        grid = vlm.grid(sample.width, sample.height)
        found = []
        for obj in sample.objects:
            mask = token_mask(vlm.coverages([obj.mask()])[0], threshold)
            words = _words(vlm, grid, obj.id, vlm.caption(obj.phrase), mask, obj.phrase)
            if not words.pieces:
                skipped.append(Skipped(sample.id, obj.id, "the phrase has no token"))
            elif not mask.any():
                skipped.append(Skipped(sample.id, obj.id, "no visual token sees the object"))
            else:
                found.append(words)
        if found:
            subjects.append(Subject(sample, grid, found))
    return subjects, skipped


def subject_without_masks(vlm: Vlm, sample: Sample, said: Mapping[str, Conversation]) -> Subject:
    """A picture of which nobody knows where anything is.

    Args:
        vlm: the model.
        sample: the picture.
        said: conversations about it, by what they are called.

    Raises:
        InputError: a target has no token, or a text holds what stands for a part of the image.
    """
    grid = vlm.grid(sample.width, sample.height)
    words = [_words(vlm, grid, n, conversation, None, name) for n, (name, conversation) in enumerate(said.items())]
    for one in words:
        if not one.pieces:
            raise InputError(f"The phrase {one.phrase!r} has no token: say in words what to look for.")
    return Subject(sample, grid, words)


def _words(vlm: Vlm, grid: TokenGrid, number: int, said: Conversation, mask: Tensor | None, name: str) -> Words:
    tokens = vlm.tokenize(said, grid)
    pieces = tuple(vlm.tokenizer.decode([token]) for token in tokens.ids[tokens.target].tolist())
    return Words(number, name, tokens, pieces, mask)


def in_place(grid: TokenGrid) -> Int[np.ndarray, " tokens"]:
    """The order in which the tokens lie on the image: plane by plane (:func:`planes`), row by row."""
    return np.concatenate([plane.ravel() for plane in planes(np.arange(grid.tokens)[None], grid)])


# ---- what is seen


def look(
    engine: Engine,
    subjects: Sequence[Subject],
    pieces: bool = True,
    top: Sequence[tuple[int, int]] | None = None,
    watch: Watch = unwatched,
) -> Look:
    """The maps of every head, every layer's mean and the top heads' mean.

    Args:
        engine: the base, with whatever adapter is attached to it.
        subjects: images, all with masks or all without.
        pieces: also of each token of the phrases.
        top: the top heads; None: those of this model.
        watch: shows the images.
    """
    prepared = {s.sample.id: Prepared(s.sample, [words.tokens for words in s.words], s) for s in subjects}
    samples = [subject.sample for subject in subjects]
    images = engine.load(samples, lambda sample, _: prepared[sample.id])

    @torch.inference_mode()
    def read(forward: Forward[Subject]) -> list[tuple[Maps, Tensor]]:
        return list(_read(forward, pieces))

    found = [maps for _, maps in watch(engine.read(images, read), len(samples), "looking at")]
    masked = subjects[0].words[0].mask is not None
    top = _top([maps for of_image in found for maps, _ in of_image], masked) if top is None else top
    at = tuple(np.array(top).T)
    objects = [
        [
            ObjectMaps(maps, make_small(rows[at].mean(0, keepdim=True), words.mask, in_place(subject.grid)))
            for words, (maps, rows) in zip(subject.words, of_image, strict=True)
        ]
        for subject, of_image in zip(subjects, found, strict=True)
    ]
    return Look(objects, top, masked)


def _read(forward: Forward[Subject], pieces: bool) -> Iterator[tuple[Maps, Tensor]]:
    """Of every conversation the maps, and the attention of the whole phrase (``layers heads tokens``)."""
    said = [forward.images[image].prepared.facts.words[number] for image, number in forward.packed.members]
    orders = [in_place(forward.images[image].prepared.facts.grid) for image, _ in forward.packed.members]
    descriptions, counts = [], []
    for (row, where), tokens in zip(forward.packed.places, forward.packed.tokens, strict=True):
        queries = [tokens.target, *(tokens.target[:, None] if pieces else ())]
        descriptions += [attention.Description(row, where[query], where[tokens.visual]) for query in queries]
        counts.append(len(queries))
    small: list[list[Maps]] = [[] for _ in said]
    whole: list[list[Tensor]] = [[] for _ in said]

    def take(_: int, maps: list[Tensor]) -> None:
        start = 0
        for number, (words, order, count) in enumerate(zip(said, orders, counts, strict=True)):
            rows = torch.stack(maps[start : start + count]).cpu()
            whole[number].append(rows[0])
            with_mean = torch.cat([rows, rows.mean(1, keepdim=True)], 1)
            small[number].append(make_small(with_mean, words.mask, order))
            start += count

    forward.hidden(attention.RowCapture(descriptions, take))
    for layers, rows in zip(small, whole, strict=True):
        stacked = {field.name: np.stack([getattr(maps, field.name) for maps in layers], 1) for field in fields(Maps)}
        yield Maps(**stacked), torch.stack(rows)


def make_small(
    rows: Float[Tensor, "*axes tokens"], mask: Bool[Tensor, "tokens"] | None, order: Int[np.ndarray, " tokens"]
) -> Maps:
    """Maps of attention in sequence order, with their tokens in another ``order``."""
    above = binarise(rows)
    against = torch.full(rows.shape[:-1], torch.nan)
    if mask is not None:
        against = iou(above, mask).masked_fill(~rows.isfinite().all(-1), torch.nan)
    values, scales = quantise(rows.numpy()[..., order])
    bits = np.packbits(above.numpy()[..., order], axis=-1)
    return Maps(scales, values, bits, rows.sum(-1).numpy(), against.numpy().astype(np.float32))


def quantise(
    rows: Float[np.ndarray, "*axes tokens"],
) -> tuple[UInt8[np.ndarray, "*axes tokens"], Float32[np.ndarray, "*axes"]]:
    """Values from 0 in steps of a 255th of the largest of their row, and these largest; not finite ones become 0."""
    finite = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    scales = finite.max(-1).astype(np.float32)
    steps = finite * (LEVELS / np.where(scales > 0, scales, 1)[..., None])
    return np.rint(steps).clip(0, LEVELS).astype(np.uint8), scales


def mean_scores(maps: Sequence[Maps], by_impact: bool) -> Float64[np.ndarray, "layers _"]:
    """Mean IoU (else share of attention on the image) of whole phrases: of heads, Head Impact (eq. 2)."""
    scores = np.stack([(of_one.iou if by_impact else of_one.share)[0] for of_one in maps])
    return scores.mean(0, dtype=np.float64)


def _top(maps: Sequence[Maps], by_impact: bool) -> list[tuple[int, int]]:
    """The heads of highest score; ties go to the first."""
    scores = mean_scores(maps, by_impact)[:, :-1]
    ordered = np.argsort(-scores, axis=None, kind="stable")[:TOP].tolist()
    return [divmod(index, scores.shape[1]) for index in ordered]
