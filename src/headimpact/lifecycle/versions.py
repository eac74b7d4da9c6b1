"""Versions of the registry: whole from the first moment, or not there."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils import requirements_utils
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from headimpact.adapters.digest import adapter_digest
from headimpact.files import read_json
from headimpact.lifecycle import experiment, store_errors
from headimpact.lifecycle.tracking import MAX_METRICS, batches, run_id
from headimpact.selection.grammar import alias

if TYPE_CHECKING:  # most runs register nothing
    from headimpact.lifecycle import serving

_SMALL_BASE = 64 * 2**20  # bytes
_LOGGED = "models:/"  # before the id of a logged model
_MODULES = "_MODULES_TO_PACKAGES"  # of MLflow: what is installed, by the modules that it has


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


def registered_name(model: str) -> str:
    """The registered model that holds the adapters of a model."""
    return f"{experiment.NAME}-{model}"


def register(
    adapter: Path,
    description: str,
    limits: "serving.Limits",
    requirements: Path = Path("requirements.txt"),
    package: Path = Path(__file__).parents[1],
    with_alias: bool = True,
    example: Callable[[], list[dict[str, str]]] = list,
) -> int:
    """Log the adapter as a servable model of the run and register it, as ``head-impact-<model>@<setup>``.

    The version holds what serving needs: the adapter, the package's code, and the base where it is a small
    folder. A hub base is recorded by name and revision and fetched when the version is loaded; a large folder
    is expected where the header says. The same adapter is registered once: its version is then brought up to date.

    Args:
        adapter: folder in PEFT format with header.json.
        description: of the version, in Markdown.
        limits: the section ``serve`` of params.yaml.
        requirements: pinned dependencies.
        package: the code to keep with the version.
        with_alias: move the alias of the setup to the version.
        example: gives rows for the served model, or none; asked for a new version alone.

    Returns:
        The version.
    """
    header = read_json(adapter / "header.json")
    tags = _version_tags(header) | {"adapter_digest": adapter_digest(adapter)}
    name = registered_name(header["base"])
    client, command = MlflowClient(), f"To register: headimpact register --model {header['base']}"
    with store_errors.told("Trained and evaluated, but not registered: ", command):
        if version := find(name, tags["adapter_digest"], header["setup"]):
            client.update_model_version(name, version, description=description)
            for tag, value in tags.items() - client.get_model_version(name, version).tags.items():
                client.set_model_version_tag(name, version, tag, value)
        else:
            forget_unregistered(name, tags["adapter_digest"], header["setup"])
            logged = _log_model(adapter, tags, header, limits, requirements, package, example())
            version = create(name, logged, run_id(), tags, description)
        link(name, version)
        client.update_registered_model(name, description=experiment.registered_note(header["base"], header))
        if with_alias:
            client.set_registered_model_alias(name, alias(header["setup"]), version)
    return int(version)


def _artifact_uri(path: Path) -> str:
    """A local artifact as MLflow reads it: it decodes the URI of the folder, but not the name within it."""
    return f"{path.parent.as_uri()}/{path.name}"


class _Pyfunc:
    """MLflow's flavor pyfunc, but that it takes what MLflow's other flavors take: not to try an input example, for
    which the base would be loaded here a second time."""

    @staticmethod
    def save_model(path: str, validate_serving_input: bool, **values: Any) -> None:
        mlflow.pyfunc.save_model(path, **values)


def _log_model(
    adapter: Path,
    tags: Mapping[str, str],
    header: Mapping[str, Any],
    limits: "serving.Limits",
    requirements: Path,
    package: Path,
    example: list[dict[str, str]],
) -> str:
    from headimpact.lifecycle import serving

    base = Path(header["source"])
    artifacts = {"adapter": adapter, **({"base": base} if is_small_folder(base) else {})}
    with warnings.catch_warnings(), _packages_by_name():
        warnings.filterwarnings("ignore", ".*input example was not provided")
        logged = Model.log(
            artifact_path=None,
            flavor=_Pyfunc,
            flavor_name="pyfunc",
            name=experiment.model_name(header["base"], header["setup"]),
            python_model=str(package / "lifecycle/serving.py"),
            artifacts={key: _artifact_uri(path.resolve()) for key, path in artifacts.items()},
            code_paths=[str(package)],
            pip_requirements=str(requirements),
            signature=serving.signature(limits),
            input_example=example or None,
            validate_serving_input=False,
            model_config=vars(limits),
            tags={tag: tags[tag] for tag in ("adapter_digest", "setup")},
            params={"model": header["base"], "setup": header["setup"], "layers": _version_tags(header)["layers"]},
            step=_last_step(),  # whose figures MLflow gives to the model
        )
    _link_figures(str(logged.model_id))
    return str(logged.model_id)


@contextmanager
def _packages_by_name() -> Iterator[None]:
    """In the block, MLflow, which warns of requirements that are not what is installed, asks for that by name alone.

    It would first find out the modules of every package in the environment, which takes seconds, for the sake of
    packages that are known by no name. There is no setting for that; the variable is private to the pinned version.
    """
    known = getattr(requirements_utils, _MODULES, None)
    setattr(requirements_utils, _MODULES, known or {})
    try:
        yield
    finally:
        setattr(requirements_utils, _MODULES, known)


def _last_step() -> int:
    """The last step of the run's training; 1 where it trained nothing: final figures stand at 0."""
    logged = MlflowClient().get_metric_history(run_id(), "train/loss")
    return max((metric.step for metric in logged), default=1)


def _link_figures(model_id: str) -> None:
    """Give the run's final figures to the model, with the dataset that they were measured on: MLflow's tab Models
    compares models by these."""
    client = MlflowClient()
    run = client.get_run(run_id())
    inputs = run.inputs.dataset_inputs if run.inputs else []
    test = next((each.dataset for each in inputs if each.dataset.name.endswith("/test")), None)
    of = {"dataset_name": test.name, "dataset_digest": test.digest} if test else {}
    figures = []
    for name in run.data.metrics:
        if name.startswith(("test/", "parameters/")):
            point = client.get_metric_history(run.info.run_id, name)[-1]  # the same one, so that the run has it once
            figures.append(
                Metric(name, point.value, point.timestamp, point.step, model_id, run_id=run.info.run_id, **of)
            )
    for batch in batches(figures, MAX_METRICS):
        client.log_batch(run.info.run_id, metrics=batch)


def _version_tags(header: Mapping[str, Any]) -> dict[str, str]:
    plain = {name: str(value) for name, value in header.items() if not isinstance(value, Mapping)}
    return plain | {"layers": ",".join(map(str, header["layers"]))}
