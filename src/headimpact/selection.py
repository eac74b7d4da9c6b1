"""Setups: which layers to adapt, and why."""

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float

from headimpact.errors import InputError

Kind = Literal["original", "top", "bottom", "random", "full", "layers"]
SETUPS = "original, top-K, bottom-K, random-K, full, layers:6,8,9,11 (K is a whole number from 1)"


@dataclass(frozen=True)
class Setup:
    """A setup's text, read: ``count`` is the K of top, bottom, random (else 0), ``layers`` those named."""

    text: str
    kind: Kind
    count: int = 0
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reason:
    """Why one layer was selected; ``score`` is its mean Head Impact over heads."""

    layer: int
    score: float
    reason: str


@dataclass(frozen=True)
class Selection:
    """The layers to adapt (ascending, from 0), the rule that chose them, and a reason for each."""

    setup: str
    layers: tuple[int, ...]
    rule: str
    why: tuple[Reason, ...]

    def to_dict(self) -> dict[str, Any]:
        """As written to JSON."""
        why = [asdict(reason) for reason in self.why]
        return {"setup": self.setup, "layers": list(self.layers), "rule": self.rule, "why": why}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Selection":
        """The inverse of :meth:`to_dict`; further keys are left alone.

        Raises:
            InputError: a key is missing, or the layers are not those of the reasons.
        """
        try:
            why = tuple(
                Reason(layer=int(row["layer"]), score=float(row["score"]), reason=str(row["reason"]))
                for row in data["why"]
            )
            layers = tuple(int(layer) for layer in data["layers"])
            selection = cls(setup=str(data["setup"]), layers=layers, rule=str(data["rule"]), why=why)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"This is not a selection ({type(error).__name__}: {error}). Select again.") from None
        if layers != tuple(reason.layer for reason in why):
            raise InputError(
                f"The selection names the layers {list(layers)} but gives reasons for others. Select again."
            )
        return selection


def check_setup(text: str) -> Setup:
    """Read a setup without knowing the model: a wrong text fails here, before anything is loaded.

    Raises:
        InputError: no such setup, K is 0, or the named layers are repeated or not ascending.
    """
    if text in ("original", "full"):
        return Setup(text, cast(Kind, text))
    if match := re.fullmatch(r"(top|bottom|random)-([0-9]{1,6})", text):
        return Setup(text, cast(Kind, match[1]), count=_count(text, match[1], match[2]))
    if text.startswith("layers:"):
        return Setup(text, "layers", layers=_named_layers(text))
    raise InputError(f"Unknown setup {text!r}. The setups are: {SETUPS}.")


def parse_setup(text: str, layers: int) -> Setup:
    """Read a setup for a model with ``layers`` layers.

    Raises:
        InputError: as for :func:`check_setup`, or the model has not the layers that the setup asks for.
    """
    setup = check_setup(text)
    if setup.count > layers:
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
    return re.sub(r"[:,]", "-", check_setup(setup).text)


def select(setup: str, layer_scores: Float[np.ndarray, " layers"], seed: int) -> Selection:
    """Choose the layers of ``setup``.

    A layer's score is the mean Head Impact of its heads; of equal scores the lower index goes first, in top
    and in bottom. random-K draws from the layers outside top-K and bottom-K, seeded by (seed, K).

    Args:
        setup: the setup's text.
        layer_scores: one score a layer, 0..1.
        seed: from 0; used by random-K alone.

    Raises:
        InputError: as for :func:`parse_setup`, or a score is not a number.
    """
    parsed = parse_setup(setup, len(layer_scores))
    if not np.isfinite(layer_scores).all():
        layer = int(np.flatnonzero(~np.isfinite(layer_scores))[0])
        raise InputError(f"Layer {layer} has no score ({layer_scores[layer]}): score the model again.")
    best = np.argsort(-layer_scores, kind="stable")
    rank = {int(layer): place for place, layer in enumerate(best, start=1)}
    chosen, rule = _choose(parsed, layer_scores, seed)
    layers = tuple(sorted(chosen))
    note = {"random": f"drawn with seed {seed}; ", "layers": "named in the setup; "}.get(parsed.kind, "")
    why = tuple(
        Reason(layer, float(layer_scores[layer]), f"{note}rank {rank[layer]} of {len(layer_scores)} by mean HI")
        for layer in layers
    )
    return Selection(setup=parsed.text, layers=layers, rule=rule, why=why)


def _choose(setup: Setup, scores: Float[np.ndarray, " layers"], seed: int) -> tuple[list[int], str]:
    k = setup.count
    top = np.argsort(-scores, kind="stable")[:k].tolist()
    bottom = np.argsort(scores, kind="stable")[:k].tolist()
    if setup.kind == "top":
        return top, f"the {k} layers with the highest mean Head Impact"
    if setup.kind == "bottom":
        return bottom, f"the {k} layers with the lowest mean Head Impact"
    if setup.kind == "random":
        rest = sorted(set(range(len(scores))) - {*top, *bottom})
        drawn = np.random.default_rng([seed, k]).choice(rest, size=k, replace=False).tolist()
        return drawn, f"{k} of the {len(rest)} layers outside top-{k} and bottom-{k}, drawn with seed {seed}"
    if setup.kind == "layers":
        return list(setup.layers), "the layers named in the setup"
    if setup.kind == "full":
        return list(range(len(scores))), "every layer"
    return [], "no layer: the base as it is"


def _count(text: str, kind: str, digits: str) -> int:
    if int(digits) == 0:
        raise InputError(f"Setup {text!r} selects no layer: K is a whole number from 1, as in {kind}-4.")
    if digits.startswith("0"):
        raise InputError(f"Setup {text!r}: write it as {kind}-{int(digits)}.")
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
