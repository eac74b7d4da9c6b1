"""What is claimed of results, and what is not."""

import math

import pandas as pd
import pytest

from headimpact import text
from headimpact.evaluation.metrics import COMPARED
from headimpact.report import findings

SETUPS = ["top-4", "bottom-4", "random-4"]


def row(setup: str, change: float | None, half: float = 0.02, model: str = "tiny") -> dict[str, object]:
    """A row of table 4: every metric changed by ``change``, or was not compared."""
    cells: dict[str, object] = {"model": model, "setup": setup}
    for metric in COMPARED:
        value = math.nan if change is None else change
        cells |= {metric: 0.9, f"{metric}_difference": value}
        cells |= {f"{metric}_low": value - half, f"{metric}_high": value + half}
    return cells


def table(*changes: float, half: float = 0.02) -> pd.DataFrame:
    rows = [row(setup, change, half) for setup, change in zip(SETUPS, changes, strict=True)]
    return pd.DataFrame([row("original", None), *rows])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.3, (0.2, 0.1, 0.3)),
        (-0.3, -0.1, (0.2, 0.1, 0.3)),
        (-0.3, 0.1, (0.1, 0.0, 0.3)),
        (-0.1, 0.3, (0.1, 0.0, 0.3)),
    ],
)
def test_movement_folds_the_interval_at_zero(low: float, high: float, expected: tuple[float, float, float]) -> None:
    found = findings.movement((low + high) / 2, low, high)
    assert (found.size, found.low, found.high) == pytest.approx(expected)


def verdict(top: float, bottom: float, rand: float, half: float = 0.02) -> str:
    """The sentence on accuracy."""
    judged = findings.verdicts(table(top, bottom, rand, half=half))
    assert [(verdict.model, verdict.top, verdict.metric.name) for verdict in judged] == [
        ("tiny", "top-4", metric) for metric in COMPARED
    ]
    return str(judged[0])


def test_verdict_yes() -> None:
    assert verdict(-0.4, 0.1, 0.2) == (
        "tiny, accuracy: yes. top-4 moved more than bottom-4 and random-4. "
        "Absolute change against the original: "
        "top-4 0.400 (0.380 to 0.420), bottom-4 0.100 (0.080 to 0.120), random-4 0.200 (0.180 to 0.220)."
    )


def test_verdict_no() -> None:
    said = verdict(0.1, -0.4, 0.4)
    assert said.startswith("tiny, accuracy: no. top-4 moved less than bottom-4 and random-4. ")


def test_verdict_no_when_one_of_the_two_moved_more() -> None:
    said = verdict(0.2, 0.1, 0.4)
    assert said.startswith("tiny, accuracy: no. top-4 moved more than bottom-4, moved less than random-4. ")


def test_verdict_claims_nothing_from_overlapping_intervals() -> None:
    said = verdict(0.2, 0.1, 0.19)
    assert said.startswith(
        "tiny, accuracy: it cannot be claimed. top-4 moved more than bottom-4, cannot be told from random-4 "
        "(the intervals overlap). "
    )


def test_verdict_claims_nothing_when_the_same_differences_are_uncertain() -> None:
    said = verdict(-0.4, 0.1, 0.2, half=0.5)
    assert "it cannot be claimed. top-4 cannot be told from bottom-4 and random-4" in said


def test_verdict_without_a_control_is_not_known() -> None:
    (found, *_) = findings.verdicts(pd.DataFrame([row("top-2", 0.4), row("bottom-2", 0.1)]))
    assert str(found) == "tiny, accuracy: not known. There is no difference against the original for random-2."


def test_changes_are_claimed_where_the_interval_leaves_zero_out() -> None:
    accuracy, _, perplexity = findings.changes(table(-0.4, 0.1, 0.01))["tiny"]
    assert accuracy == (
        "accuracy ↑ (original: 0.900): better in bottom-4 (0.900); worse in top-4 (0.900); "
        "no change can be claimed in random-4 (0.900)."
    )
    # Lower perplexity is better.
    assert perplexity == (
        "perplexity ↓ (original: 0.900): better in top-4 (0.900); worse in bottom-4 (0.900); "
        "no change can be claimed in random-4 (0.900)."
    )


def test_changes_of_what_was_not_run_are_not_known() -> None:
    missing = row("top-4", None) | {"accuracy": math.nan}
    assert findings.changes(pd.DataFrame([missing]))["tiny"][0] == (
        "accuracy ↑ (original: not known): not known in top-4."
    )


def test_a_model_of_which_only_the_original_was_run() -> None:
    said = findings.changes(pd.DataFrame([row("original", None)]))["tiny"][0]
    assert said == "accuracy ↑ (original: 0.900): nothing was trained."


@pytest.mark.parametrize(
    ("names", "expected"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_listed(names: list[str], expected: str) -> None:
    assert text.listed(names) == expected
