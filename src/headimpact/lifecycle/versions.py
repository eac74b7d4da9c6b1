"""Versions of the registry: whole from the first moment, or not there."""

import json
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

_SMALL_BASE = 64 * 2**20  # bytes
_LOGGED = "models:/"  # before the id of a logged model


def is_small_folder(path: Path) -> bool:
    """Whether a base is a folder that travels with the version; a larger one stays where it is."""
    sizes = (file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.is_dir() and sum(sizes) <= _SMALL_BASE


def find(name: str, adapter_digest: str, setup: str) -> str | None:
    """The version of a registered model that holds this adapter of this setup, if there is one."""
    query = f"name = '{name}' and tags.adapter_digest = '{adapter_digest}' and tags.setup = '{setup}'"
    versions = MlflowClient().search_model_versions(query)
    return str(versions[0].version) if versions else None


def create(name: str, logged: str, run_id: str, tags: Mapping[str, str], description: str) -> str:
    """Make a version of a logged model in one request, with tags and description; gives its number.

    Whoever registers right after training (``registered_model_name``) has a version that is READY and the newest of its
    model while it still has neither, and keeps it so when the process is killed.

    Args:
        name: of the registered model, which is made where there is none.
        logged: id of the logged model.
        run_id: the run that logged it.
        tags: of the version.
        description: of the version, in Markdown.
    """
    client = MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise
    made = client.create_model_version(
        name, f"{_LOGGED}{logged}", run_id, tags=dict(tags), description=description, model_id=logged
    )
    return str(made.version)


def link(name: str, version: str) -> None:
    """Name a version in its logged model, which MLflow's pages show it by."""
    client = MlflowClient()
    source = client.get_model_version(name, version).source or ""
    if source.startswith(_LOGGED):
        tag = json.dumps([{"name": name, "version": int(version)}])
        client.set_logged_model_tags(source.removeprefix(_LOGGED), {MLFLOW_MODEL_VERSIONS: tag})


def forget_unregistered(name: str, adapter_digest: str, setup: str) -> None:
    """Delete the logged models of an adapter that no version was made of: a process was killed on the way."""
    client = MlflowClient()
    registered = {version.source for version in client.search_model_versions(f"name = '{name}'")}
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.adapter_digest = '{adapter_digest}' AND tags.setup = '{setup}'"
    for logged in client.search_logged_models(experiments, query):
        if f"{_LOGGED}{logged.model_id}" not in registered:
            client.delete_logged_model(logged.model_id)
