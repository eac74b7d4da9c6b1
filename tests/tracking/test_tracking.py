"""Runs and the registry, on a database of their own."""

import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from tracked_runs import DIFFERENCES, DIGEST, RESULTS, experiment, opened_by_mlflow_run, read

from headimpact.errors import InputError
from headimpact.lifecycle import tracking


def test_the_database_is_mlflows_own_default(project: Path) -> None:
    assert tracking.initialise() == f"sqlite:///{project}/mlflow.db"
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{project}/mlflow.db"
    assert (project / "mlflow.db").is_file()


def test_the_environment_chooses_another_database(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(project / "mlflow.db", tmp_path / "other.db")
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with tracking.run("score") as run_id:
        pass
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/other.db"
    assert read(run_id).info.status == "FINISHED"
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    with pytest.raises(MlflowException, match="not found"):
        read(run_id)


def test_processes_that_start_together_make_a_database_one_after_the_other(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several that create one at once fail."""
    lock = project / "mlflow.db.lock"  # and not in a folder that other people's commands write to
    locked: list[str] = []

    def make(store: str) -> None:
        with pytest.raises(Timeout):  # as another process would
            FileLock(lock, is_singleton=False).acquire(timeout=0)
        locked.append(store)

    monkeypatch.setattr(mlflow, "get_experiment_by_name", lambda experiment: None)
    monkeypatch.setattr(tracking, "_make_experiment", make)
    tracking.initialise()
    assert locked == [mlflow.get_tracking_uri()]
    FileLock(lock).acquire(timeout=0).lock.release()


def test_the_projects_experiment_is_the_one_that_mlflow_run_takes() -> None:
    assert experiment() == "0"
    found = mlflow.get_experiment("0")
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_run_of_its_own_stands_in_the_projects_experiment() -> None:
    with tracking.run("finetune", "tiny", "top-4") as run_id:
        assert read(run_id).info.status == "RUNNING"
    run = read(run_id)
    assert run.info.experiment_id == experiment()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "top-4 tiny"
    assert {key: run.data.tags[key] for key in ("step", "model", "setup")} == {
        "step": "finetune",
        "model": "tiny",
        "setup": "top-4",
    }
    assert "dvc.stage" not in run.data.tags


def test_the_commit_is_a_tag(project: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    with tracking.run("score") as run_id:
        pass
    assert read(run_id).data.tags["mlflow.source.git.commit"] == head.strip()


def test_it_joins_the_run_that_mlflow_run_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = opened_by_mlflow_run(monkeypatch)
    with tracking.run("finetune", "tiny", "top-4") as run_id:
        assert "MLFLOW_RUN_ID" not in os.environ  # what the step starts does not join it again
    assert run_id == opened
    assert read(run_id).info.status == "FINISHED"
    assert read(run_id).data.tags["step"] == "finetune"


def test_a_stage_has_a_run_of_its_own_under_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = opened_by_mlflow_run(monkeypatch)
    monkeypatch.setenv(tracking.STAGE, "score@tiny")
    monkeypatch.setenv(tracking.TRIAL, "warm-sole")
    monkeypatch.setenv(tracking.PARENT_RUN, opened)
    with tracking.run("score", "tiny") as run_id:
        pass
    run = read(run_id)
    assert run_id != opened
    assert (run.data.tags["dvc.stage"], run.data.tags["dvc.experiment"]) == ("score@tiny", "warm-sole")
    assert run.data.tags["mlflow.parentRunId"] == opened
    assert run.info.experiment_id == read(opened).info.experiment_id


def test_a_stage_in_the_process_of_the_grid_has_a_run_of_its_own_below_that_of_the_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tracking.run("main") as grid:
        monkeypatch.setenv(tracking.PARENT_RUN, grid)
        monkeypatch.setenv(tracking.STAGE, "score@tiny")
        with pytest.raises(InputError), tracking.run("score", "tiny") as failed:
            raise InputError("why")
        with tracking.run("score", "tiny") as run_id:
            tracking.set_tags({"place": "stage"})
        tracking.set_tags({"place": "grid"})
    assert read(failed).info.status == "FAILED"
    assert {read(each).info.status for each in (grid, run_id)} == {"FINISHED"}
    assert read(run_id).data.tags["mlflow.parentRunId"] == grid
    assert [read(each).data.tags["place"] for each in (grid, run_id)] == ["grid", "stage"]


def test_a_stage_without_a_parent_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tracking.STAGE, "score@tiny")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with tracking.run("score", "tiny") as run_id:
        pass
    assert "mlflow.parentRunId" not in read(run_id).data.tags
    assert read(run_id).info.experiment_id == experiment()


def test_a_nested_run_stands_in_the_experiment_of_its_parent() -> None:
    with mlflow.start_run(experiment_id=mlflow.create_experiment("beside")) as parent, tracking.child("one", {}):
        nested = mlflow.active_run()
        assert nested is not None
        assert nested.info.experiment_id == parent.info.experiment_id
        assert nested.data.tags["mlflow.parentRunId"] == parent.info.run_id


def trained(model: str, setup: str, adapter: str) -> str:
    """A run that trained an adapter."""
    with tracking.run("finetune", model, setup) as run_id:
        tracking.log_history(pd.DataFrame({"step": [1], "epoch": [0], "metric": ["train/loss"], "value": [2.0]}))
        tracking.set_tags({"adapter_digest": adapter})
    return run_id


def test_an_evaluation_goes_on_with_the_run_that_trained_the_adapter() -> None:
    training = [trained("going-on", "top-4", adapter) for adapter in ("one", "two", "two", "three")]
    with tracking.run("evaluate", "going-on", "top-4", adapter_digest="two") as run_id:
        assert read(run_id).info.status == "RUNNING"
        tracking.log_results(RESULTS, DIFFERENCES)
    run = read(run_id)
    assert run_id == training[2]  # the latest
    assert (run.info.status, run.info.run_name) == ("FINISHED", "top-4 going-on")
    assert run.data.tags["step"] == "finetune"
    assert {"train/loss", "test/perplexity", "test/perplexity_difference"} <= set(run.data.metrics)
    assert "test/perplexity" not in read(training[1]).data.metrics


@pytest.mark.parametrize(
    ("model", "setup", "adapter"),
    [
        ("other", "top-4", "same"),
        ("shared", "layers:1,2", "same"),
        ("shared", "top-4", "another"),
        ("shared", "x", None),
    ],
)
def test_an_adapter_that_no_run_here_trained_is_evaluated_in_a_run_of_its_own(
    model: str, setup: str, adapter: str | None
) -> None:
    """Of setups that select the same layers, the adapters have the same digest."""
    training = trained("shared", "top-4", "same")
    with tracking.run("evaluate", model, setup, adapter_digest=adapter) as run_id:
        pass
    assert run_id != training
    assert read(run_id).data.tags["step"] == "evaluate"


def test_the_run_that_mlflow_run_opened_comes_before_that_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    trained("opened", "top-4", "same")
    opened = opened_by_mlflow_run(monkeypatch)
    with tracking.run("evaluate", "opened", "top-4", adapter_digest="same") as run_id:
        pass
    assert run_id == opened


def test_a_stage_goes_on_with_the_run_of_the_training_and_not_with_an_inherited_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = trained("staged", "top-4", "same")
    opened_by_mlflow_run(monkeypatch)
    monkeypatch.setenv(tracking.STAGE, "evaluate@staged-top-4")
    with tracking.run("evaluate", "staged", "top-4", adapter_digest="same") as run_id:
        pass
    assert run_id == training


def test_an_evaluation_that_failed_leaves_no_trace_after_one_that_did_not() -> None:
    training = trained("failing", "top-4", "same")
    with suppress(InputError), tracking.run("evaluate", "failing", "top-4", adapter_digest="same"):
        raise InputError("The mask is empty.")
    assert (read(training).info.status, "error" in read(training).data.tags) == ("FAILED", True)
    with tracking.run("evaluate", "failing", "top-4", adapter_digest="same"):
        pass
    assert (read(training).info.status, "error" in read(training).data.tags) == ("FINISHED", False)


def failing_run(error: BaseException) -> Run:
    with suppress(type(error)), tracking.run("score") as run_id:
        raise error
    return read(run_id)


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("bad"), "FAILED"), (SystemExit(1), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_how_it_ends_is_the_runs_status(error: BaseException, status: str) -> None:
    assert failing_run(error).info.status == status
    assert mlflow.active_run() is None


def test_a_failure_is_passed_on_and_says_why_in_a_tag() -> None:
    with pytest.raises(InputError, match="empty"), tracking.run("score"):
        raise InputError("The mask is empty.")
    tags = failing_run(InputError("The mask is empty.")).data.tags
    assert tags["error"] == "InputError: The mask is empty."
    assert tags["mlflow.note.content"] == "**Failed:** The mask is empty."


def test_an_experiment_whose_artifacts_only_a_server_can_write_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = MlflowClient().create_experiment("served", artifact_location="mlflow-artifacts:/5")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", served)
    with pytest.raises(InputError, match="MLFLOW_EXPERIMENT_NAME=head-impact"), tracking.run("score"):
        pass


def test_parameters_are_flat_and_keep_what_mlflow_run_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    opened_by_mlflow_run(monkeypatch, setup="top-4", **{"train.lr": "1.0e-4"})
    with tracking.run("finetune", "tiny", "top-4") as run_id:
        for _ in range(2):  # resolved again, as when training resumes
            tracking.log_parameters({"setup": "top-4", "train": {"lr": 0.0001, "epochs": 4}, "revision": None})
    assert read(run_id).data.params == {
        "setup": "top-4",
        "train.lr": "1.0e-4",
        "train.lr.resolved": "0.0001",
        "train.epochs": "4",
        "revision": "None",
    }


def test_more_parameters_and_metrics_than_one_request_holds() -> None:
    steps = range(1001)
    history = pd.DataFrame({"step": steps, "epoch": 0, "metric": "train/loss", "value": [s / 10 for s in steps]})
    with tracking.run("finetune") as run_id:
        tracking.log_parameters({f"p{number}": number for number in range(101)})
        tracking.log_history(history)
    assert len(read(run_id).data.params) == 101
    logged = MlflowClient().get_metric_history(run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in logged] == [(step, step / 10) for step in steps]


def test_parts_of_a_dataset_are_inputs_with_its_digest(project: Path) -> None:
    with tracking.run("finetune") as run_id:
        for part in ("train", "val"):
            tracking.log_dataset("scenes", project / "data/dataset", DIGEST, part)
    run = read(run_id)
    found = {found.dataset.name: found for found in run.inputs.dataset_inputs}
    assert sorted(found) == ["scenes/train", "scenes/val"]
    assert {one.dataset.digest for one in found.values()} == {DIGEST[:36]}
    assert json.loads(found["scenes/val"].dataset.source) == {"uri": (project / "data/dataset").as_uri()}
    assert [tag.value for tag in found["scenes/val"].tags] == ["val"]
    assert (run.data.tags["dataset"], run.data.tags["dataset_digest"]) == ("scenes", DIGEST)


def test_results_are_final_metrics() -> None:
    with tracking.run("finetune") as run_id:
        tracking.log_results(RESULTS, DIFFERENCES)
    assert read(run_id).data.metrics == {
        "parameters/total": 1010,
        "parameters/trainable": 10,
        "parameters/percent": 0.99,
        "test/perplexity": 8.5,
        "test/perplexity_se": 0.25,
        "test/perplexity_difference": -1.5,
        "test/perplexity_difference_low": -2.0,
        "test/perplexity_difference_high": -1.0,
        "test/perplexity_difference_p_value": 0.001,
    }


def test_results_without_an_original_have_no_differences() -> None:
    with tracking.run("evaluate") as run_id:
        tracking.log_results({"metrics": RESULTS["metrics"]}, {})
    assert read(run_id).data.metrics == {"test/perplexity": 8.5, "test/perplexity_se": 0.25}


def test_a_table_that_is_logged_again_is_replaced() -> None:
    """A run that goes on logs its tables again; MLflow would append the rows."""
    with tracking.run("finetune") as run_id:
        for accuracy in (0.5, 0.75):
            tracking.log_table("table4", pd.DataFrame({"setup": ["top-4"], "accuracy": [accuracy]}))
            tracking.log_table("table5", pd.DataFrame({"trainable": [int(accuracy * 100)]}))
    tables = [json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/tables/table{n}.json")) for n in (4, 5)]
    assert tables == [
        {"columns": ["setup", "accuracy"], "data": [["top-4", 0.75]]},
        {"columns": ["trainable"], "data": [[75]]},
    ]
    shown = json.loads(read(run_id).data.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": f"tables/table{n}.json", "type": "table"} for n in (4, 5)]


def test_tables_and_files_are_artifacts(project: Path) -> None:
    (project / "folder").mkdir()
    (project / "folder/curve.csv").write_text("a")
    (project / "map.png").write_bytes(b"png")
    table = pd.DataFrame({"setup": ["top-4", "full"], "accuracy": [0.5, None]})
    with tracking.run("report") as run_id:
        tracking.log_table("table4", table)
        tracking.log_files(project / "folder", project / "map.png")
        tracking.log_files(project / "map.png", folder="figures")
    found = mlflow.artifacts.list_artifacts(run_id=run_id)
    assert sorted(item.path for item in found) == ["figures", "folder", "map.png", "tables"]
    loaded = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/tables/table4.json"))
    assert loaded == {"columns": ["setup", "accuracy"], "data": [["top-4", 0.5], ["full", None]]}


def test_a_file_that_is_not_there_is_refused(project: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png does not exist"), tracking.run("report"):
        tracking.log_files(project / "none.png")


def test_logging_outside_a_run_is_a_mistake() -> None:
    with pytest.raises(RuntimeError, match="outside"):
        tracking.log_parameters({"a": 1})


def test_finetune_is_linked_to_the_latest_run_that_scored_its_table() -> None:
    scores = []
    for model, digest in (("tiny", DIGEST), ("tiny", DIGEST), ("other", DIGEST), ("tiny", "e" * 64)):
        with tracking.run("score", model) as run_id:
            tracking.set_tags({"table_digest": digest})
        scores.append(run_id)
    with tracking.run("finetune", "tiny", "top-4") as run_id:
        assert tracking.link_score("tiny", DIGEST) == scores[1]
    tags = read(run_id).data.tags
    assert tags["score_run"] == scores[1]
    assert f"/runs/{scores[1]}" in tags["mlflow.note.content"]


def test_no_link_where_the_table_was_scored_elsewhere() -> None:
    with tracking.run("finetune", "tiny", "top-4") as run_id:
        assert tracking.link_score("tiny", "f" * 64) is None
    assert read(run_id).data.tags["table_digest"] == "f" * 64
    assert "score_run" not in read(run_id).data.tags
