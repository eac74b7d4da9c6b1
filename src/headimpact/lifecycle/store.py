"""The store that runs and versions go to: the project's own unless another one is named; that it answers, and that its
artifacts lie where the project lies now."""

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from headimpact.errors import InputError
from headimpact.lifecycle import dead_runs, store_errors
from headimpact.lifecycle.garbage import nothing_collected
from headimpact.lifecycle.graph import environment

DATABASE = "mlflow.db"
ARTIFACTS = "mlruns"
_SQLITE = "sqlite:///"
# Where MLflow's database keeps absolute paths of artifacts.
_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_PATIENCE = 3.0  # s until it is said that another command is waited for
_MOST_PATIENCE = 120.0  # s
_looked_after: set[str] = set()


def home() -> Path:
    """The project that the working directory belongs to: itself, or, of a copy in which ``dvc exp run --temp`` or
    ``--queue`` works, the project that it is a copy of."""
    root = Path.cwd()
    for folder in root.parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return root


def settle(experiment: str, make: Callable[[], None]) -> str:
    """Settle the tracking URI for this process and its children, and see to the store before work begins.

    The URI is what ``MLFLOW_TRACKING_URI`` names, else the project's mlflow.db, which ``mlflow ui`` and ``mlflow models
    serve`` in the project root take, too. A server has to answer. A database of the project is held to where the
    project lies now; runs in it whose process was killed are ended.

    Args:
        experiment: the experiment's name.
        make: makes it, where there is none.

    Returns:
        The URI.

    Raises:
        InputError: the store does not answer, cannot be used from here, or its experiment was deleted.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It tells at length of the first use of a database, and shows a stack trace of every error that it raises, too.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    store_errors.bound_patience()
    uri = _uri()
    database = database_of(uri)
    is_new = database is not None and not database.is_file()
    mlflow.set_tracking_uri(uri)
    with nothing_collected(), store_errors.told("Nothing was begun: "), _alone_with(database):
        with environment(**store_errors.first_look()):
            _make_experiment(experiment, make)
            _ask_registry()
        if database is not None and (is_new or database == home() / DATABASE):
            _bring_home(database, experiment, is_new)
        _look_after(uri)
    return uri


def _uri() -> str:
    uri = mlflow.get_tracking_uri()
    if not mlflow.is_tracking_uri_set() and not uri.startswith("file:"):
        uri = f"{_SQLITE}{home() / DATABASE}"
    if (database := database_of(uri)) is None:
        return uri
    if unquote(str(database)) != str(database):
        advice = (
            f"set MLFLOW_TRACKING_URI={_SQLITE}{DATABASE} before mlflow run, which writes spaces and signs so"
            if Path(unquote(str(database))).parent.is_dir()
            else "rename the folder"
        )
        raise InputError(f"MLflow cannot keep its files at {database}, which it reads as another path: {advice}.")
    return f"{_SQLITE}{database}"


def database_of(uri: str) -> Path | None:
    """The file of a database of SQLite, None where a URI names another store. A relative one is the project's."""
    if not uri.startswith(_SQLITE) or uri == f"{_SQLITE}:memory:":
        return None
    return home() / uri.removeprefix(_SQLITE)


@contextmanager
def _alone_with(database: Path | None) -> Iterator[None]:
    """Let no two processes make or mend a database at once (measured: they fail); servers see to that themselves.

    The lock lies beside the database: who can write the one can write the other.
    """
    if database is None:
        yield
        return
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(database.with_name(f"{database.name}.lock"), mode=0o666)
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            print(f"Waiting for another command that opens {database} ...", flush=True)
            lock.acquire(timeout=_MOST_PATIENCE)
    except Timeout:
        raise InputError(
            f"Another command has held {database}.lock for {_MOST_PATIENCE:.0f} s. If there is none, remove the file."
        ) from None
    except OSError as error:
        raise InputError(f"Runs cannot be kept in {database}: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()


def _make_experiment(name: str, make: Callable[[], None]) -> None:
    found = mlflow.get_experiment_by_name(name)
    if found is None:
        try:
            make()
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another machine was a moment earlier
                raise
    elif found.lifecycle_stage == "deleted":
        raise InputError(
            f"The experiment {name} was deleted. To have it back: mlflow experiments restore -x {found.experiment_id}"
        )


def _ask_registry() -> None:
    """See to it that a registry of its own answers, too: it is needed when all work is done."""
    if (registry := mlflow.get_registry_uri()) != mlflow.get_tracking_uri():
        MlflowClient(registry_uri=registry).search_registered_models(max_results=1)


def _look_after(uri: str) -> None:
    """Once a process, end the runs of others that were killed."""
    if uri in _looked_after:
        return
    _looked_after.add(uri)
    if ended := dead_runs.end_dead_runs():
        print(f"Ended {len(ended)} runs whose process was killed: {', '.join(ended)}", flush=True)


def check_artifacts(uri: str | None, experiment: str) -> None:
    """Refuse a run whose artifacts cannot be written, before it works.

    Raises:
        InputError: they are a server's alone to write, or lie where this process may not write.
    """
    uri = uri or ""
    if uri.startswith("mlflow-artifacts:") and not mlflow.get_tracking_uri().startswith("http"):
        raise InputError(
            "The run's experiment was created by an MLflow server, which alone can store its artifacts: set "
            f"MLFLOW_TRACKING_URI to that server's address, or MLFLOW_EXPERIMENT_NAME={experiment}."
        )
    if (folder := _local(uri)) is None:
        return
    nearest = next(above for above in (folder, *folder.parents) if above.exists())
    if not os.access(nearest, os.W_OK):
        raise InputError(
            f"The run's artifacts go to {folder}, where nothing can be written ({nearest} is not writable): choose "
            f"another experiment with MLFLOW_EXPERIMENT_NAME, or a server that keeps artifacts itself."
        )


def _local(uri: str) -> Path | None:
    parts = urlsplit(uri)
    if uri.startswith("/"):
        return Path(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else None


def _bring_home(database: Path, experiment: str, is_new: bool) -> None:
    """Make a database name the artifacts beside it: MLflow keeps absolute paths, and would write into the folder that
    a project was copied or moved from, and at first into the working directory, whichever database is meant."""
    artifacts = database.parent / ARTIFACTS
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=60)) as connection:
            for former in _former_homes(connection, database, experiment):
                _rewrite(connection, former / ARTIFACTS, artifacts)
                if not is_new:
                    missing = (
                        "" if artifacts.is_dir() else f"; copy {former / ARTIFACTS} there to see those of old runs"
                    )
                    print(
                        f"{database.name} comes from {former}: artifacts are now in {artifacts}{missing}.", flush=True
                    )
    except sqlite3.Error as error:
        raise InputError(f"{database} cannot be used: {error}.") from error


def _former_homes(connection: sqlite3.Connection, database: Path, experiment: str) -> list[Path]:
    """Other folders that the database was made in."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {table for table, _ in _PATHS} <= tables:  # of an older MLflow, which will say so
        return []
    rows = connection.execute(
        "SELECT artifact_location FROM experiments WHERE experiment_id = 0 OR name = ?", (experiment,)
    )
    folders = [folder.parent for (uri,) in rows if (folder := _local(uri or "")) is not None]
    former = dict.fromkeys(folder.parent for folder in folders if folder.name == ARTIFACTS)
    return [folder for folder in former if not _is_same(folder / DATABASE, database)]


def _is_same(one: Path, other: Path) -> bool:
    """Whether it is the same file, by whichever path: a folder may be mounted twice."""
    return one == other or (one.is_file() and one.samefile(other))


def _rewrite(connection: sqlite3.Connection, before: Path, after: Path) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for old, new in ((str(before), str(after)), (before.as_uri(), after.as_uri())):
            for table, column in _PATHS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old) + 1, f"{old}/"),
                )
