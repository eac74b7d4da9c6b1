"""Results to be tracked, and runs as they are read again: what the tests of ``tracking/`` share."""

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from headimpact.lifecycle import serving, tracking
from headimpact.statistics import Difference

LIMITS = serving.Limits(24.0, 16.0, 1000, 128, 1.0)
DIGEST = "d" * 64
RESULTS = {
    "parameters": {"total": 1010, "trainable": 10, "percent": 0.99},
    "metrics": {"perplexity": {"value": 8.5, "se": 0.25, "n": 30}},
}
DIFFERENCES = {"perplexity": Difference(value=-1.5, se=0.25, low=-2.0, high=-1.0, p_value=0.001, n=30, clusters=10)}


def read(run_id: str) -> Run:
    return MlflowClient().get_run(run_id)


def opened_by_mlflow_run(monkeypatch: pytest.MonkeyPatch, **params: str) -> str:
    """What ``mlflow run -P ...`` leaves for its child: a run in the default experiment with its texts."""
    run = MlflowClient().create_run("0")
    for name, text in params.items():
        MlflowClient().log_param(run.info.run_id, name, text)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    return run.info.run_id


def experiment(name: str = tracking.EXPERIMENT) -> str:
    found = mlflow.get_experiment_by_name(name)
    assert found is not None
    return found.experiment_id
