"""Choose the layers of a setup, or its heads, and say why each."""

import numpy as np
from jaxtyping import Float, Int

from headimpact.errors import InputError
from headimpact.selection.grammar import ORIGINAL, Setup
from headimpact.selection.measured import Measured, attending
from headimpact.selection.rules import HI, RULES, Candidates, Measure
from headimpact.selection.selection import Reason, Selection
from headimpact.selection.setups import parse_setup


def select(setup: str, measured: Measured, seed: int) -> Selection:
    """Choose the layers of ``setup``, or its heads.

    random-K draws from the layers outside top-K and bottom-K, seeded by (seed, K). draw-K-S draws from all layers,
    seeded by (seed, S): draws of the same S and different K are nested. A layer without attention is never chosen and
    takes no place: rules see the others alone, as if these were all. full-K takes every layer; finetune gives
    them the ranks of :func:`headimpact.adapters.lora.spread`: where the budget is less than rank 1 a layer, evenly
    spaced layers alone have one. ``heads:top-N`` takes the heads of highest HI.

    Args:
        setup: the setup's text.
        measured: ``hi`` is always needed: where a rule goes by no measure, it tells where the layers stand.
        seed: from 0; used by random-K and draw-K-S alone.

    Raises:
        InputError: as for :func:`setups.parse_setup`; a score is not a number; or what the rule goes by was not
            measured.
    """
    impact, layers = measured[HI.name], attending(measured)
    parsed = parse_setup(setup, len(impact), impact.shape[1] if impact.ndim > 1 else None, layers.tolist())
    if parsed.kind == "heads":
        return _select_heads(parsed, measured)
    rule = RULES.get(parsed.kind)
    measure = rule.measure if rule is not None and rule.measure is not None else HI
    scores = _layer_scores(measured, measure, setup)
    if rule is None:
        chosen, words, note = _named_outright(parsed)
    else:
        candidates = Candidates(tuple(scores[layers].tolist()), parsed.count, seed, parsed.draw)
        words, note = rule.sentence(candidates) + _of_those(layers, len(impact)), rule.note(candidates)
        chosen = layers[rule.choose(candidates)].tolist()
    rank = dict(zip(layers.tolist(), _ranks(scores[layers]), strict=True))
    why = tuple(
        Reason(layer, float(scores[layer]), f"{note}rank {rank[layer]} of {len(layers)} by {measure.words}")
        for layer in sorted(chosen)
    )
    return Selection(setup, tuple(sorted(chosen)), words, why, tuple(scores.tolist()))


def _of_those(layers: Int[np.ndarray, " attending"], count: int) -> str:
    return "" if len(layers) == count else f" (of the {len(layers)} that have attention: the other layers have none)"


def priority(kind: str, measured: Measured) -> Float[np.ndarray, " layers"] | None:
    """What a rule (``Setup.kind``) takes the layers of the highest of, one value a layer that has attention; None for
    what is no ranking.

    Raises:
        InputError: as for :func:`select`.
    """
    rule = RULES.get(kind)
    if rule is None or rule.ranks is None:
        return None
    scores = _layer_scores(measured, rule.measure or HI, kind)[attending(measured)]
    return np.array(rule.ranks(scores.tolist()))


def _named_outright(setup: Setup) -> tuple[list[int], str, str]:
    """Layers, words and note of a setup that goes by no rule."""
    if setup.kind == ORIGINAL:
        return [], "no layer: the base as it is", ""
    return list(setup.layers), "the layers named in the setup", "named in the setup; "


def _layer_scores(measured: Measured, measure: Measure, setup: str) -> Float[np.ndarray, " layers"]:
    if measure.name not in measured:
        raise InputError(f"Setup {setup!r} goes by the {measure.words}, which was not measured: measure the model.")
    scores = np.asarray(measured[measure.name], dtype=np.float64)
    scores = scores.mean(axis=1) if scores.ndim > 1 else scores
    layers = attending(measured)
    if not np.isfinite(scores[layers]).all():
        layer = int(layers[~np.isfinite(scores[layers])][0])
        raise InputError(f"Layer {layer} has no score ({scores[layer]}): score the model again.")
    return scores


def _ranks(scores: Float[np.ndarray, " scored"]) -> list[int]:
    """Place of every layer (or head) by its score, from 1."""
    return (np.argsort(np.argsort(-scores, kind="stable"), kind="stable") + 1).tolist()


def _select_heads(setup: Setup, measured: Measured) -> Selection:
    impact, layers = measured[HI.name], attending(measured)
    heads = impact.shape[1]
    scores = _layer_scores(measured, HI, setup.text)
    scored = [layer * heads + head for layer in layers.tolist() for head in range(heads)]
    rank = dict(zip(scored, _ranks(impact[layers].ravel()), strict=True))
    named = [layer * heads + head for layer, head in setup.heads]
    chosen = sorted(named or sorted(rank, key=rank.__getitem__)[: setup.count])
    pairs = tuple((int(index // heads), int(index % heads)) for index in chosen)
    note = "named in the setup; " if named else ""
    why = tuple(
        Reason(layer, float(impact[layer, head]), f"{note}rank {rank[index]} of {len(rank)} heads by HI", head)
        for index, (layer, head) in zip(chosen, pairs, strict=True)
    )
    rule = "the heads named in the setup" if named else f"the {setup.count} heads with the highest Head Impact"
    adapted = tuple(sorted({layer for layer, _ in pairs}))
    return Selection(setup.text, adapted, rule, why, tuple(scores.tolist()), pairs)
