"""Who takes part, which runs that takes, and that finished ones are kept."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headimpact import statistics
from headimpact.adapters.cell import Placement
from headimpact.errors import InputError
from headimpact.tournament import contest
from headimpact.tournament.contest import ORIGINAL, Contest, Contestant, Key, Run


def objects(value: float) -> pd.DataFrame:
    """Three objects of two images; a column more than is kept."""
    found = {"image_id": [1, 1, 2], "object_id": [10, 11, 20], "phrase": list("abc")}
    return pd.DataFrame(
        found | {"nll": [value, 1.0, 2.0], "correct": [True, False, True], "ans_prob": [0.5, 0.25, 1.0]}
    )


def contest_of(*runs: Run) -> Contest:
    entered = {Contestant("top", i + 1, 0, 0): run for i, run in enumerate(runs)}
    return Contest("tiny", None, "now", entered, {}, 1)


def test_every_rule_meets_every_k_and_seed_and_draws_have_one_seed_each():
    found = list(contest.contestants(["top", "draw"], [1, 4], [7, 8], 3))
    assert len(found) == 2 * 2 + 2 * 3
    assert [entry.setup for entry in found[:4]] == ["top-1", "top-1", "top-4", "top-4"]
    assert [(entry.setup, entry.seed) for entry in found[-3:]] == [("draw-4-0", 7), ("draw-4-1", 8), ("draw-4-2", 7)]


def test_a_run_is_known_by_layers_ranks_and_seed():
    assert ORIGINAL.key == Key("", "", 0)
    assert Run(Placement((0, 3)), 2).key == Key("0,3", "", 2)
    assert Run(Placement((0, 3), (), {0: 2, 3: 1}), 2).key == Key("0,3", "2,1", 2)
    assert Run(Placement((0, 3)), 2, whole=True).key == Key("0,3", "whole", 2)
    assert Run(Placement((0, 3), (), {0: 2, 3: 1}), 2, whole=True).key == Key("0,3", "whole,2,1", 2)


def test_a_rule_on_whole_layers_takes_the_layers_of_the_rule():
    found = list(contest.contestants(["top", "whole-top"], [4], [7], 3))
    assert [(entry.rule, entry.setup) for entry in found] == [("top", "top-4"), ("whole-top", "top-4")]


def test_finished_runs_are_kept_and_those_of_another_context_left_alone(tmp_path: Path):
    path, first, second = tmp_path / "runs" / "tiny.parquet", Run(Placement((0,)), 0), Run(Placement((0, 3)), 1)
    assert contest.finished(contest.read_runs(path, "now")) == set()
    contest.keep(path, "before", first, 10, objects(9.0))
    assert contest.finished(contest.read_runs(path, "now")) == set()
    contest.keep(path, "now", ORIGINAL, 0, objects(3.0))
    one = pd.read_parquet(path)
    contest.keep(path, "now", second, 20, objects(4.0))
    pd.testing.assert_frame_equal(pd.read_parquet(path).head(len(one)), one)
    table = contest.read_runs(path, "now")
    assert contest.finished(table) == {ORIGINAL.key, second.key}
    assert contest.finished(contest.read_runs(path, "before")) == {first.key}
    assert contest.original(table)["nll"].tolist() == [3.0, 1.0, 2.0]


def test_rules_that_take_the_same_layers_share_one_run(tmp_path: Path):
    path, shared, other = tmp_path / "runs.parquet", Run(Placement((0,)), 0), Run(Placement((2,)), 0)
    for run, value in ((shared, 4.0), (other, 5.0)):
        contest.keep(path, "now", run, 20, objects(value))
    table = contest.read_runs(path, "now")
    entered = contest_of(shared, shared, other)
    long = contest.long_table(entered, table)
    assert len(long) == 3 * 3
    assert long.groupby("k")["nll"].first().tolist() == [4.0, 4.0, 5.0]
    cells = contest.cells(entered, table, 8)
    assert cells["layers"].tolist() == ["0", "0", "2"]
    assert cells["rank"].tolist() == ["8", "8", "8"]
    assert cells["trainable"].tolist() == [20, 20, 20]
    expected = statistics.perplexity(np.array([5.0, 1.0, 2.0]), np.array([1, 1, 2])).value
    assert cells["perplexity"].iloc[2] == pytest.approx(expected)
    assert cells["accuracy"].iloc[0] == pytest.approx(2 / 3)
    assert cells["ans_prob"].iloc[0] == pytest.approx(7 / 12)


@pytest.mark.parametrize(("ranks", "told"), [({0: 2, 1: 3, 2: 2}, "2 to 3"), ({0: 1, 2: 1}, "1"), ({0: 8}, "matched")])
def test_ranks_are_told(tmp_path: Path, ranks: dict[int, int], told: str):
    run = Run(Placement(tuple(ranks), (), ranks), 0, told == "matched")
    contest.keep(tmp_path / "runs", "now", run, 20, objects(1.0))
    assert contest.cells(contest_of(run), contest.read_runs(tmp_path / "runs", "now"), 8)["rank"].tolist() == [told]


@pytest.mark.parametrize("content", [b"PAR1 cut off", b""])
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes):
    path = tmp_path / "tiny.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"tiny\.parquet is damaged .*its runs are trained again"):
        contest.read_runs(path, "now")
    pd.DataFrame({"nll": [1.0]}).to_parquet(path)
    with pytest.raises(InputError, match=r"tiny\.parquet is damaged \(it lacks context, layers, ranks"):
        contest.read_runs(path, "now")


def test_runs_evaluated_before_a_metric_existed_are_missing_until_they_are_made_again(tmp_path: Path):
    path, first, second = tmp_path / "tiny.parquet", Run(Placement((0,)), 0), Run(Placement((2,)), 0)
    for context, run in (("before", first), ("now", first), ("now", second)):
        contest.keep(path, context, run, 20, objects(4.0))
    assert contest.outdated(path, "now") is None
    complete = pd.read_parquet(path)
    complete.drop(columns="correct").to_parquet(path)
    assert contest.finished(contest.read_runs(path, "now")) == set()
    assert "2 of the runs in" in str(contest.outdated(path, "now"))
    contest.keep(path, "now", first, 20, objects(5.0))
    notice = contest.outdated(path, "now")
    assert notice is not None
    assert f"1 of the runs in {path} were evaluated before there was the metric accuracy" in notice
    assert "damaged" not in notice
    table = contest.read_runs(path, "now")
    assert contest.finished(table) == {first.key}
    assert table["correct"].tolist() == [True, False, True]
    assert contest.cells(contest_of(first), table, 8)["accuracy"].tolist() == [pytest.approx(2 / 3)]
    contest.keep(path, "now", second, 20, objects(4.0))
    assert contest.outdated(path, "now") is None
    kept = pd.read_parquet(path)
    assert len(kept) == len(complete)  # nothing twice
    assert kept.loc[kept["context"] == "before", "nll"].tolist() == [4.0, 1.0, 2.0]


def test_a_run_with_a_figure_that_is_not_a_number_is_not_taken_for_an_old_one(tmp_path: Path):
    contest.keep(tmp_path / "runs", "now", ORIGINAL, 0, objects(np.nan))
    assert contest.outdated(tmp_path / "runs", "now") is None
    assert contest.finished(contest.read_runs(tmp_path / "runs", "now")) == {ORIGINAL.key}
