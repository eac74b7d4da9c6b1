"""The store: the project's own, where the project lies now; one that answers; no runs of dead processes."""

import logging
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import RemoteDisconnected
from pathlib import Path
from urllib.parse import quote

import mlflow
import psutil
import pytest
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from urllib3.exceptions import ProtocolError

from headimpact.errors import InputError
from headimpact.lifecycle import dead_runs, store, store_errors, tracking


@pytest.fixture
def project(tracking_database: Path, without_mlflow: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a database, below a folder as people have them."""
    folder = tmp_path / "My Disk 100%" / "project"
    folder.mkdir(parents=True)
    shutil.copy(tracking_database, folder)
    monkeypatch.chdir(folder)
    return folder


def artifact_of(step: str, content: str = "x") -> str:
    """A run with one artifact; gives its id."""
    with tracking.run(step) as run_id:
        tracking.log_text(content, "note.txt")
    return run_id


def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command that is started in another folder finds."""
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)


def test_artifacts_lie_in_the_project_that_was_copied_or_moved(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = artifact_of("first")
    copy, moved = project.with_name("copy"), project.with_name("moved")
    shutil.copytree(project, copy)
    elsewhere(copy, monkeypatch)
    second = artifact_of("second")
    assert {path.parts[-3] for path in copy.rglob("note.txt")} == {first, second}
    assert {path.parts[-3] for path in project.rglob("note.txt")} == {first}
    elsewhere(copy.parent, monkeypatch)
    project.rename(moved)
    elsewhere(moved, monkeypatch)
    third = artifact_of("third")
    assert not project.exists()
    assert {path.parts[-3] for path in moved.rglob("note.txt")} == {first, third}
    assert mlflow.artifacts.load_text(f"{MlflowClient().get_run(first).info.artifact_uri}/note.txt") == "x"


def test_every_path_in_the_database_moves_and_no_other(project: Path, tmp_path: Path) -> None:
    tracking.initialise()
    before, after = tmp_path / "before 1%", tmp_path / "after"
    paths = {
        "/mlruns/1": True,
        "/mlruns/1/models/m": True,
        "/mlruns-of-another/1": False,
    }
    with closing(sqlite3.connect(project / "mlflow.db")) as connection:
        connection.executemany(
            "INSERT INTO runs (run_uuid, artifact_uri, lifecycle_stage, experiment_id) VALUES (?, ?, 'active', 0)",
            [(f"{form}{path}", f"{start}{path}") for path in paths for form, start in forms(before).items()],
        )
        connection.commit()
        store._rewrite(connection, before / "mlruns", after / "mlruns")
        written = dict(connection.execute("SELECT run_uuid, artifact_uri FROM runs"))
    for path, moves in paths.items():
        for form, start in forms(after if moves else before).items():
            assert written[f"{form}{path}"] == f"{start}{path}"


def forms(folder: Path) -> dict[str, str]:
    return {"path": str(folder), "uri": folder.as_uri()}


def test_a_store_that_is_reached_by_two_paths_stays_where_it_is(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking.initialise()
    other = project.with_name("other")
    other.mkdir()
    os.link(project / "mlflow.db", other / "mlflow.db")  # as of a folder that is mounted twice
    elsewhere(other, monkeypatch)
    with tracking.run("score") as run_id:
        pass
    assert (MlflowClient().get_run(run_id).info.artifact_uri or "").startswith(f"{project}/mlruns")


@pytest.mark.parametrize("name", ["standalone/tmpabc", "tmpabc"])
def test_an_experiment_of_dvc_in_a_copy_is_kept_in_the_project(
    project: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = project / ".dvc/tmp/exps" / name
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    run_id = artifact_of("score")
    assert not (copy / "mlflow.db").exists()
    assert [path.parts[-3] for path in project.glob("mlruns/**/note.txt")] == [run_id]


def test_a_relative_database_is_the_projects(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert tracking.initialise() == os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{project}/mlflow.db"


def test_a_path_that_mlflow_would_read_as_another_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{quote(str(project))}/mlflow.db")  # what `mlflow run` makes
    with pytest.raises(InputError, match=r"reads as another path: set MLFLOW_TRACKING_URI=sqlite:///mlflow\.db"):
        tracking.initialise()
    folder = project / "a%20b"
    folder.mkdir()
    elsewhere(folder, monkeypatch)
    with pytest.raises(InputError, match="rename the folder"):
        tracking.initialise()
    assert not any(folder.iterdir())


def test_artifacts_that_cannot_be_written_are_told_before_work_begins(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path} is not writable"):
        store.check_artifacts((tmp_path / "gone/mlruns/1").as_uri(), "head-impact")
    store.check_artifacts("s3://bucket/1", "head-impact")


def test_two_that_make_the_experiment_at_once_share_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking.initialise()
    monkeypatch.setattr(mlflow, "get_experiment_by_name", lambda name: None)  # looked a moment too early
    tracking.initialise()


def test_a_deleted_experiment_is_told_with_the_command(project: Path) -> None:
    tracking.initialise()
    ours = mlflow.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
    MlflowClient().delete_experiment(ours)
    with pytest.raises(InputError, match=r"was deleted\. To have it back: mlflow experiments restore -x 0$"):
        tracking.initialise()


def test_a_lock_that_is_held_is_told_and_waited_for(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "_PATIENCE", 0.05)
    monkeypatch.setattr(store, "_MOST_PATIENCE", 0.1)
    with FileLock(project / "mlflow.db.lock", is_singleton=False), pytest.raises(InputError, match=r"mlflow\.db\.lock"):
        tracking.initialise()
    assert "Waiting for another command" in capsys.readouterr().out


def test_a_folder_without_permission_is_one_sentence(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/none/mlflow.db")
    with pytest.raises(
        InputError, match=r"^Runs cannot be kept in /proc/none/mlflow\.db: No such file or directory\.$"
    ):
        tracking.initialise()


# ---- servers


@pytest.fixture
def silent_server(without_mlflow: None) -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"])
def test_a_server_that_is_down_is_told_before_work_begins(
    project: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    message = r"^Nothing was begun: http://127\.0\.0\.1:9 does not answer \(Connection refused\)\.$"
    with pytest.raises(InputError, match=message), tracking.run("score"):
        raise AssertionError("the work began")


def test_a_server_that_is_silent_costs_a_bounded_time(silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server)
    begun = time.monotonic()
    with pytest.raises(InputError, match="accepts but says nothing in time"):
        tracking.initialise()
    assert time.monotonic() - begun < 5


def test_every_try_is_told(silent_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server)
    with pytest.raises(InputError):
        tracking.initialise()
    said = "The tracking server does not answer (it accepts but says nothing in time); tries left: 1.\n"
    assert capsys.readouterr().err == said


def test_patience_is_bounded_unless_it_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")
    store_errors.bound_patience()
    assert (os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"], os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) == ("30", "9")
    assert store_errors.first_look() == {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")


def test_what_mlflow_raises_in_the_work_is_one_sentence_with_the_cause(project: Path) -> None:
    message = r"^score is not recorded: MLflow: database is locked\. What was computed is kept: the same command"
    with pytest.raises(store_errors.StoreError, match=message), tracking.run("score") as run_id:
        raise MlflowException("database is locked\n[SQL: INSERT ...]")
    run = MlflowClient().get_run(run_id)
    assert run.info.status == "FAILED"
    assert "database is locked" in run.data.tags["error"]
    assert mlflow.active_run() is None


def test_a_connection_that_is_cut_is_told_in_words() -> None:
    cut = ProtocolError("Connection aborted.", RemoteDisconnected("Remote end closed connection without response"))
    failure = MlflowException("API request failed with ...")
    failure.__cause__ = requests.ConnectionError(cut, request=requests.Request("POST", "http://host:5000/api"))
    failure.__cause__.__cause__ = cut
    told = "http://host:5000 does not answer (Remote end closed connection without response)."
    assert store_errors.cause(failure) == told


def test_a_full_disk_is_named_and_mlflow_shows_no_trace_of_it(project: Path) -> None:
    tracking.initialise()
    full = MlflowException("(raised as a result of Query-invoked autoflush; consider ...)\n[SQL: UPDATE ...]")
    full.__cause__ = RuntimeError("of SQLAlchemy")
    full.__cause__.__cause__ = sqlite3.OperationalError("database or disk is full")
    assert store_errors.cause(full) == "MLflow's database: database or disk is full."
    assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.ERROR)


def test_a_server_that_failed_in_the_work_is_not_waited_for_again(
    project: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.initialise()
    begun = 0.0

    def work() -> None:
        nonlocal begun
        with tracking.run("score"):
            mlflow.set_tracking_uri(silent_server)
            begun = time.monotonic()
            tracking.log_text("x", "note.txt")

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with pytest.raises(store_errors.StoreError, match=r"^score is not recorded: .* does not answer"):
        work()
    assert time.monotonic() - begun < 5
    assert mlflow.active_run() is None


# ---- processes


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    mine = dead_runs.this_process()
    machine, number, started = mine.rsplit(" ", 2)
    assert not dead_runs.is_dead(mine)
    assert dead_runs.is_dead(f"{machine} {number} {int(started) - 1000}")  # the number was given out again
    assert dead_runs.is_dead(f"{machine} {2**22 + 1} {started}")
    assert not dead_runs.is_dead(f"another {2**22 + 1} {started}")
    assert not dead_runs.is_dead("")


def test_the_run_of_a_killed_process_is_ended_with_the_reason(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.initialise()
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(sleeper.pid).create_time()
    machine = dead_runs.this_process().rsplit(" ", 2)[0]
    client = MlflowClient()
    runs, ours = {}, mlflow.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
    for name, process in (("killed", f"{machine} {sleeper.pid} {started:.0f}"), ("mine", dead_runs.this_process())):
        runs[name] = client.create_run(ours, tags={dead_runs.PROCESS: process}, run_name=name).info.run_id
    assert dead_runs.end_dead_runs() == []
    sleeper.kill()
    sleeper.communicate()
    monkeypatch.setattr(store, "_looked_after", set())
    with tracking.run("score") as run_id:
        assert client.get_run(run_id).data.tags[dead_runs.PROCESS] == dead_runs.this_process()
    assert "Ended 1 runs whose process was killed: killed" in capsys.readouterr().out
    ended = client.get_run(runs["killed"])
    assert ended.info.status == "KILLED"
    assert f"process {sleeper.pid} of " in ended.data.tags["error"]
    assert client.get_run(runs["mine"]).info.status == "RUNNING"
