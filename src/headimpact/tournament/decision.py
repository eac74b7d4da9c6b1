"""Which setup to use: of what was measured of one model, the setups that nothing beats, and the one to take.

A pure function over two tables; :mod:`headimpact.report.evidence` makes them of a tournament or of evaluations. The
rule in words stands in docs/method.md.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import pandas as pd

from headimpact.evaluation.metrics import METRICS
from headimpact.selection.grammar import FULL, ORIGINAL, read_setup

GAIN = METRICS["perplexity"]
"""What a setup gains: its perplexity on phrases such as those that it was trained on falls."""
FORGETTING = METRICS["accuracy"]
"""What a setup forgets: its accuracy in questions that it was not trained for falls."""
COLUMNS = [
    "setup",
    "trainable",
    "choosable",
    *(f"{metric.name}{end}" for metric in (GAIN, FORGETTING) for end in ("", "_low", "_high")),
]
"""Of the table of what was measured. The metrics are differences, adapter minus original, with their intervals; one
that is not known is NaN. ``choosable`` is not what has no setup of its own, as the mean over random draws."""
CLAIMS = ["better", "worse", "metric"]
"""Of the table of claims: that one setup is better than another in a metric."""

Because = Literal["nothing measured", "nothing compared", "all forget", "no gain", "gains most", "not told apart"]
Status = Literal["unbeaten", "beaten", "forgets"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    """What to use, and why.

    Attributes:
        setup: the one to use; ``original`` where nothing that was trained is to be used.
        because: why.
        tied: other setups of which none can be said to gain less or more than it, best estimate first.
        status: of every setup that was measured.
        beaten_by: of a setup that is beaten, by which ones.
        within: whether the whole interval of the forgetting of ``setup`` is within the bound; None: it is not known.
    """

    setup: str
    because: Because
    tied: tuple[str, ...]
    status: Mapping[str, Status]
    beaten_by: Mapping[str, tuple[str, ...]]
    within: bool | None

    @property
    def unbeaten(self) -> tuple[str, ...]:
        """The setups that keep what the model knew, and that nothing beats."""
        return tuple(setup for setup, status in self.status.items() if status == "unbeaten")


def decide(measured: pd.DataFrame, claims: pd.DataFrame, bound: float, default: str) -> Decision:
    """Choose among the setups of one model.

    1. A setup forgets if its accuracy falls by more than ``bound``. Where accuracy is not known, nothing forgets.
    2. A setup that does not forget beats another one if it trains no more parameters, is claimed to be better in gain
       or forgetting, and is not claimed to be worse in the other.
    3. Of those that do not forget and gain for sure (the interval of their own gain leaves 0 out), the leaders are
       those that no other one is claimed to gain more than. Taken is ``default`` if it leads; else the leader that
       trains least, of these one that adapts all layers, of these the one of the highest estimate.

    Args:
        measured: one row a setup that was trained: :data:`COLUMNS`, in the order in which it is to be told.
        claims: one row a claim: :data:`CLAIMS`.
        bound: the fall of accuracy that is still accepted (0..1).
        default: the setup that is taken where nothing decides.
    """
    rows = {str(row["setup"]): row for row in cast(Sequence[Row], measured.to_dict("records"))}
    said = set(claims[CLAIMS].itertuples(index=False, name=None))
    keeping = [setup for setup, row in rows.items() if not row[FORGETTING.name] < -bound]
    beaten = _beaten(rows, keeping, said)
    status: dict[str, Status] = {
        setup: "forgets" if setup not in keeping else "beaten" if beaten[setup] else "unbeaten" for setup in rows
    }

    def chosen(setup: str, because: Because, tied: Sequence[str] = ()) -> Decision:
        beaten_by = {name: others for name, others in beaten.items() if status[name] == "beaten"}
        return Decision(setup, because, tuple(tied), status, beaten_by, _within(rows.get(setup), bound))

    choosable = [setup for setup, row in rows.items() if row["choosable"]]
    if not choosable:
        return chosen(default, "nothing measured")
    if len(choosable) == 1 and choosable[0] != default:
        return chosen(default, "nothing compared")
    gaining = [setup for setup in choosable if setup in keeping and _gains(rows[setup])]
    if not gaining:
        return chosen(ORIGINAL, "no gain" if any(setup in keeping for setup in choosable) else "all forget")
    leading = [setup for setup in gaining if not any((other, setup, GAIN.name) in said for other in gaining)]
    leading = sorted(leading or gaining, key=_order(rows, default))  # claims of several sources could go in a circle
    others = sorted(leading[1:], key=lambda setup: -_better(rows[setup]))
    because: Because = "nothing compared" if len(choosable) == 1 else "not told apart" if others else "gains most"
    return chosen(leading[0], because, others)


def _beaten(
    rows: Mapping[str, Row], keeping: Collection[str], said: Collection[tuple[Any, ...]]
) -> dict[str, tuple[str, ...]]:
    """By setup, those that beat it."""

    def beats(setup: str, other: str) -> bool:
        better = [metric for metric in (GAIN, FORGETTING) if (setup, other, metric.name) in said]
        worse = [metric for metric in (GAIN, FORGETTING) if (other, setup, metric.name) in said]
        return bool(better) and not worse and rows[setup]["trainable"] <= rows[other]["trainable"]

    return {setup: tuple(other for other in keeping if beats(other, setup)) for setup in rows}


def _better(row: Row) -> float:
    """The estimate of the gain, more being better."""
    return row[GAIN.name] if GAIN.higher_is_better else -row[GAIN.name]


def _gains(row: Row) -> bool:
    """Whether the interval of the gain leaves 0 out on the good side."""
    return row[f"{GAIN.name}_low"] > 0 if GAIN.higher_is_better else row[f"{GAIN.name}_high"] < 0


def _within(row: Row | None, bound: float) -> bool | None:
    if row is None or pd.isna(row[FORGETTING.name]):
        return None
    return bool(row[f"{FORGETTING.name}_low"] >= -bound)


def _order(rows: Mapping[str, Row], default: str) -> Callable[[str], tuple[bool, float, bool, float]]:
    """The order in which setups that no claim parts are taken."""

    def key(setup: str) -> tuple[bool, float, bool, float]:
        row = rows[setup]
        return setup != default, float(row["trainable"]), read_setup(setup).kind != FULL, -_better(row)

    return key
