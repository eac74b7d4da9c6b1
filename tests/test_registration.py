"""Registering what was trained and evaluated, from the files of the steps."""

import json
import shlex
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from report_outputs import CHANGES, MODEL, objects, write_evaluation

from headimpact.adapters.digest import adapter_digest
from headimpact.evaluation import metrics
from headimpact.files import read_json, write_json
from headimpact.lifecycle import layout, params, registration, tracking, versions
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.serving import Limits

NAME = f"head-impact-{MODEL}"
HERE = Path()


@pytest.fixture
def config(project_root: Path) -> Config:
    return params.load(project_root / "params.yaml")


def write_adapter(setup: str, weights: bytes) -> None:
    """What finetune writes."""
    folder = layout.adapter(MODEL, setup)
    folder.mkdir(parents=True, exist_ok=True)
    layout.adapter_weights(MODEL, setup).write_bytes(weights)
    facts = {"base": MODEL, "source": f"models/bases/{MODEL}", "revision": None, "setup": setup, "layers": [3, 5]}
    write_json(folder / "header.json", facts | {"dataset": "scenes", "dataset_digest": "d", "table_digest": "t"})


@pytest.fixture
def project(tracked: Path) -> Path:
    (tracked / "requirements.txt").write_text("mlflow\n")
    return tracked


def version(alias: str) -> ModelVersion:
    return MlflowClient().get_model_version_by_alias(NAME, alias)


def table(run_id: str, name: str) -> pd.DataFrame:
    content = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/tables/{name}.json"))
    return pd.DataFrame(**content)


def test_there_is_no_difference_without_an_original_of_the_same_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_evaluation(HERE, "top-4")
    assert registration.differences(MODEL, "top-4") == {}
    write_evaluation(HERE, "original")
    assert registration.differences(MODEL, "original") == {}
    found = registration.differences(MODEL, "top-4")
    assert found == metrics.differences(objects(CHANGES["top-4"]), objects(CHANGES["original"]))
    assert found["perplexity"].high < 0
    write_evaluation(
        HERE, "original", table=objects(CHANGES["original"])[:-2]
    )  # of the dataset before: dvc repro came to the setup first
    assert registration.differences(MODEL, "top-4") == {}


def test_a_setup_is_registered_with_its_rows_of_the_tables(
    project: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evaluation(HERE, "original")
    write_evaluation(HERE, "top-4")
    write_adapter("top-4", b"weights")
    registered: list[tuple[Path, str, Limits]] = []
    monkeypatch.setattr(versions, "register", lambda *arguments, **_: registered.append(arguments) or 7)
    changes = registration.differences(MODEL, "top-4")
    with tracking.run("evaluate", MODEL, "top-4") as run_id:
        assert registration.register(config, Job(MODEL, "top-4"), changes) == 7
    (row,) = table(run_id, "table4").to_dict("records")
    assert (row["model"], row["setup"]) == (MODEL, "top-4")
    assert row["perplexity_difference"] == pytest.approx(changes["perplexity"].value)
    assert {"accuracy", "accuracy_se", "accuracy_low", "accuracy_high"} <= set(row)
    (counts,) = table(run_id, "table5").to_dict("records")
    assert (counts["setup"], counts["total"], counts["trainable"]) == ("top-4", 1010, 10)
    ((adapter, text, limits),) = registered
    assert adapter == layout.adapter(MODEL, "top-4")
    assert text.startswith("top-4 of tiny: LoRA on layers 3, 5, dataset scenes.\n")
    change = changes["perplexity"]
    assert f"| {change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f}) |" in text
    assert vars(limits) == config.serve.model_dump()


def test_a_description_has_every_metric_and_what_to_send() -> None:
    header = {"setup": "top-4", "base": "tiny", "layers": [6, 8], "dataset": "scenes"}
    results = {
        "metrics": {"perplexity": {"value": 8.5, "se": 0.25, "n": 30}, "accuracy": {"value": 0.5, "se": 0, "n": 3}}
    }
    change = registration.Difference(value=-1.5, se=0.2, low=-2.0, high=-1.0, p_value=0.001, n=30, clusters=10)
    assert registration.description(header, results, {"perplexity": change}).splitlines() == [
        "top-4 of tiny: LoRA on layers 6, 8, dataset scenes.",
        "",
        "| test metric | value ± standard error | change against the original |",
        "|---|---|---|",
        "| perplexity | 8.500 ± 0.250 | -1.500 (-2.000 to -1.000) |",
        "| accuracy | 0.500 ± 0.000 |  |",
        "",
        "Input: `image` (base64 or data URI; PNG, JPEG or WebP) and `prompt`. Output: `text`.",
    ]


def test_a_softened_adapter_is_a_version_for_every_scale_but_0(project: Path, config: Config) -> None:
    """Its weights are those of the trained adapter: the scale tells them apart."""
    versions = []
    write_adapter("soft-top-4", b"the same")
    write_evaluation(HERE, "soft-top-4", table=objects(CHANGES["random-4"]))
    header = layout.adapter(MODEL, "soft-top-4") / "header.json"
    for scale in (0.3, 0.2, 0.2):
        write_json(header, read_json(header) | {"scale": scale})
        with tracking.run("soften", MODEL, "soft-top-4"):
            versions.append(registration.register(config, Job(MODEL, "soft-top-4"), {}))
    assert versions == [1, 2, 2]
    assert version("soft-top-4").tags["scale"] == "0.2"
    assert "scaled to 0.2 of what was trained" in str(version("soft-top-4").description)
    write_json(header, read_json(header) | {"scale": 0.0})
    summary = registration.register_all(config, MODEL)
    assert summary.skipped == [("soft-top-4", "softened to scale 0, it is the original")]


def test_all_that_is_trained_and_evaluated_is_registered(project: Path, config: Config) -> None:
    write_adapter("layers:1,2", b"one")
    write_adapter("top-4", b"two")
    write_adapter("full", b"three")
    write_evaluation(HERE, "layers:1,2", table=objects(CHANGES["random-4"]))
    write_evaluation(HERE, "top-4")
    with tracking.run("finetune", MODEL, "top-4") as training:
        tracking.set_tags({"adapter_digest": adapter_digest(layout.adapter(MODEL, "top-4"))})
    summary = registration.register_all(config, MODEL)
    assert summary.rows == [
        ("layers:1,2", f"{NAME} version 1, alias layers-1-2"),
        ("top-4", f"{NAME} version 2, alias top-4"),
    ]
    assert summary.skipped == [("full", f"not evaluated: headimpact evaluate --model {MODEL} --setup full")]
    assert version("top-4").run_id == training
    assert version("layers-1-2").run_id != training  # trained elsewhere: in a run of its own
    assert "test/perplexity_difference" not in MlflowClient().get_run(training).data.metrics

    write_evaluation(HERE, "original")
    again = registration.register_all(config, MODEL)
    assert again.rows == summary.rows  # the same adapters, the same versions
    assert "test/perplexity_difference" in MlflowClient().get_run(training).data.metrics
    assert "(-" in str(version("top-4").description)
    assert len(table(training, "table4")) == 1


def test_an_experiment_is_registered_without_the_alias_and_says_how_to_move_it(project: Path, config: Config) -> None:
    write_adapter("top-4", b"first")
    write_evaluation(HERE, "top-4")
    registration.register_all(config, MODEL)
    write_adapter("top-4", b"second")
    header = layout.adapter(MODEL, "top-4") / "header.json"
    write_json(header, json.loads(header.read_text()) | {"overrides": {"train.lr": 0.5}})
    (_, told), (_, command) = registration.register_all(config, MODEL).rows
    assert told == (
        f"{NAME} version 2; the alias top-4 does not move to it: made with other values than params.yaml has "
        "(train.lr 0.5)"
    )
    assert int(version("top-4").version) == 1
    text = str(MlflowClient().get_model_version(NAME, "2").description)
    assert "Not the version of the alias: made with other values" in text
    exec(shlex.split(command)[2])  # python -c ...
    assert int(version("top-4").version) == 2


def test_nothing_to_register(project: Path, config: Config) -> None:
    assert registration.register_all(config, MODEL).rows == [("registered", "nothing: no adapter is trained")]
    write_adapter("top-4", b"weights")
    summary = registration.register_all(config, MODEL)
    assert summary.rows == [("registered", "nothing")]
    assert [what for what, _ in summary.skipped] == ["top-4"]
    assert MlflowClient().search_registered_models() == []
