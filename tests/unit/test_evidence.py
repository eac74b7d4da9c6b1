"""What may be claimed of a model: from a tournament's own intervals, and from evaluations."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from report_outputs import CHANGES, MODEL, Change, objects

from headimpact.report.advice import advise
from headimpact.report.evidence import default_setup, evidence, holm
from headimpact.report.outputs import Outputs, TournamentFiles


def results(setups: list[str]) -> dict[tuple[str, str], dict]:
    return {(MODEL, setup): {"parameters": {"trainable": 0 if setup == "original" else 10}} for setup in setups}


def tables(**changes: Change) -> dict[tuple[str, str], pd.DataFrame]:
    named = {name.replace("_", "-"): objects(change) for name, change in changes.items()}
    return {(MODEL, setup): table for setup, table in (("original", objects(CHANGES["original"])), *named.items())}


def said(**changes: Change) -> str:
    """The advice from evaluations alone."""
    made = tables(**changes)
    advice = advise(MODEL, results([setup for _, setup in made]), made, None, 0.05)
    return "\n".join([advice.sentence, advice.sure, *advice.notes, advice.next])


def test_holm_stops_at_the_first_that_fails() -> None:
    assert holm([0.01, 0.04, 0.03], 0.05) == [True, False, False]
    assert holm([0.04, 0.01, 0.02], 0.05) == [True, True, True]
    assert holm([], 0.05) == []


def test_evaluations_are_compared_pair_by_pair() -> None:
    made = tables(top_4=Change(-0.4, 0.0, 0), bottom_4=Change(-0.1, 0.0, 0))
    found = evidence(MODEL, results(["original", "top-4", "bottom-4"]), made, None)
    assert found.source == "evaluations"
    assert found.claims.to_numpy().tolist() == [["top-4", "bottom-4", "perplexity"]]
    assert found.measured["setup"].tolist() == ["top-4", "bottom-4"]
    assert (found.measured["perplexity"] < 0).all()


def test_the_advice_names_the_winner_its_reason_and_the_next_command() -> None:
    text = said(full_4=Change(-0.4, 0.0, 0), top_4=Change(-0.1, 0.0, 0))
    assert text.startswith("Use full-4: of 2 setups that were measured it gains most (perplexity -1.")
    assert "keeps what the model knew (accuracy +0.000" in text
    assert "another training seed can turn their order round" in text
    assert text.endswith("mlflow models serve -m models:/head-impact-tiny@full-4 --env-manager local -p 5001")


def test_one_setup_is_no_comparison_and_the_default_comes_next() -> None:
    text = said(top_4=Change(-0.4, 0.0, 0))
    assert text.startswith("Use full-4: top-4 alone was measured (perplexity -1.")
    assert "How sure: not at all" in text
    assert text.endswith("headimpact finetune --model tiny --setup full-4")


def test_the_original_alone_and_nothing_end_with_the_default() -> None:
    assert said().startswith("Use full-4: nothing was measured")
    advice = advise("new", {}, {}, None, 0.05)
    assert advice.next == "headimpact finetune --model new --setup full-4"
    assert advice.table.rows == []


def test_where_all_forget_the_one_of_largest_gain_is_softened_once() -> None:
    changes = {"full_4": Change(-0.1, 0.0, 30), "bottom_4": Change(-0.4, 0.0, 30)}
    text = said(**changes)
    assert text.startswith("Use the original, or less of an adapter: each of 2 setups")
    assert text.endswith("headimpact soften --model tiny --setup bottom-4")
    # It forgets as well: softened again it would be the same.
    text = said(**changes, soft_bottom_4=Change(-0.5, 0.0, 30))
    assert text.endswith("headimpact look --model tiny --setup full-4")
    text = said(full_4=Change(-0.4, 0.0, 30))
    assert text.startswith("Use the original, or less of an adapter: full-4 alone was measured, and loses more than")
    assert text.endswith("headimpact soften --model tiny --setup full-4")


def test_what_gains_nothing_is_not_proposed_to_be_served() -> None:
    text = said(full_4=Change(0.0, 0.0, 0))
    assert text.startswith("Use the original: full-4 alone was measured, and cannot be said to gain anything (perp")
    assert "train.epochs" in text
    assert text.endswith("headimpact look --model tiny --setup full-4")


def test_without_the_original_it_is_asked_for() -> None:
    made = tables(top_4=Change(-0.4, 0.0, 0))
    del made[MODEL, "original"]
    advice = advise(MODEL, results(["top-4"]), made, None, 0.05)
    assert advice.next == "headimpact evaluate --model tiny --setup original"


def test_objects_without_a_question_are_left_out_of_accuracy_alone() -> None:
    made = tables(full_4=Change(-0.4, 0.0, 0), top_4=Change(-0.1, 0.0, 30))
    for pair, table in made.items():
        made[pair] = table.assign(correct=table["correct"].astype("boolean").mask(table["object_id"] < 130))
    found = evidence(MODEL, results([setup for _, setup in made]), made, None)
    assert found.measured["accuracy"].tolist() == pytest.approx([0.0, -5 / 30])


@pytest.mark.parametrize("lacking", ["column", "values"])
def test_without_accuracy_gain_decides(lacking: str) -> None:
    made = tables(full_4=Change(-0.4, 0.0, 30), top_4=Change(-0.1, 0.0, 0))
    for pair, table in made.items():
        made[pair] = table.drop(columns="correct") if lacking == "column" else table.assign(correct=np.nan)
    advice = advise(MODEL, results([setup for _, setup in made]), made, None, 0.05)
    assert advice.decision.setup == "full-4"
    assert "whether it forgets is not known" in advice.sentence


# ---- a tournament


@pytest.fixture
def files(outputs: Outputs) -> TournamentFiles:
    """K = 4: top (with excess), last (worse in all), draws; nobody forgets."""
    assert outputs.tournament is not None
    changes = outputs.tournament.changes.copy()
    changes.loc[changes["metric"] != "perplexity", ["value", "low", "high"]] = 0.0
    return replace(outputs.tournament, changes=changes)


def test_a_tournament_s_claims_follow_from_its_own_intervals(files: TournamentFiles) -> None:
    found = evidence(MODEL, {}, {}, files)
    assert found.source == "tournament"
    assert found.measured["names"].tolist() == ["top-4 = excess-4", "last-4", "draw-4"]
    assert found.measured["choosable"].tolist() == [True, True, False]
    assert set(found.claims["better"]) == {"top-4"}
    assert set(found.claims["worse"]) == {"last-4"}
    advice = advise(MODEL, {}, {}, files, 0.05)
    assert advice.decision.setup == "top-4"
    assert "95 % for all claims at once (of one K)" in advice.sure
    assert default_setup(files, 0.05) == "top-4"


def test_a_larger_k_wins_where_the_intervals_of_both_changes_lie_apart(files: TournamentFiles) -> None:
    one = files.changes.assign(k=1)
    one.loc[one["metric"] == "perplexity", ["value", "low", "high"]] += 0.3
    cells = pd.concat([files.cells, files.cells.assign(k=1, trainable=4608)])
    both = replace(files, changes=pd.concat([one, files.changes]), cells=cells)
    decision = advise(MODEL, {}, {}, both, 0.05).decision
    assert (decision.setup, decision.because) == ("top-4", "gains most")
    assert "top-1" in decision.unbeaten  # it costs less


def test_evaluations_stand_beside_the_tournament(files: TournamentFiles, outputs: Outputs) -> None:
    found = evidence(MODEL, outputs.results, outputs.objects, files)
    assert set(found.others["setup"]) == {"bottom-4", "random-4", "full"}
    assert found.source == "tournament"


def test_a_tournament_on_another_test_part_does_not_count(files: TournamentFiles, outputs: Outputs) -> None:
    original = outputs.objects[MODEL, "original"]
    same = replace(files, originals={MODEL: original[["object_id", "nll"]].iloc[::-1]})
    assert evidence(MODEL, outputs.results, outputs.objects, same).source == "tournament"
    other = replace(files, originals={MODEL: original[["object_id", "nll"]].assign(nll=2.0)})
    assert evidence(MODEL, outputs.results, outputs.objects, other).source == "evaluations"
    assert evidence("another", outputs.results, outputs.objects, files).source == "nothing"
