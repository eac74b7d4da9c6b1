"""The grammar of setups. A setup is a text that says which layers, or which heads of them, are adapted.

====================================  ==================================================
``original``                          no layer: the base as it is
``full``                              a rule that needs no number: every layer
``top-4``                             the 4 layers that a rule chooses (``<rule>-K``)
``draw-4-0``                          a rule that draws: 4 layers, draw 0 (``<rule>-K-S``)
``layers:6,8,9,11``                   named layers
``heads:top-32``                      the 32 heads of highest Head Impact
``heads:8.3,8.5``                     named heads, by layer and head
``soft-top-4``                        the adapter of another setup, scaled down (``headimpact soften``)
====================================  ==================================================

One text for one setup: it names folders, runs and versions. Which rules there are is not known here (see
:mod:`headimpact.selection.setups`), so that what reads a setup that was checked before does not depend on the rules.
"""

import hashlib
import re
from dataclasses import dataclass, replace

from headimpact.errors import InputError

ORIGINAL = "original"
"""The setup without layers."""

FULL = "full"
"""The rule of every layer, the one whose K is a budget."""

_LONGEST_ALIAS = 100
_SOFT = "soft-"

Head = tuple[int, int]
"""A head, by its layer and its index within the layer."""


@dataclass(frozen=True)
class Setup:
    """A setup's text, read.

    Attributes:
        text: as it was written; one text for one setup.
        kind: ``original``, the name of a rule, ``layers`` or ``heads``; of a softened setup that of what was trained.
        count: the K of ``<rule>-K``, or the N of ``heads:top-N``; else 0.
        draw: the S of ``<rule>-K-S``; else 0.
        layers: those named by ``layers:``.
        heads: those named by ``heads:``.
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
        return self.count if self.kind == FULL else 0


def read_setup(text: str) -> Setup:
    """Read a setup, whatever its rule is called.

    Raises:
        InputError: the text has none of the forms, K is 0, a number has leading zeros, or named layers or heads are
            repeated or not ascending; or what is to be softened is the original, or softened already.
    """
    if is_softened(text):
        return replace(_read_trained(text), text=text)
    if match := re.fullmatch(r"([a-z]+)(?:-([0-9]{1,6}))?(?:-([0-9]{1,6}))?", text):
        kind, count, draw = match.groups()
        if count is None:
            return Setup(text, kind)
        _check_numbers(text, f"{kind}-", int(count), "" if draw is None else f"-{int(draw)}", "layer")
        return Setup(text, kind, count=int(count), draw=int(draw or 0))
    if match := re.fullmatch(r"heads:top-([0-9]{1,6})", text):
        _check_numbers(text, "heads:top-", int(match[1]), "", "head")
        return Setup(text, "heads", count=int(match[1]))
    if text.startswith("layers:"):
        return Setup(text, "layers", layers=_named_layers(text))
    if text.startswith("heads:"):
        return Setup(text, "heads", heads=_named_heads(text))
    raise InputError(
        f"{text!r} is not a setup: write {ORIGINAL}, or a rule with a number as in top-4, or layers as in layers:6,8, "
        "or heads as in heads:8.3,8.5."
    )


def softened(setup: str) -> str:
    """The setup of a trained setup's softened adapter."""
    return f"{_SOFT}{setup}"


def is_softened(setup: str) -> bool:
    """Whether the setup is that of a softened adapter."""
    return setup.startswith(_SOFT)


def trained(setup: str) -> str:
    """The setup that was trained: of a softened one that which was softened, else itself."""
    return setup.removeprefix(_SOFT)


def _read_trained(text: str) -> Setup:
    setup = trained(text)
    if setup == ORIGINAL:
        raise InputError(f"Setup {text!r}: the original has no adapter to soften.")
    if is_softened(setup):
        raise InputError(f"Setup {text!r}: {setup} is softened already; it is made from the setup {trained(setup)}.")
    return read_setup(setup)


def alias(setup: str) -> str:
    """The setup as an MLflow alias (letters, digits, ``-`` and ``_`` alone): layers:6,8 -> layers-6-8.

    A long one is cut and ends with its digest: MLflow and file systems take 255 characters.

    Raises:
        InputError: as for :func:`read_setup`.
    """
    if is_softened(setup):
        return f"{_SOFT}{alias(trained(read_setup(setup).text))}"
    name = re.sub(r"[:,.]", "-", read_setup(setup).text)
    if len(name) <= _LONGEST_ALIAS:
        return name
    return f"{name[: _LONGEST_ALIAS - 11]}-{hashlib.sha256(setup.encode()).hexdigest()[:10]}"


def _check_numbers(text: str, before: str, count: int, after: str, unit: str) -> None:
    if count == 0:
        raise InputError(f"Setup {text!r} selects no {unit}: K is a whole number from 1, as in {before}4{after}.")
    _check_spelling(text, f"{before}{count}{after}")


def _check_spelling(text: str, proper: str) -> None:
    if text != proper:
        raise InputError(f"Setup {text!r}: write it as {proper}.")


def _named_layers(text: str) -> tuple[int, ...]:
    names = text.removeprefix("layers:")
    if not re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6})*", names):
        raise InputError(f"Setup {text!r}: name layers by index, with commas and nothing else, as in layers:6,8,9,11.")
    layers = [int(name) for name in names.split(",")]
    if repeated := sorted({layer for layer in layers if layers.count(layer) > 1}):
        raise InputError(f"Setup {text!r} names layer {repeated[0]} twice.")
    _check_spelling(text, "layers:" + ",".join(map(str, sorted(layers))))
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
    _check_spelling(text, "heads:" + ",".join(f"{layer}.{head}" for layer, head in sorted(heads)))
    return tuple(heads)
