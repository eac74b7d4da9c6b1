"""A selection: what to adapt, and why. It is what select writes and what training reads."""

from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

from headimpact.errors import InputError
from headimpact.selection.grammar import Head


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
        scores: the score of every layer of the model, as in :class:`Reason`; NaN for one that has no attention.
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
        data = {"setup": self.setup, "layers": list(self.layers), "rule": self.rule, "why": why}
        data["scores"] = [None if isnan(score) else score for score in self.scores]
        return data | {"heads": [list(head) for head in self.heads]} if self.heads else data

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
            scores = tuple(float("nan") if score is None else float(score) for score in data["scores"])
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
