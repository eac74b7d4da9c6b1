"""Registered versions of adapters: where they come from, what they hold, and when there is a new one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from tracked_runs import DIFFERENCES, DIGEST, LIMITS, RESULTS, experiment, read

from headimpact.errors import InputError
from headimpact.lifecycle import tracking, versions


def register(
    folder: Path,
    model: str,
    source: str = "models/bases/tiny",
    setup: str = "layers:6,8",
    weights: bytes = b"weights",
    description: str = "LoRA on layers 6, 8",
    with_alias: bool = True,
) -> int:
    """Register an adapter of ``model`` (one a test: they share the registry); gives the version."""
    adapter = folder / "outputs" / model / setup / "adapter"
    adapter.mkdir(parents=True, exist_ok=True)
    (adapter / "adapter_model.safetensors").write_bytes(weights)
    trained: dict[str, Any] = {"base": model, "source": source, "revision": None, "base_digest": "b" * 64}
    header = trained | {"setup": setup, "layers": [6, 8], "code_version": "abc"}
    digests = {"dataset": "scenes", "dataset_digest": DIGEST, "table_digest": "t" * 64}
    (adapter / "header.json").write_text(json.dumps(header | digests))
    (folder / "models/bases/tiny").mkdir(parents=True, exist_ok=True)
    (folder / "models/bases/tiny/model.safetensors").write_bytes(b"base")
    (folder / "requirements.txt").write_text("# pinned\nmlflow==3.17.2\npandas==3.1.1\n")
    return versions.register(adapter, description, LIMITS, with_alias=with_alias)


def registered(model: str, alias: str = "layers-6-8") -> ModelVersion:
    return MlflowClient().get_model_version_by_alias(f"head-impact-{model}", alias)


def contents(model: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(f"models:/head-impact-{model}@layers-6-8"))


def test_a_registered_version_tells_where_it_comes_from(project: Path) -> None:
    with tracking.run("finetune", "told", "layers:6,8") as run_id:
        assert register(project, "told") == 1
    version = registered("told")
    assert version.run_id == run_id
    expected = {"setup": "layers:6,8", "layers": "6,8", "base": "told", "revision": "None"}
    expected |= {"dataset_digest": DIGEST, "adapter_digest": hashlib.sha256(b"weights").hexdigest()}
    assert {name: version.tags[name] for name in expected} == expected
    assert version.description == "LoRA on layers 6, 8"


def test_a_logged_model_has_the_figures_of_its_run_and_their_dataset(project: Path) -> None:
    with tracking.run("finetune", "figures", "layers:6,8") as run_id:
        tracking.log_dataset("scenes", project / "data/dataset", DIGEST, "test")
        tracking.log_results(RESULTS, DIFFERENCES)
        register(project, "figures")
    (model,) = MlflowClient().search_logged_models([experiment()], "params.model = 'figures'")
    assert (model.name, model.params["setup"]) == ("figures-layers-6-8", "layers:6,8")
    figures = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics or []}
    assert figures["test/perplexity"] == (8.5, "scenes/test")
    assert set(figures) == set(read(run_id).data.metrics)
    assert len(MlflowClient().get_metric_history(run_id, "test/perplexity")) == 1
    assert "LoRA adapters of `figures`" in str(MlflowClient().get_registered_model("head-impact-figures").description)


def test_an_adapter_can_be_registered_without_the_alias(project: Path) -> None:
    with tracking.run("finetune"):
        register(project, "kept", weights=b"first")
        assert register(project, "kept", weights=b"second", with_alias=False) == 2
    assert int(registered("kept").version) == 1


def test_the_alias_moves_to_the_next_version(project: Path) -> None:
    with tracking.run("finetune"):
        versions = [register(project, "twice", weights=weights) for weights in (b"first", b"second")]
    assert versions == [1, 2]
    assert int(registered("twice").version) == 2


def test_the_same_adapter_is_registered_once_and_its_version_is_brought_up_to_date(project: Path) -> None:
    with tracking.run("finetune") as run_id:
        assert register(project, "again", weights=b"first") == 1
        assert register(project, "again", weights=b"second") == 2
    with tracking.run("evaluate"):
        assert register(project, "again", weights=b"first", description="beside the original") == 1
    version = registered("again")  # the alias is back
    assert (int(version.version), version.run_id, version.description) == (1, run_id, "beside the original")
    assert len(MlflowClient().search_model_versions("name = 'head-impact-again'")) == 2


def test_the_same_adapter_of_another_setup_has_a_version_of_its_own(project: Path) -> None:
    with tracking.run("finetune"):
        assert [register(project, "alike", setup=setup) for setup in ("layers:6,8", "top-2", "top-2")] == [1, 2, 2]
    assert int(registered("alike").version) == 1
    assert registered("alike", "top-2").tags["setup"] == "top-2"


def test_a_version_is_whole_or_not_there_and_the_next_command_completes_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    def attempt() -> None:
        with tracking.run("evaluate"):
            register(project, "halves")

    def versions() -> list[ModelVersion]:
        return list(MlflowClient().search_model_versions("name = 'head-impact-halves'"))

    def killed_in(name: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, name, killed)
            with pytest.raises(KeyboardInterrupt):
                attempt()

    killed_in("create_model_version")
    assert versions() == []
    killed_in("set_registered_model_alias")
    (version,) = versions()
    assert (version.description, version.tags["setup"]) == ("LoRA on layers 6, 8", "layers:6,8")
    attempt()
    assert (int(registered("halves").version), len(versions())) == (1, 1)
    logged = MlflowClient().search_logged_models([experiment()], f"source_run_id = '{version.run_id}'")
    everything = MlflowClient().search_logged_models([experiment()], "tags.setup = 'layers:6,8'")
    assert [f"models:/{model.model_id}" for model in logged] == [version.source]
    assert json.loads(logged[0].tags["mlflow.modelVersions"]) == [{"name": "head-impact-halves", "version": 1}]
    of_adapter = [m for m in everything if m.tags["adapter_digest"] == version.tags["adapter_digest"]]
    unregistered = [m for m in of_adapter if "mlflow.modelVersions" not in m.tags]
    assert unregistered == []  # what was logged before the first kill is gone


def test_what_cannot_be_registered_is_told_with_the_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*arguments: object, **options: object) -> None:
        raise MlflowException("the registry is down")

    monkeypatch.setattr(MlflowClient, "create_registered_model", down)
    message = (
        r"^Trained and evaluated, but not registered: MLflow: the registry is down\. "
        r"To register: headimpact register --model refused$"
    )
    with pytest.raises(InputError, match=message), tracking.run("evaluate"):
        register(project, "refused")


def test_a_version_holds_all_it_needs(project: Path) -> None:
    with tracking.run("finetune"):
        register(project, "whole")
    folder = contents("whole")
    config = Model.load(folder).flavors["python_function"]
    assert (folder / config["artifacts"]["adapter"]["path"] / "header.json").is_file()
    assert (folder / config["artifacts"]["base"]["path"] / "model.safetensors").read_bytes() == b"base"
    assert (folder / "code/headimpact/vlm/loading.py").is_file()
    assert config["config"] == vars(LIMITS)
    assert (folder / "requirements.txt").read_text().split() == ["mlflow==3.17.2", "pandas==3.1.1"]
    assert not list(folder.rglob("*.pkl"))


def test_a_hub_base_is_not_copied(project: Path) -> None:
    with tracking.run("finetune"):
        register(project, "hub", source="HuggingFaceTB/SmolVLM-Instruct")
    assert [path.name for path in (contents("hub") / "artifacts").iterdir()] == ["adapter"]


def test_a_large_folder_is_not_copied(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_SMALL_BASE", len("base") - 1)
    with tracking.run("finetune"):
        register(project, "large")
    assert [path.name for path in (contents("large") / "artifacts").iterdir()] == ["adapter"]
