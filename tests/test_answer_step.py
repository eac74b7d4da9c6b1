"""The step answer: a setup beside the original, with the model's part made up."""

from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from report_outputs import MODEL, generated, orders

from headimpact.errors import InputError
from headimpact.files import read_json
from headimpact.lifecycle import layout, params
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.steps import answer
from headimpact.lifecycle.unrecorded import until_recorded
from headimpact.processes import Processes

IDS = [(image, 10 * image + i) for image in (1, 2, 3) for i in (0, 1)]
OTHERS = [(image, 10 * image + i) for image in (1, 2, 4) for i in (0, 1)]


@pytest.fixture
def config(tracked: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """No base is loaded, and there is no dataset."""
    monkeypatch.setattr(answer, "load_engine", lambda config, job: SimpleNamespace(vlm=object(), processes=Processes()))
    monkeypatch.setattr(answer, "load_adapter", lambda engine, job: None)
    monkeypatch.setattr(answer, "read_part", lambda part, engine=None: [])
    monkeypatch.setattr(answer, "draw_questions", lambda samples, seed: {})
    monkeypatch.setattr(answer, "dataset_digest", lambda: "d" * 64)
    monkeypatch.setattr(answer, "output_facts", lambda step, config, job: {"setup": job.setup})
    return params.load(project_root / layout.PARAMS)


def ask(config: Config, monkeypatch: pytest.MonkeyPatch, setup: str, ids: list[tuple[int, int]]) -> answer.Summary:
    """What the step does with the answers of ``report_outputs``."""
    monkeypatch.setattr(answer, "_ask", lambda *arguments: orders(setup, ids))
    monkeypatch.setattr(answer, "_generate", lambda *arguments: generated(setup, ids))
    return answer.run(config, Job(MODEL, setup))


def test_a_setup_is_shown_beside_the_original(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(config, monkeypatch, "original", IDS).skipped == []
    summary = ask(config, monkeypatch, "top-4", IDS)
    assert summary.skipped == []
    assert "against the original -0.750" in dict(summary.rows)["accuracy 24 orders"]
    folder = layout.answers(MODEL, "top-4")
    assert {path.name for path in folder.iterdir()} == {"orders.parquet", "generated.parquet", "results.json"}
    assert set(read_json(folder / "results.json")) == {"model", "setup", "metrics"}
    logged = mlflow.MlflowClient().get_run(str(summary.run))
    assert logged.data.metrics["test/accuracy_24_orders_difference"] == -0.75
    names = {file.path for file in mlflow.MlflowClient().list_artifacts(str(summary.run))}
    assert {"gallery.html", "orders.parquet", "generated.parquet", "results.json", "tables"} <= names


@pytest.mark.parametrize("before", [None, OTHERS])
def test_without_an_original_of_the_same_objects_there_is_no_comparison(
    config: Config, monkeypatch: pytest.MonkeyPatch, before: list[tuple[int, int]] | None
) -> None:
    """``dvc repro`` may come to a setup first, with the original's answers still those to another dataset."""
    if before:
        ask(config, monkeypatch, "original", before)
    summary = ask(config, monkeypatch, "top-4", IDS)
    assert summary.skipped == [("comparison", "there is no original to compare with yet")]
    assert "against" not in dict(summary.rows)["accuracy 24 orders"]
    logged = mlflow.MlflowClient().get_run(str(summary.run))
    assert "test/accuracy_24_orders_difference" not in logged.data.metrics
    assert "test/accuracy_24_orders" in logged.data.metrics


def test_what_was_answered_is_not_asked_again_where_it_could_not_be_tracked(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise mlflow.exceptions.MlflowException("the server is down")

    with monkeypatch.context() as patch:
        patch.setattr(answer.tracking, "log_results", fails)
        with pytest.raises(InputError, match="answer is not recorded: MLflow: the server is down"), until_recorded():
            ask(config, monkeypatch, "original", IDS)
    monkeypatch.setattr(answer, "_answer", fails)
    with until_recorded():
        summary = answer.run(config, Job(MODEL, "original"))
    logged = mlflow.MlflowClient().get_run(str(summary.run))
    assert "test/accuracy_24_orders" in logged.data.metrics
    assert not layout.unrecorded(MODEL, "answer", "original").exists()
