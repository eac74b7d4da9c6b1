"""One entry in the registry of metrics is all that a tournament needs to compare by it."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
from tournaments import COLUMNS, make, seeded, tables

from headimpact.adapters.cell import Placement
from headimpact.errors import InputError
from headimpact.evaluation import metrics
from headimpact.evaluation.metrics import Metric
from headimpact.tournament import contest, figure
from headimpact.tournament.contest import ORIGINAL, Contest, Contestant, Run
from headimpact.tournament.standings import Standings, headlines, standings

ADDED = {
    "nats": Metric("nats", "nats", "nll", False, "forgetting"),
    "inverse": Metric("inverse", "inverse AnsProb", "ans_prob", True, "gain", exponential=True),
    "length": Metric("length", "length", "tokens", True, "forgetting"),
}
PLAIN = {"perplexity": 0.1, "accuracy": 0.05, "ans_prob": 0.05}
KEYS = seeded("top", "last", "full")


@pytest.fixture(params=list(ADDED))
def added(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Metric:
    """The registry with one entry more: of a column that is there, exponential or not, or of a column that is new."""
    metric = ADDED[request.param]
    for registry in (metrics.METRICS, metrics.COMPARED):
        monkeypatch.setitem(cast(MutableMapping[str, Metric], registry), metric.name, metric)
    return metric


def evaluations() -> dict[Run, pd.DataFrame]:
    """The results of the original and of every run, with a column of counts that no metric reads yet."""
    runs = make(KEYS, images=20)
    ids = {"image_id": runs.images, "object_id": np.arange(len(runs.images))}
    counts = np.random.default_rng(3).integers(2, 9, (len(KEYS) + 1, len(runs.images)))
    results = {ORIGINAL: pd.DataFrame(ids | dict(runs.original) | {"tokens": counts[-1]})}
    layers = {"top": (0, 3), "last": (6, 7), "full": (0, 1, 2, 3)}
    for i, (rule, _, seed, _) in enumerate(KEYS):
        figures = {column: runs.adapted[column][i] for column in COLUMNS}
        results[Run(Placement(layers[rule]), seed)] = pd.DataFrame(ids | figures | {"tokens": counts[i]})
    return results


def entered() -> Contest:
    runs = [run for run in evaluations() if run != ORIGINAL]
    contestants = [Contestant(*key) for key in KEYS]
    return Contest("tiny", None, "now", dict(zip(contestants, runs, strict=True)), {}, 1)


def kept(path: Path) -> pd.DataFrame:
    """Every run, kept and read again."""
    for run, objects in evaluations().items():
        contest.keep(path, "now", run, 8, objects)
    return contest.read_runs(path, "now")


def standings_of(table: pd.DataFrame, differences: dict[str, float]) -> Standings:
    long, original = contest.long_table(entered(), table), contest.original(table)
    return standings({"tiny": long}, {"tiny": original}, differences)


def test_an_added_metric_reaches_tables_verdicts_headlines_and_figure(added: Metric, tmp_path: Path):
    table = kept(tmp_path / "tiny.parquet")
    assert contest.outdated(tmp_path / "tiny.parquet", "now") is None
    cells = contest.cells(entered(), table, 8)
    one = next(iter(entered().runs.values()))
    values = evaluations()[one][added.column].to_numpy(float)
    expected = np.exp(values.mean()) if added.exponential else values.mean()
    assert cells[added.name].iloc[0] == pytest.approx(expected, rel=1e-6)  # kept in single precision

    made = standings_of(table, PLAIN | {added.name: 0.25})
    order = ["perplexity", "accuracy", "ans_prob"]
    order.insert(1 if added.aspect == "gain" else 3, added.name)
    for rows in (made.changes, made.comparisons):
        assert list(dict.fromkeys(rows["metric"])) == order
        assert len(rows) % 4 == 0
    compared = made.comparisons[made.comparisons["metric"] == added.name]
    assert set(compared["difference"]) == {0.25}

    before = evaluations()[ORIGINAL]
    change = made.changes[(made.changes["metric"] == added.name) & (made.changes["rule"] == "top")]
    of_seeds = [
        added.difference(evaluations()[run], before).value
        for contestant, run in entered().runs.items()
        if contestant.rule == "top"
    ]
    assert change["value"].item() == pytest.approx(np.mean(of_seeds), rel=1e-5)

    sentence = f"{str(added.aspect).capitalize()} ({added.label}): "
    assert sum(verdict.startswith(sentence) for verdict in made.verdicts["tiny"]) == 1
    (headline,) = headlines(made.comparisons).values()
    assert [claim.split(":")[0] for claim in headline.split("; ")] == [metrics.COMPARED[n].label for n in order]

    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.draw(made.changes).axes]
    assert len(labels) == (4 if added.aspect == "gain" else 3)
    assert any(f"{added.label}, adapter minus original" in label for pair in labels for label in pair)


def test_an_added_metric_changes_nothing_but_the_correction(added: Metric, monkeypatch: pytest.MonkeyPatch):
    runs = make(KEYS, images=20)
    runs_table, original = tables(runs)
    runs_table["tokens"], original["tokens"] = np.arange(len(runs_table)) % 7, 3
    made = standings({"tiny": runs_table}, {"tiny": original}, PLAIN | {added.name: 0.25})
    monkeypatch.undo()
    plain = standings({"tiny": runs_table}, {"tiny": original}, PLAIN)
    others = made.changes[made.changes["metric"] != added.name].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, plain.changes, check_exact=True)
    others = made.comparisons[made.comparisons["metric"] != added.name].reset_index(drop=True)
    same = ["rule", "rival", "metric", "advantage", "se"]
    pd.testing.assert_frame_equal(others[same], plain.comparisons[same], check_exact=True)
    differing = others["se"] > 0
    assert (others["high"] - others["low"] > plain.comparisons["high"] - plain.comparisons["low"])[differing].all()


def test_a_forgetting_metric_of_which_less_is_better_is_kept_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(cast(MutableMapping[str, Metric], metrics.COMPARED), "nats", ADDED["nats"])
    better = {run: table.copy() for run, table in evaluations().items()}
    for run, table in better.items():
        table["nll"] += 3.0 * (run.adapted.layers == (6, 7))
    for run, table in better.items():
        contest.keep(tmp_path / "runs", "now", run, 8, table)
    made = standings_of(contest.read_runs(tmp_path / "runs", "now"), PLAIN | {"nats": 0.25})
    assert any("top-4 by HI keeps less nats than last-4 by" in verdict for verdict in made.verdicts["tiny"])


def test_a_metric_of_a_new_column_asks_for_the_runs_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = tmp_path / "tiny.parquet"
    assert len(contest.finished(kept(path))) == len(KEYS) + 1
    monkeypatch.setitem(cast(MutableMapping[str, Metric], metrics.COMPARED), "length", ADDED["length"])
    assert contest.finished(contest.read_runs(path, "now")) == set()
    notice = contest.outdated(path, "now")
    assert notice is not None
    assert f"{len(KEYS) + 1} of the runs in {path} were evaluated before there was the metric length" in notice
    table = kept(path)
    assert contest.outdated(path, "now") is None
    assert len(contest.finished(table)) == len(KEYS) + 1
    assert table["tokens"].dtype.kind in "if"


def test_a_metric_of_the_same_columns_asks_for_no_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = tmp_path / "tiny.parquet"
    kept(path)
    monkeypatch.setitem(cast(MutableMapping[str, Metric], metrics.COMPARED), "nats", ADDED["nats"])
    table = contest.read_runs(path, "now")
    assert contest.outdated(path, "now") is None
    assert "nats" in contest.cells(entered(), table, 8)
    with pytest.raises(InputError, match=r"tournament\.differences\.nats is not set"):
        standings_of(table, PLAIN)
