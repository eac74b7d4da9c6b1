"""MLflow tracking and registry; nothing else in the project uses them.

The functions that log act on the run that :func:`run` opened.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # pyright: ignore[reportAttributeAccessIssue]
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

from headimpact.errors import InputError
from headimpact.lifecycle import dead_runs, experiment, store, store_errors
from headimpact.lifecycle.graph import environment
from headimpact.selection.grammar import is_softened
from headimpact.statistics import Difference

if TYPE_CHECKING:  # most runs register nothing and draw nothing
    from matplotlib.figure import Figure


EXPERIMENT = experiment.NAME
_DEFAULT = "0"  # the experiment that every store begins with, where `mlflow run` puts its runs
STAGE = "DVC_STAGE"
TRIAL = "DVC_EXP_NAME"
"""Names the experiment of DVC that a stage is run for (``dvc exp run``)."""
RUN = "MLFLOW_RUN_ID"
PARENT_RUN = "HEADIMPACT_PARENT_RUN"
COMMIT = "mlflow.source.git.commit"
_ERROR = "error"
# What one request to a tracking server may hold (mlflow.utils.validation).
MAX_METRICS = 1000
_MAX_PARAMS = 100
_MAX_DIGEST = 36


def initialise() -> str:
    """Settle the tracking URI, and see to the store and the experiment (:func:`headimpact.lifecycle.store.settle`).

    Returns:
        The URI.

    Raises:
        InputError: the store does not answer or cannot be used from here.
    """

    def make() -> None:
        _make_experiment(mlflow.get_tracking_uri())

    uri = store.settle(EXPERIMENT, make)
    found = mlflow.get_experiment_by_name(EXPERIMENT)
    if found is not None and experiment.KIND not in found.tags:  # made by `mlflow run`, or by an earlier version
        _describe(found.experiment_id)
    return uri


def _make_experiment(uri: str) -> None:
    """Make the project's experiment.

    In a store of the project's own it is the one that MLflow made, by another name: `mlflow run` opens its run before
    anything here is asked, and there. On a server, which others use, too, and where only a server can store the
    artifacts (a store that `mlflow ui` made), it is one beside that.
    """
    client, number = MlflowClient(), None
    if not uri.startswith("http"):
        default = client.get_experiment(_DEFAULT)
        if default.name == "Default" and not default.artifact_location.startswith("mlflow-artifacts:"):
            client.rename_experiment(_DEFAULT, EXPERIMENT)
            number = _DEFAULT
    _describe(number or mlflow.create_experiment(EXPERIMENT))


def _describe(number: str) -> None:
    """Tag the project's experiment for MLflow's pages."""
    for name, value in experiment.tags(number).items():
        MlflowClient().set_experiment_tag(number, name, value)


@contextmanager
def run(
    step: str, model: str | None = None, setup: str | None = None, adapter_digest: str | None = None
) -> Iterator[str]:
    """A tracked run around a block; gives its id.

    With ``adapter_digest`` it goes on with the latest run that made this adapter of ``model`` and ``setup``, if the
    store has one, so that training curves, results and the registered version stand in one run.

    Inside a DVC stage it is a run of its own. Otherwise it is the run that ``mlflow run`` opened, if any. A
    new run is nested under the run named in ``HEADIMPACT_PARENT_RUN`` and stands in that run's experiment,
    else in the one that MLflow's environment variables name, else in ``head-impact``. It ends as FINISHED,
    FAILED (with the error as a tag) or, after Ctrl-C, KILLED.

    Raises:
        InputError: the store cannot be used, or artifacts cannot be written to the run's experiment.
        StoreError: MLflow failed on the way; the run is FAILED, or left to the next command to end.
    """
    initialise()
    stage = os.environ.get(STAGE)
    if stage:
        os.environ.pop(RUN, None)
    tags = {"step": step, "model": model, "setup": setup, "dvc.stage": stage, COMMIT: _commit()}
    tags |= {dead_runs.PROCESS: dead_runs.this_process(), "dvc.experiment": os.environ.get(TRIAL)}
    continued = None if RUN in os.environ or adapter_digest is None else _training_run(model, setup, adapter_digest)
    with store_errors.told("Nothing was begun: "):
        if continued:
            opened = mlflow.start_run(run_id=continued.info.run_id, nested=True)
            mlflow.set_tag(dead_runs.PROCESS, tags[dead_runs.PROCESS])
            if _ERROR in continued.data.tags:  # of an evaluation that failed
                mlflow.delete_tag(_ERROR)
                note = continued.data.tags.get(experiment.NOTE, "")
                mlflow.set_tag(experiment.NOTE, experiment.without_failure(note))
        else:
            parent, place = (None, None) if RUN in os.environ else _place()
            opened = mlflow.start_run(
                run_name=experiment.run_name(step, model, setup),
                tags={name: value for name, value in tags.items() if value},
                parent_run_id=parent,
                experiment_id=place,
                nested=True,  # below the run of the grid, whose stages are steps of this process
            )
    try:
        _tell_of_default(opened.info.experiment_id)
        store.check_artifacts(opened.info.artifact_uri, EXPERIMENT)
        yield opened.info.run_id
        mlflow.end_run()
    except KeyboardInterrupt:
        _end("KILLED", None)
        raise
    except BaseException as error:
        _end("FAILED", error)
        if isinstance(error, MlflowException) or (store_errors.is_unanswered(error) and isinstance(error, OSError)):
            kept = "What was computed is kept: the same command goes on with it."
            raise store_errors.StoreError(f"{step} is not recorded: {store_errors.cause(error)} {kept}") from error
        raise


def _end(status: str, error: BaseException | None) -> None:
    """End the open run; a server that did not answer is not waited for once more."""
    silent = error is not None and store_errors.is_unanswered(error)
    with environment(**(store_errors.last_word() if silent else {})):
        if error is not None and not silent:
            with suppress(MlflowException, OSError):
                _say_why(error)
        with suppress(MlflowException, OSError):
            mlflow.end_run(status)


def _say_why(error: BaseException) -> None:
    """A failed run says why: in a tag, and in the description that its page begins with."""
    before = MlflowClient().get_run(run_id()).data.tags.get(experiment.NOTE, "")
    note = experiment.failure_note(error, before)
    mlflow.set_tags({_ERROR: f"{type(error).__name__}: {error}", experiment.NOTE: note})


@contextmanager
def child(name: str, tags: Mapping[str, str]) -> Iterator[None]:
    """A run nested under the open one, in its experiment, which what is logged in the block goes to."""
    parent = mlflow.active_run()
    assert parent is not None
    owner = {dead_runs.PROCESS: dead_runs.this_process()}
    with mlflow.start_run(None, parent.info.experiment_id, name, nested=True, tags={**tags, **owner}):
        yield


def _place() -> tuple[str | None, str | None]:
    """Where a new run goes: its parent, and its experiment (None: what MLflow's environment says)."""
    if parent := os.environ.get(PARENT_RUN):
        return parent, mlflow.get_run(parent).info.experiment_id
    if os.environ.get("MLFLOW_EXPERIMENT_ID") or os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        return None, None
    ours = mlflow.get_experiment_by_name(EXPERIMENT)
    assert ours is not None  # made by initialise()
    return None, ours.experiment_id


def _training_run(model: str | None, setup: str | None, adapter_digest: str) -> Run | None:
    # Two setups that select the same layers train the same adapter.
    step = "soften" if is_softened(setup or "") else "finetune"
    query = f"tags.step = '{step}' and tags.model = '{model}' and tags.setup = '{setup}'"
    runs = _search(f"{query} and tags.adapter_digest = '{adapter_digest}'")
    return runs[0] if runs else None


def _search(query: str) -> list[Run]:
    """The latest run of any experiment that a query finds, or none."""
    client = MlflowClient()
    experiments = [each.experiment_id for each in client.search_experiments()]
    return list(client.search_runs(experiments, query, max_results=1))


def _tell_of_default(number: str) -> None:
    """A run that `mlflow run` opened in MLflow's experiment Default stands apart from the others."""
    if number == _DEFAULT and mlflow.get_experiment(number).name == "Default":
        print(f"This run stands in MLflow's experiment Default; the others: mlflow run --experiment-name {EXPERIMENT}")


def _commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def log_parameters(values: Mapping[str, Any]) -> None:
    """Log resolved parameters, nested names joined by dots.

    ``mlflow run`` has logged its ``-P`` values as they were typed, and MLflow refuses another text under the
    same name. A name that is there keeps its text; where that differs (1.0e-4 and 0.0001), the value goes to
    ``<name>.resolved``.
    """
    current = run_id()
    known = MlflowClient().get_run(current).data.params
    resolved = {name: str(value) for name, value in _flatten(values).items()}
    named = {name if known.get(name, value) == value else f"{name}.resolved": value for name, value in resolved.items()}
    fresh = [Param(name, value) for name, value in named.items() if name not in known]
    for batch in batches(fresh, _MAX_PARAMS):
        MlflowClient().log_batch(current, params=batch)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def log_dataset(name: str, folder: Path, digest: str, part: str) -> None:
    """Log one part of a dataset as an input of the run, named ``<name>/<part>``.

    MLflow keeps one input of a name and digest, and 36 characters of the digest; the whole one is a tag.

    Args:
        name: the dataset's name.
        folder: where it is.
        digest: its DVC or manifest digest.
        part: impact, train, val or test.
    """
    source = LocalArtifactDatasetSource(folder.resolve().as_uri())
    mlflow.log_input(MetaDataset(source, name=f"{name}/{part}", digest=digest[:_MAX_DIGEST]), context=part)
    mlflow.set_tags({"dataset": name, "dataset_digest": digest})


def log_history(history: pd.DataFrame) -> None:
    """Log metrics by step, from the columns step, metric (train/loss, val/perplexity, ...) and value."""
    now = int(pd.Timestamp.now("UTC").timestamp() * 1000)
    metrics = [
        Metric(str(metric), float(value), now, int(step))
        for step, metric, value in history[["step", "metric", "value"]].itertuples(index=False)
    ]
    for batch in batches(metrics, MAX_METRICS):
        MlflowClient().log_batch(run_id(), metrics=batch)


def log_results(results: Mapping[str, Any], differences: Mapping[str, Difference]) -> None:
    """Log the content of results.json as final metrics.

    ``test/<metric>``, with ``_se``, ``_difference`` against the original and its ``_difference_low``,
    ``_difference_high`` and ``_difference_p_value``; ``parameters/total``, ``parameters/trainable`` and
    ``parameters/percent`` where there are parameters; ``test/chance``, the accuracy of guessing, where some question
    has fewer than four options.
    """
    from headimpact.evaluation.questions import QUESTIONS  # imports torch, which most steps do not need

    values = {f"parameters/{name}": value for name, value in results.get("parameters", {}).items()}
    if (chance := results.get(QUESTIONS, {}).get("chance")) is not None:
        values["test/chance"] = chance
    for metric, estimate in results["metrics"].items():
        values |= {experiment.result_name(metric): estimate["value"]}
        values |= {experiment.result_name(metric, "se"): estimate["se"]}
    for metric, difference in differences.items():
        values[experiment.result_name(metric, "difference")] = difference.value
        values |= {
            experiment.result_name(metric, f"difference_{name}"): getattr(difference, name)
            for name in ("low", "high", "p_value")
        }
    mlflow.log_metrics({name: float(value) for name, value in values.items()})


def log_figure(figure: "Figure", name: str) -> None:
    """Log a figure as an artifact."""
    mlflow.log_figure(figure, name)


def log_text(text: str, name: str) -> None:
    """Log a text, such as a page, as an artifact."""
    mlflow.log_text(text, name)


def log_metrics(values: Mapping[str, float | int]) -> None:
    """Log figures that have no step."""
    mlflow.log_metrics(dict(values))


def log_table(name: str, table: pd.DataFrame) -> None:
    """Log a table that the UI shows and compares between runs, as ``tables/<name>.json``, over one of that name.

    MLflow's own log_table would append the rows where a run that goes on logs its tables again; and, for every table,
    list the artifacts and look for pictures in every cell.
    """
    path = f"tables/{name}.json"
    mlflow.log_text(table.to_json(orient="split", index=False, date_format="iso"), path)
    tables = json.loads(MlflowClient().get_run(run_id()).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    if (entry := {"path": path, "type": "table"}) not in tables:
        mlflow.set_tag(MLFLOW_LOGGED_ARTIFACTS, json.dumps([*tables, entry]))


def log_files(*paths: Path, folder: str | None = None) -> None:
    """Log files and whole folders as artifacts, at the top or in ``folder``.

    Raises:
        InputError: one of them does not exist.
    """
    for path in paths:
        if path.is_dir():
            mlflow.log_artifacts(str(path), "/".join(part for part in (folder, path.name) if part))
        elif path.is_file():
            mlflow.log_artifact(str(path), folder)
        else:
            raise InputError(f"{path} does not exist and cannot be logged.")


def set_tags(tags: Mapping[str, Any]) -> None:
    """Tag the run. A score run has the tag ``table_digest``, by which finetune runs find it."""
    mlflow.set_tags(dict(tags))


def link_score(model: str, table_digest: str) -> str | None:
    """Link the run to the latest run that scored this HI table.

    Returns:
        The score run's id, or None where this tracking store has none (the table came from elsewhere).
    """
    found = _search(f"tags.step = 'score' and tags.model = '{model}' and tags.table_digest = '{table_digest}'")
    mlflow.set_tag("table_digest", table_digest)
    if not found:
        return None
    score = found[0].info
    mlflow.set_tags(
        {
            "score_run": score.run_id,
            experiment.NOTE: f"Layers from [this score run](#/experiments/{score.experiment_id}/runs/{score.run_id}).",
        }
    )
    return score.run_id


def run_id() -> str:
    """Of the open run."""
    active = mlflow.active_run()
    if active is None:
        raise RuntimeError("Nothing can be logged outside tracking.run().")
    return active.info.run_id


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Items in lists of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
