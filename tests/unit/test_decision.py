"""Which setup to use: the pure decision, over tables made by hand."""

from typing import Any

import pandas as pd
import pytest

from headimpact.tournament.decision import CLAIMS, COLUMNS, Decision, decide

NAN = float("nan")


def measured(**setups: tuple[float, float, int]) -> pd.DataFrame:
    """By setup (``top_4``): gain, fall of accuracy (NaN: not known), trainable parameters; intervals of +- 0.02."""
    rows: list[dict[str, Any]] = []
    for name, (gain, forgotten, trainable) in setups.items():
        row = {"setup": name.replace("_", "-"), "trainable": trainable, "choosable": not name.startswith("draw")}
        for metric, value in (("perplexity", -gain), ("accuracy", -forgotten)):
            row |= {metric: value, f"{metric}_low": value - 0.02, f"{metric}_high": value + 0.02}
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def decided(table: pd.DataFrame, *claims: tuple[str, str, str], bound: float = 0.05) -> Decision:
    return decide(table, pd.DataFrame(list(claims), columns=CLAIMS), bound, "full-4")


FOUR = {"top_4": (1.0, 0.01, 40), "full_4": (1.1, 0.0, 40), "bottom_4": (0.9, 0.0, 40)}


def gains(better: str, *worse: str) -> list[tuple[str, str, str]]:
    return [(better, other, "perplexity") for other in worse]


def test_a_clear_winner_is_taken_whatever_the_default_is() -> None:
    decision = decided(measured(**FOUR), *gains("top-4", "full-4", "bottom-4"))
    assert (decision.setup, decision.because, decision.tied, decision.within) == ("top-4", "gains most", (), True)
    assert decision.unbeaten == ("top-4",)
    assert decision.beaten_by == {"full-4": ("top-4",), "bottom-4": ("top-4",)}


def test_all_layers_can_win() -> None:
    decision = decided(measured(**FOUR), *gains("full-4", "top-4", "bottom-4"))
    assert (decision.setup, decision.because) == ("full-4", "gains most")


def test_where_nothing_can_be_told_apart_the_default_is_taken() -> None:
    decision = decided(measured(**FOUR))
    assert (decision.setup, decision.because, decision.tied) == ("full-4", "not told apart", ("top-4", "bottom-4"))
    assert set(decision.unbeaten) == {"top-4", "full-4", "bottom-4"}


def test_without_the_default_the_cheapest_that_gains_as_much_is_taken_and_of_these_one_of_all_layers() -> None:
    table = measured(full=(1.2, 0.0, 140), top_4=(1.1, 0.0, 40), full_2=(1.1, 0.0, 20), top_2=(1.15, 0.0, 20))
    assert decided(table).setup == "full-2"
    decision = decided(table, *gains("full", "full-2", "top-2"))
    assert (decision.setup, decision.tied) == ("top-4", ("full",))
    # What is cheaper is not beaten by what costs more.
    assert "top-2" in decision.unbeaten


def test_a_single_setup_is_no_comparison() -> None:
    decision = decided(measured(top_4=(1.0, 0.0, 40)))
    assert (decision.setup, decision.because, decision.within) == ("full-4", "nothing compared", None)
    decision = decided(measured(full_4=(1.0, 0.0, 40)))
    assert (decision.setup, decision.because, decision.within) == ("full-4", "nothing compared", True)


def test_with_the_original_alone_or_nothing_the_default_is_taken() -> None:
    decision = decided(measured())
    assert (decision.setup, decision.because, decision.status) == ("full-4", "nothing measured", {})


def test_forgetting_excludes_the_winner() -> None:
    table = measured(**FOUR | {"top_4": (2.0, 0.5, 40)})
    decision = decided(table, *gains("top-4", "full-4", "bottom-4"), *gains("full-4", "bottom-4"))
    assert (decision.setup, decision.because) == ("full-4", "gains most")
    assert decision.status["top-4"] == "forgets"
    assert decision.beaten_by == {"bottom-4": ("full-4",)}  # what forgets beats nothing


def test_an_interval_that_reaches_beyond_the_bound_is_told() -> None:
    assert decided(measured(**FOUR | {"full_4": (1.1, 0.04, 40)})).within is False
    assert decided(measured(**FOUR | {"full_4": (1.1, 0.04, 40)}), bound=0.07).within is True


def test_where_all_forget_or_none_gains_the_original_stays() -> None:
    decision = decided(measured(top_4=(1.0, 0.2, 40), full_4=(1.0, 0.1, 40)))
    assert (decision.setup, decision.because) == ("original", "all forget")
    decision = decided(measured(top_4=(0.01, 0.0, 40), full_4=(-1.0, 0.0, 40)))
    assert (decision.setup, decision.because) == ("original", "no gain")


def test_where_accuracy_is_not_known_gain_decides() -> None:
    table = measured(top_4=(1.0, NAN, 40), full_4=(1.1, NAN, 40))
    decision = decided(table, *gains("top-4", "full-4"))
    assert (decision.setup, decision.because, decision.within) == ("top-4", "gains most", None)


def test_what_is_better_in_one_and_worse_in_the_other_is_not_beaten() -> None:
    traded = [("top-4", "full-4", "perplexity"), ("full-4", "top-4", "accuracy")]
    decision = decided(measured(**FOUR), *traded)
    assert {"top-4", "full-4"} <= set(decision.unbeaten)


def test_random_draws_can_beat_but_cannot_be_taken() -> None:
    table = measured(draw_4=(2.0, 0.0, 40), top_4=(1.0, 0.0, 40), full_4=(1.0, 0.0, 40))
    decision = decided(table, *gains("draw-4", "top-4", "full-4"))
    assert decision.setup == "full-4"
    assert decision.unbeaten == ("draw-4",)


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_claims_that_go_in_a_circle_still_end(turn: int) -> None:
    names = ["top-4", "full-4", "bottom-4"]
    ring = [(names[i], names[(i + 1) % 3], "perplexity") for i in range(3)]
    assert decided(measured(**FOUR), *ring[turn:], *ring[:turn]).setup == "full-4"
