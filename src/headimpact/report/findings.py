"""What the results of table 4 say, in words: nothing is claimed that the intervals do not show."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from headimpact.evaluation.metrics import COMPARED, Metric
from headimpact.report.outputs import ORIGINAL
from headimpact.report.prose import summary as prose
from headimpact.report.tables import by_setup
from headimpact.text import listed

Answer = Literal["yes", "no", "it cannot be claimed", "not known"]
_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Movement:
    """How far a setup moved from the original, with its interval, all from 0."""

    size: float
    low: float
    high: float

    def __str__(self) -> str:
        """As in ``0.120 (0.100 to 0.140)``."""
        return f"{self.size:.3f} ({self.low:.3f} to {self.high:.3f})"


def movement(value: float, low: float, high: float) -> Movement:
    """The absolute difference: an interval that holds zero reaches down to zero."""
    ends = sorted((abs(low), abs(high)))
    return Movement(abs(value), 0.0 if low <= 0 <= high else ends[0], ends[1])


@dataclass(frozen=True)
class Verdict:
    """Did the setup ``top`` move ``metric`` more than each of its controls? The answer, and what it rests on."""

    model: str
    top: str
    metric: Metric
    answer: Answer
    reason: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.model}, {self.metric.label}: {self.answer}. {self.reason}"


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Did top-K move more than bottom-K and random-K? One verdict a model, K and metric, from table 4 alone.

    A setup's movement is the absolute paired difference against the original; its interval is that of the
    difference, folded at zero. Overlapping intervals decide nothing.
    """
    judged = []
    for model, rows in by_setup(table).items():
        for top in rows:
            if match := re.fullmatch(r"top-(\d+)", top):
                rivals = [f"bottom-{match[1]}", f"random-{match[1]}"]
                judged += [
                    Verdict(model, top, metric, *_judge(rows, top, rivals, metric)) for metric in COMPARED.values()
                ]
    return judged


def _judge(rows: Mapping[str, _Row], top: str, rivals: Sequence[str], metric: Metric) -> tuple[Answer, str]:
    movements = {setup: _movement(rows.get(setup, {}), metric) for setup in (top, *rivals)}
    known = {setup: moved for setup, moved in movements.items() if moved is not None}
    if absent := [setup for setup in movements if setup not in known]:
        return "not known", prose.NOT_KNOWN.format(setups=listed(absent))
    more = [rival for rival in rivals if known[top].low > known[rival].high]
    less = [rival for rival in rivals if known[top].high < known[rival].low]
    undecided = [rival for rival in rivals if rival not in more and rival not in less]
    answer: Answer = "yes" if more == rivals else "no" if less else "it cannot be claimed"
    comparisons = ", ".join(
        words.format(rivals=listed(group))
        for words, group in ((prose.MORE, more), (prose.LESS, less), (prose.UNDECIDED, undecided))
        if group
    )
    sizes = ", ".join(f"{setup} {moved}" for setup, moved in known.items())
    return answer, prose.VERDICT.format(top=top, comparisons=comparisons, sizes=sizes)


def _movement(row: _Row, metric: Metric) -> Movement | None:
    value, low, high = _difference(row, metric)
    return None if math.isnan(value) else movement(value, low, high)


def _difference(row: _Row, metric: Metric) -> tuple[float, float, float]:
    value, low, high = (row.get(f"{metric.name}_{name}", math.nan) for name in ("difference", "low", "high"))
    return value, low, high


def changes(table: pd.DataFrame) -> dict[str, list[str]]:
    """What training did to each model: a sentence a metric, from table 4 alone.

    Better and worse are claimed only where the interval of the paired difference leaves zero out.
    """
    return {model: [_change(rows, metric) for metric in COMPARED.values()] for model, rows in by_setup(table).items()}


def _change(rows: Mapping[str, _Row], metric: Metric) -> str:
    groups: dict[str, list[str]] = {"better": [], "worse": [], "no change can be claimed": [], "not known": []}
    for setup, row in rows.items():
        if setup != ORIGINAL:
            groups[_direction(row, metric)].append(_with_value(setup, row, metric))
    changed = "; ".join(f"{direction} in {listed(setups)}" for direction, setups in groups.items() if setups)
    before = rows.get(ORIGINAL, {}).get(metric.name, math.nan)
    original = "not known" if math.isnan(before) else f"{before:.3f}"
    return prose.CHANGE.format(metric=metric.arrow, original=original, changes=changed or prose.NOTHING_TRAINED)


def _with_value(setup: str, row: _Row, metric: Metric) -> str:
    value = row[metric.name]
    return setup if math.isnan(value) else f"{setup} ({value:.3f})"


def _direction(row: _Row, metric: Metric) -> str:
    value, low, high = _difference(row, metric)
    if math.isnan(value):
        return "not known"
    if low <= 0 <= high:
        return "no change can be claimed"
    return "better" if (value > 0) == metric.higher_is_better else "worse"
