"""What the results of table 4 say, in words: nothing is claimed that the intervals do not show."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import pandas as pd

from headimpact.text import listed

METRICS = {"accuracy": "accuracy ↑", "ans_prob": "AnsProb ↑", "perplexity": "perplexity ↓"}
LOWER_IS_BETTER = ("perplexity",)

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
    metric: str
    answer: Answer
    reason: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.model}, {self.metric}: {self.answer}. {self.reason}"


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Did top-K move more than bottom-K and random-K? One verdict a model, K and metric, from table 4 alone.

    A setup's movement is the absolute paired difference against the original; its interval is that of the
    difference, folded at zero. Overlapping intervals decide nothing.
    """
    found = []
    for model, by_setup in _models(table):
        for top in by_setup:
            if match := re.fullmatch(r"top-(\d+)", top):
                rivals = [f"bottom-{match[1]}", f"random-{match[1]}"]
                found += [Verdict(model, top, metric, *_judge(by_setup, top, rivals, metric)) for metric in METRICS]
    return found


def _judge(by_setup: Mapping[str, _Row], top: str, rivals: Sequence[str], metric: str) -> tuple[Answer, str]:
    moved = {setup: _movement(by_setup.get(setup, {}), metric) for setup in (top, *rivals)}
    known = {setup: found for setup, found in moved.items() if found is not None}
    if absent := [setup for setup in moved if setup not in known]:
        return "not known", f"There is no difference against the original for {listed(absent)}."
    more = [rival for rival in rivals if known[top].low > known[rival].high]
    less = [rival for rival in rivals if known[top].high < known[rival].low]
    open_ = [rival for rival in rivals if rival not in more and rival not in less]
    answer: Answer = "yes" if more == rivals else "no" if less else "it cannot be claimed"
    told = [f"moved more than {listed(more)}"] if more else []
    told += [f"moved less than {listed(less)}"] if less else []
    told += [f"cannot be told from {listed(open_)} (the intervals overlap)"] if open_ else []
    sizes = ", ".join(f"{setup} {found}" for setup, found in known.items())
    return answer, f"{top} {', '.join(told)}. Absolute change against the original: {sizes}."


def _movement(row: _Row, metric: str) -> Movement | None:
    value, low, high = _difference(row, metric)
    return None if math.isnan(value) else movement(value, low, high)


def _difference(row: _Row, metric: str) -> tuple[float, float, float]:
    value, low, high = (row.get(f"{metric}_{name}", math.nan) for name in ("difference", "low", "high"))
    return value, low, high


def changes(table: pd.DataFrame) -> dict[str, list[str]]:
    """What training did to each model: a sentence a metric, from table 4 alone.

    Better and worse are claimed only where the interval of the paired difference leaves zero out.
    """
    return {model: [_change(by_setup, metric) for metric in METRICS] for model, by_setup in _models(table)}


def _change(by_setup: Mapping[str, _Row], metric: str) -> str:
    groups: dict[str, list[str]] = {"better": [], "worse": [], "no change can be claimed": [], "not known": []}
    for setup, row in by_setup.items():
        if setup != "original":
            groups[_direction(row, metric)].append(_setup(setup, row, metric))
    told = "; ".join(f"{what} in {listed(setups)}" for what, setups in groups.items() if setups)
    before = by_setup.get("original", {}).get(metric, math.nan)
    known = "not known" if math.isnan(before) else f"{before:.3f}"
    return f"{METRICS[metric]} (original: {known}): {told or 'nothing was trained'}."


def _setup(setup: str, row: _Row, metric: str) -> str:
    return setup if math.isnan(row[metric]) else f"{setup} ({row[metric]:.3f})"


def _direction(row: _Row, metric: str) -> str:
    value, low, high = _difference(row, metric)
    if math.isnan(value):
        return "not known"
    if low <= 0 <= high:
        return "no change can be claimed"
    return "better" if (value < 0) == (metric in LOWER_IS_BETTER) else "worse"


def _models(table: pd.DataFrame) -> Iterable[tuple[str, dict[str, dict[str, Any]]]]:
    """Each model with its rows by setup, in the order of the table."""
    for model, rows in table.groupby("model", sort=False):
        yield str(model), {row["setup"]: row for row in cast(list[dict[str, Any]], rows.to_dict("records"))}
