"""Setups: which layers to adapt, and why.

A rule is one of two things. A *ranking* gives every layer a priority, and the K layers of the highest are taken: HI
and the other measures, and the plain positions. The others choose a set: evenly spaced layers, random draws, named
layers. Ties go to the lower index everywhere.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from headimpact.errors import InputError

Head = tuple[int, int]
Measured = Mapping[str, Shaped[np.ndarray, "..."]]

MEASURES = {
    "hi": "mean HI",
    "excess": "chance-corrected HI",
    "auroc": "AUROC of attention against the mask",
    "mass": "attention share on the object over its area share",
    "share": "attention share on the image",
    "gradient": "gradient of the caption loss",
    "knockout": "loss of the phrase's log-probability without the layer's visual attention",
    "localisation": "share of objects that its heads localise",
}
"""What a layer can be measured by, and how a reason calls it."""

HI_COLUMNS = ("hi", "excess", "auroc", "mass")
"""The measures that stand in the HI table; the others are the work of measure."""

RULES = ("top", "bottom", "random", *(name for name in MEASURES if name != "hi"), "first", "middle", "last", "uniform")
"""Every rule that is used as ``<rule>-K``."""

CHAMPION = "top"
"""The rule of the paper, which a tournament compares with all others."""

SETUPS = (
    f"original, full, full-K, {', '.join(f'{rule}-K' for rule in RULES)}, draw-K-S, layers:6,8,9,11, heads:top-32, "
    "heads:8.3,8.5 (K is a whole number from 1, S one from 0)"
)
_FORMS = ("original", "full", "draw", "layers", "heads", *RULES)
POSITIONS = {
    "first": "the {k} first layers",
    "middle": "the {k} layers in the middle",
    "last": "the {k} last layers",
    "uniform": "{k} layers spaced evenly over the depth",
}


@dataclass(frozen=True)
class Setup:
    """A setup's text, read.

    Attributes:
        text: as it was written; one text for one setup.
        kind: ``original``, ``full``, one of ``RULES``, ``draw``, ``layers`` or ``heads``.
        count: the K of ``<rule>-K``, also of ``full-K``, or the N of ``heads:top-N``; else 0.
        draw: the S of ``draw-K-S``.
        layers: those named by ``layers:``.
        heads: those named by ``heads:``, as (layer, head).
    """

    text: str
    kind: str
    count: int = 0
    draw: int = 0
    layers: tuple[int, ...] = ()
    heads: tuple[Head, ...] = ()

    @property
    def budget(self) -> int:
        """Of how many layers all layers share the trainable parameters, for full-K; else 0."""
        return self.count if self.kind == "full" else 0


@dataclass(frozen=True)
class Reason:
    """Why one layer, or one head of it, was selected.

    ``score`` is the rule's own score; mean Head Impact where the rule has none.
    """

    layer: int
    score: float
    reason: str
    head: int | None = None


@dataclass(frozen=True)
class Selection:
    """What to adapt, and why.

    Attributes:
        setup: the setup's text.
        layers: the layers to adapt (ascending, from 0).
        rule: what chose them, in words.
        why: a reason for each layer, or for each head where single heads are adapted.
        scores: the score of every layer of the model, as in :class:`Reason`.
        heads: the heads to adapt, as (layer, head), ascending; empty where whole layers are adapted.
    """

    setup: str
    layers: tuple[int, ...]
    rule: str
    why: tuple[Reason, ...]
    scores: tuple[float, ...] = ()
    heads: tuple[Head, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As written to JSON; what only selections of heads have is left out of the others."""
        why = [{key: value for key, value in asdict(reason).items() if value is not None} for reason in self.why]
        found = {"setup": self.setup, "layers": list(self.layers), "rule": self.rule, "why": why}
        found["scores"] = list(self.scores)
        return found | {"heads": [list(head) for head in self.heads]} if self.heads else found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Selection":
        """The inverse of :meth:`to_dict`; further keys are left alone.

        Raises:
            InputError: a key is missing, or the layers or heads are not those of the reasons.
        """
        try:
            why = tuple(
                Reason(
                    layer=int(row["layer"]),
                    score=float(row["score"]),
                    reason=str(row["reason"]),
                    head=int(row["head"]) if "head" in row else None,
                )
                for row in data["why"]
            )
            layers = tuple(int(layer) for layer in data["layers"])
            heads = tuple((int(layer), int(head)) for layer, head in data.get("heads", ()))
            scores = tuple(float(score) for score in data["scores"])
            selection = cls(str(data["setup"]), layers, str(data["rule"]), why, scores, heads)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"This is not a selection ({type(error).__name__}: {error}). Select again.") from None
        if layers != tuple(sorted({reason.layer for reason in why})):
            raise InputError(
                f"The selection names the layers {list(layers)} but gives reasons for others. Select again."
            )
        if heads != tuple((reason.layer, reason.head) for reason in why if reason.head is not None):
            raise InputError("The selection names heads but gives reasons for others. Select again.")
        return selection


def check_setup(text: str) -> Setup:
    """Read a setup without knowing the model: a wrong text fails here, before anything is loaded.

    Raises:
        InputError: no such setup (the message names the nearest one), K is 0, a number has leading zeros, or named
            layers or heads are repeated or not ascending.
    """
    if text in ("original", "full"):
        return Setup(text, text)
    if match := re.fullmatch(rf"(full|{'|'.join(RULES)})-([0-9]{{1,6}})", text):
        return Setup(text, match[1], count=_count(text, f"{match[1]}-", match[2]))
    if match := re.fullmatch(r"draw-([0-9]{1,6})-([0-9]{1,6})", text):
        count = _count(text, "draw-", match[1], f"-{int(match[2])}")
        if match[2] != str(int(match[2])):
            raise InputError(f"Setup {text!r}: write it as draw-{count}-{int(match[2])}.")
        return Setup(text, "draw", count=count, draw=int(match[2]))
    if match := re.fullmatch(r"heads:top-([0-9]{1,6})", text):
        return Setup(text, "heads", count=_count(text, "heads:top-", match[1]))
    if text.startswith("layers:"):
        return Setup(text, "layers", layers=_named_layers(text))
    if text.startswith("heads:"):
        return Setup(text, "heads", heads=_named_heads(text))
    raise InputError(f"Unknown setup {text!r}.{_hint(text)} The setups are: {SETUPS}.")


def needs_measures(text: str) -> bool:
    """Whether the setup goes by something that the HI table does not hold, so that measure has to run."""
    return check_setup(text).kind in MEASURES and check_setup(text).kind not in HI_COLUMNS


def parse_setup(text: str, layers: int, heads: int | None = None) -> Setup:
    """Read a setup for a model with ``layers`` layers of ``heads`` heads each (None where that is not known).

    Raises:
        InputError: as for :func:`check_setup`, or the model has not the layers or heads that the setup asks for.
    """
    setup = check_setup(text)
    if setup.kind == "heads":
        _check_heads(setup, layers, heads)
    elif setup.count > layers:
        raise InputError(f"Setup {text!r} asks for {setup.count} layers, but the model has {layers}.")
    if setup.kind == "random" and 3 * setup.count > layers:
        k = setup.count
        raise InputError(
            f"Setup {text!r} needs {k} layers outside top-{k} and bottom-{k}, but the model has {layers} "
            f"layers, which leaves {max(0, layers - 2 * k)}: K can be at most {layers // 3}."
        )
    if beyond := [layer for layer in setup.layers if layer >= layers]:
        raise InputError(
            f"Setup {text!r} names layer {beyond[0]}, but the model has {layers} layers, 0 to {layers - 1}."
        )
    return setup


def alias(setup: str) -> str:
    """The setup as an MLflow alias (letters, digits, ``-`` and ``_`` alone): layers:6,8 -> layers-6-8."""
    return re.sub(r"[:,.]", "-", check_setup(setup).text)


def select(setup: str, measured: Measured, seed: int) -> Selection:
    """Choose the layers of ``setup``, or its heads.

    random-K draws from the layers outside top-K and bottom-K, seeded by (seed, K). draw-K-S draws from all layers,
    seeded by (seed, S): draws of the same S and different K are nested. full-K takes every layer; finetune gives
    them the ranks of :func:`headimpact.adapters.lora.spread`: where the budget is less than rank 1 a layer, evenly
    spaced layers alone have one. ``heads:top-N`` takes the heads of highest HI.

    Args:
        setup: the setup's text.
        measured: by name (``MEASURES``) one score a layer, or one a layer and head (``layers heads``), of which a
            layer's score is the mean. ``hi`` is always needed.
        seed: from 0; used by random-K and draw-K-S alone.

    Raises:
        InputError: as for :func:`parse_setup`; a score is not a number; or what the rule goes by was not measured.
    """
    impact = measured["hi"]
    parsed = parse_setup(setup, len(impact), impact.shape[1] if impact.ndim > 1 else None)
    if parsed.kind == "heads":
        return _select_heads(parsed, impact)
    name = _measure(parsed.kind)
    scores = _layer_scores(measured, name, setup)
    chosen, rule = _choose(parsed, measured, seed)
    rank = _ranks(scores)
    note = _note(parsed, seed)
    why = tuple(
        Reason(layer, float(scores[layer]), f"{note}rank {rank[layer]} of {len(scores)} by {MEASURES[name]}")
        for layer in sorted(chosen)
    )
    return Selection(setup, tuple(sorted(chosen)), rule, why, tuple(scores.tolist()))


def priority(rule: str, measured: Measured) -> Float[np.ndarray, " layers"] | None:
    """What a rule (``Setup.kind``) takes the layers of the highest of; None for one that chooses a set.

    Raises:
        InputError: as for :func:`select`.
    """
    if rule == "bottom":
        return -_layer_scores(measured, "hi", rule)
    if rule == "top" or rule in MEASURES:
        return _layer_scores(measured, _measure(rule), rule)
    index = np.arange(len(measured["hi"]), dtype=np.float64)
    return {"first": -index, "last": index, "middle": -np.abs(index - index.mean())}.get(rule)


def _measure(kind: str) -> str:
    """The measure that a rule goes by; HI, to tell where the layers stand, where it goes by none."""
    return kind if kind in MEASURES else "hi"


def _layer_scores(measured: Measured, name: str, setup: str) -> Float[np.ndarray, " layers"]:
    if name not in measured:
        raise InputError(f"Setup {setup!r} goes by the {MEASURES[name]}, which was not measured: measure the model.")
    scores = np.asarray(measured[name], dtype=np.float64)
    scores = scores.mean(axis=1) if scores.ndim > 1 else scores
    if not np.isfinite(scores).all():
        layer = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise InputError(f"Layer {layer} has no score ({scores[layer]}): score the model again.")
    return scores


def _ranks(scores: Float[np.ndarray, " scored"]) -> dict[int, int]:
    """Place of every layer (or head) by its score, from 1."""
    return {int(index): place for place, index in enumerate(np.argsort(-scores, kind="stable"), start=1)}


def _choose(setup: Setup, measured: Measured, seed: int) -> tuple[list[int], str]:
    k, layers = setup.count, len(measured["hi"])
    if (wanted := priority(setup.kind, measured)) is not None:
        return np.argsort(-wanted, kind="stable")[:k].tolist(), _told(setup)
    if setup.kind == "uniform":
        return [(2 * i + 1) * layers // (2 * k) for i in range(k)], _told(setup)
    if setup.kind == "random":
        scores = _layer_scores(measured, "hi", setup.text)
        ends = {*np.argsort(-scores, kind="stable")[:k].tolist(), *np.argsort(scores, kind="stable")[:k].tolist()}
        rest = sorted(set(range(layers)) - ends)
        drawn = np.random.default_rng([seed, k]).choice(rest, size=k, replace=False).tolist()
        return drawn, f"{k} of the {len(rest)} layers outside top-{k} and bottom-{k}, drawn with seed {seed}"
    if setup.kind == "draw":
        drawn = np.random.default_rng([seed, setup.draw]).permutation(layers)[:k].tolist()
        return drawn, f"{k} of all {layers} layers, draw {setup.draw} with seed {seed}"
    if setup.kind == "layers":
        return list(setup.layers), "the layers named in the setup"
    if setup.kind == "full":
        return list(range(layers)), (
            f"every layer, on the budget of {k} (evenly spaced ones where that is less than rank 1 a layer)"
            if k
            else "every layer"
        )
    return [], "no layer: the base as it is"


def _told(setup: Setup) -> str:
    if setup.kind in POSITIONS:
        return POSITIONS[setup.kind].format(k=setup.count)
    if setup.kind in ("top", "bottom"):
        end = "highest" if setup.kind == "top" else "lowest"
        return f"the {setup.count} layers with the {end} mean Head Impact"
    return f"the {setup.count} layers with the highest {MEASURES[setup.kind]}"


def _note(setup: Setup, seed: int) -> str:
    """What a reason begins with where the score is not what chose the layer."""
    if setup.kind in POSITIONS:
        return f"by position ({setup.kind}); "
    drawn = f"drawn with seed {seed}; "
    return {"random": drawn, "draw": drawn, "layers": "named in the setup; "}.get(setup.kind, "")


def _select_heads(setup: Setup, impact: Float[np.ndarray, "layers heads"]) -> Selection:
    layers, heads = impact.shape
    scores = _layer_scores({"hi": impact}, "hi", setup.text)
    rank = _ranks(impact.ravel())
    named = [layer * heads + head for layer, head in setup.heads]
    chosen = sorted(named or sorted(rank, key=rank.__getitem__)[: setup.count])
    found = tuple((int(index // heads), int(index % heads)) for index in chosen)
    note = "named in the setup; " if named else ""
    why = tuple(
        Reason(layer, float(impact[layer, head]), f"{note}rank {rank[index]} of {layers * heads} heads by HI", head)
        for index, (layer, head) in zip(chosen, found, strict=True)
    )
    rule = "the heads named in the setup" if named else f"the {setup.count} heads with the highest Head Impact"
    adapted = tuple(sorted({layer for layer, _ in found}))
    return Selection(setup.text, adapted, rule, why, tuple(scores.tolist()), found)


def _check_heads(setup: Setup, layers: int, heads: int | None) -> None:
    if heads is None:
        raise InputError(f"Setup {setup.text!r} needs the Head Impact of every head, not of layers alone.")
    if setup.count > layers * heads:
        raise InputError(f"Setup {setup.text!r} asks for {setup.count} heads, but the model has {layers * heads}.")
    if beyond := [head for head in setup.heads if head[0] >= layers or head[1] >= heads]:
        raise InputError(
            f"Setup {setup.text!r} names head {beyond[0][0]}.{beyond[0][1]}, but the model has {layers} layers of "
            f"{heads} heads, both counted from 0."
        )


def _hint(text: str) -> str:
    """The nearest setup that exists, as an advice; empty where none is near."""
    name = re.split("[-:]", text, maxsplit=1)[0]
    rest = text[len(name) + 1 :]
    near = difflib.get_close_matches(name.lower(), _FORMS, n=1)
    if not near:
        return ""
    ending = {"original": "", "full": "", "draw": "-4-0", "layers": ":6,8", "heads": ":top-32"}.get(near[0], "-4")
    if near[0] in ("full", *RULES) and re.fullmatch(r"[1-9][0-9]{0,5}", rest, re.ASCII):
        ending = f"-{rest}"
    return f" Did you mean {near[0]}{ending}?"


def _count(text: str, before: str, digits: str, after: str = "") -> int:
    if int(digits) == 0:
        nothing = "head" if before.startswith("heads") else "layer"
        raise InputError(f"Setup {text!r} selects no {nothing}: K is a whole number from 1, as in {before}4{after}.")
    if digits.startswith("0"):
        raise InputError(f"Setup {text!r}: write it as {before}{int(digits)}{after}.")
    return int(digits)


def _named_layers(text: str) -> tuple[int, ...]:
    names = text.removeprefix("layers:")
    if not re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6})*", names):
        raise InputError(f"Setup {text!r}: name layers by index, with commas and nothing else, as in layers:6,8,9,11.")
    layers = [int(name) for name in names.split(",")]
    if repeated := sorted({layer for layer in layers if layers.count(layer) > 1}):
        raise InputError(f"Setup {text!r} names layer {repeated[0]} twice.")
    proper = "layers:" + ",".join(map(str, sorted(layers)))
    if text != proper:  # one text for one setup: it names folders, runs and versions
        raise InputError(f"Setup {text!r}: write it as {proper}.")
    return tuple(layers)


def _named_heads(text: str) -> tuple[Head, ...]:
    names = text.removeprefix("heads:")
    if not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}(,[0-9]{1,6}\.[0-9]{1,6})*", names):
        raise InputError(
            f"Setup {text!r}: write the number of heads as in heads:top-32, or name them by layer and head, with "
            "commas and nothing else, as in heads:8.3,8.5."
        )
    heads = [(int(layer), int(head)) for layer, head in (name.split(".") for name in names.split(","))]
    if repeated := sorted({head for head in heads if heads.count(head) > 1}):
        raise InputError(f"Setup {text!r} names head {repeated[0][0]}.{repeated[0][1]} twice.")
    proper = "heads:" + ",".join(f"{layer}.{head}" for layer, head in sorted(heads))
    if text != proper:  # one text for one setup: it names folders, runs and versions
        raise InputError(f"Setup {text!r}: write it as {proper}.")
    return tuple(heads)
