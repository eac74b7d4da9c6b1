"""The whole lifecycle by the real command lines, on a small dataset and a pretrained tiny base."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from headimpact.adapters import lora
from headimpact.data import coco
from headimpact.data.manifest import dataset_digest
from headimpact.errors import InputError
from headimpact.evaluation import metrics
from headimpact.files import read_json
from headimpact.lifecycle import command_line, graph, layout, params, pipeline
from headimpact.lifecycle.config import Job
from headimpact.lifecycle.steps import tournament as tournament_step
from headimpact.vlm import loading

pytestmark = pytest.mark.slow

MODEL = "tiny-smolvlm"
OUTSIDE = "layers:1,2"
PARTS = ("src", "models", "dvc.yaml", "dvc.lock", "MLproject", "conda.yaml", "requirements.txt", ".dvcignore")
PARTS += ("fingerprints.json", *(f"data/{step}.json" for step in ("download", "ground", "segment")))
SMALL = {"impact": 8, "train": 8, "val": 4, "test": 8}


def environment() -> dict[str, str]:
    """That of a person who has activated .venv."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_") and k != "DVC_STAGE"}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": "src",
        "MLFLOW_EXPERIMENT_NAME": "head-impact",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
    }


def run(project: Path, command: str, ok: bool = True) -> str:
    """Run a command in the project as a person would; gives what it printed."""
    done = subprocess.run(
        command, shell=True, cwd=project, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, output
    return output


def invoke(project: Path, *arguments: str, ok: bool = True) -> str:
    """As :func:`run` with a command of ours, in this process, which has imported everything already."""
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        for name in os.environ.keys() - environment().keys():
            patch.delenv(name)
        mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
        result = CliRunner().invoke(command_line.app, arguments)
    mlflow.set_tracking_uri(before)
    assert (result.exit_code == 0) == ok, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> tuple[Path, str]:
    """A copy of the project with a small dataset, and what ``mlflow run . -e finetune -P setup=top-4`` told in it."""
    folder = tmp_path_factory.mktemp("project")
    for part in PARTS:
        source, target = project_root / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    run(folder, "git init -q .")
    (folder / ".dvc").mkdir()
    shutil.copy(project_root / ".dvc/config", folder / ".dvc")
    values = yaml.safe_load((project_root / "params.yaml").read_text())
    values["scenes"]["sizes"] = SMALL
    values["train"] |= {"epochs": 2, "batch_images": 4, "checkpoint_steps": 2}
    values["grid"] = {"models": [MODEL], "setups": ["original", "top-4"]}
    values["tournament"] |= {"models": [MODEL], "rules": ["top", "first", "draw"], "ks": [1], "draws": 2}
    # One worker: another would spend most of its time importing.
    values["tournament"] |= {"seeds": [0, 1], "workers": 1}
    values["answer"] |= {"images": 4, "generated_images": 2, "max_new_tokens": 16}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder, run(folder, "mlflow run . -e finetune -P setup=top-4 --env-manager local")


@pytest.fixture(scope="module")
def project(finetuned: tuple[Path, str]) -> Path:
    return finetuned[0]


@pytest.fixture
def client(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    monkeypatch.chdir(project)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    yield MlflowClient()
    mlflow.set_tracking_uri(before)


def test_it_tells_what_was_made_first_trained_and_evaluated(finetuned: tuple[Path, str]) -> None:
    _, told = finetuned
    for stage in (f"score@{MODEL}", f"select@{MODEL}-top-4", f"evaluate@{MODEL}-original"):
        assert stage in told
    trained, evaluated = (told.index(f"{step} top-4 of {MODEL}") for step in ("finetune", "evaluate"))
    assert trained < evaluated
    assert re.search(r"perplexity.*against the original", told)
    assert f"head-impact-{MODEL} version 1, alias top-4" in told
    assert "skipped" in told[evaluated:]
    assert "there is no original" not in told[evaluated:]
    # Only one setup is there: another one is proposed to compare it with.
    assert f"headimpactfinetune--model{MODEL}--setupfull-4" in re.sub(r"[\s│]+", "", told)  # over two lines


def test_it_writes_what_it_promises(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    results, selection = read_json(layout.results(MODEL, "top-4")), read_json(layout.selection(MODEL, "top-4"))
    assert set(results) == {"model", "setup", "layers", "parameters", "metrics"}
    assert len(results["layers"]) == 4
    assert results["layers"] == selection["layers"]
    assert set(results["metrics"]) == {"perplexity", "accuracy", "ans_prob", "token_nll"}
    table = pd.read_csv(layout.impact_table(MODEL))
    best = table.groupby("layer")["hi"].mean().sort_values(ascending=False, kind="stable").index[:4]
    assert sorted(best) == selection["layers"]
    objects = pd.read_parquet(layout.evaluated_objects(MODEL, "top-4"))
    assert objects["correct"].mean() == pytest.approx(results["metrics"]["accuracy"]["value"])
    assert len(objects) == sum(len(sample.objects) for sample in coco.read_part(layout.DATASET, "test"))
    assert {path.name for path in layout.finetune(MODEL, "top-4").iterdir()} == {"adapter", "history.csv"}
    assert {path.name for path in layout.evaluation(MODEL, "top-4").iterdir()} == {
        "metrics.json",
        "objects.parquet",
        "results.json",
    }


def test_the_original_is_a_setup_without_layers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert [path.name for path in layout.finetune(MODEL, "original").iterdir()] == ["history.csv"]
    results = read_json(layout.results(MODEL, "original"))
    assert (results["layers"], results["parameters"]["trainable"]) == ([], 0)
    same = pd.read_parquet(layout.evaluated_objects(MODEL, "original"))["object_id"]
    assert same.equals(pd.read_parquet(layout.evaluated_objects(MODEL, "top-4"))["object_id"])


def test_one_run_carries_everything(project: Path, client: MlflowClient) -> None:
    version = client.get_model_version_by_alias(f"head-impact-{MODEL}", "top-4")
    assert version.tags["setup"] == "top-4"
    assert len(version.tags["layers"].split(",")) == 4
    assert version.tags["dataset_digest"] == dataset_digest(project / "data/dataset")
    tracked = client.get_run(str(version.run_id))
    assert (tracked.info.status, tracked.data.tags["step"]) == ("FINISHED", "finetune")
    assert tracked.data.params["setup"] == "top-4"
    assert tracked.data.params["lora.rank"] == "8"
    assert {"test/perplexity", "test/accuracy_difference", "parameters/trainable"} <= set(tracked.data.metrics)
    assert len(client.get_metric_history(str(version.run_id), "train/loss")) > 2
    change = metrics.differences(
        *(pd.read_parquet(layout.evaluated_objects(MODEL, setup)) for setup in ("top-4", "original"))
    )["perplexity"]
    assert tracked.data.metrics["test/perplexity_difference"] == pytest.approx(change.value)
    assert f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})" in str(version.description)
    names = {
        file.path
        for folder in ("", MODEL, "tables", "top-4")
        for file in client.list_artifacts(tracked.info.run_id, folder)
    }
    assert {f"{MODEL}/heatmap.png", f"{MODEL}/layers.png", "tables/table4.json", "tables/table5.json"} <= names
    assert {f"top-4/{name}" for name in ("adapter", "history.csv", "objects.parquet", "results.json")} <= names
    score = client.get_run(tracked.data.tags["score_run"])
    assert score.data.tags["step"] == "score"
    parts = {entry.dataset.name for entry in tracked.inputs.dataset_inputs}
    assert parts == {"scenes/train", "scenes/val", "scenes/test"}


def test_a_direct_run_leaves_nothing_to_reproduce(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert graph.stale([f"evaluate@{MODEL}-{setup}" for setup in ("original", "top-4")]) == []


def test_what_is_registered_stays_what_it_is(project: Path, client: MlflowClient) -> None:
    """By the command register, which logs and registers anew what the files hold."""
    before = {version.version: version.run_id for version in client.search_model_versions("")}
    assert f"head-impact-{MODEL} version 1, alias top-4" in invoke(project, "register")
    assert {version.version: version.run_id for version in client.search_model_versions("")} == before


def test_the_registered_version_answers_as_base_and_adapter_do(project: Path, client: MlflowClient) -> None:
    served = mlflow.pyfunc.load_model(f"models:/head-impact-{MODEL}@top-4")
    sample = coco.read_part(project / "data/dataset", "test")[0]
    image = base64.b64encode(sample.path.read_bytes()).decode()
    found = served.predict(pd.DataFrame([{"image": image, "prompt": "What is this photo?"}]))
    base = loading.load(str(project / "models/bases" / MODEL))
    lora.load(base, project / layout.adapter(MODEL, "top-4"))
    expected = base.generate(sample.image(), "What is this photo?", max_new_tokens=32, do_sample=False)
    assert found["text"].tolist() == [expected]
    assert expected.startswith("This is a photo of")


@pytest.fixture(scope="module")
def tournament(project: Path) -> str:
    """A tournament that was killed after its first run, and then gone on with; gives what it told at its end."""
    runs = project / f"outputs/tournament/runs/{MODEL}.parquet"
    with (project / "killed.log").open("w+") as log:
        command = [sys.executable, "-m", "headimpact", "tournament"]
        killed = subprocess.Popen(command, cwd=project, env=environment(), stdout=log, stderr=subprocess.STDOUT)
        while not runs.exists():
            assert killed.poll() is None, Path(log.name).read_text()
            time.sleep(0.05)
        killed.kill()
        killed.wait()
    first = pd.read_parquet(runs)
    told = invoke(project, "tournament")
    assert pd.read_parquet(runs).head(len(first)).equals(first)
    return told


def test_a_tournament_goes_on_where_it_was_killed_and_trains_what_rules_share_once(
    project: Path, tournament: str
) -> None:
    cells = pd.read_csv(project / "outputs/tournament/cells.csv", dtype={"layers": str})
    assert cells.groupby("rule").size().to_dict() == {"top": 2, "first": 2, "draw": 2}
    runs = pd.read_parquet(project / f"outputs/tournament/runs/{MODEL}.parquet")
    made = runs[["layers", "ranks", "seed"]].drop_duplicates()
    needed = cells[["layers", "rank", "seed"]].drop_duplicates()
    assert len(made) == len(needed) + 1  # the original
    assert len(needed) < len(cells)  # layer 0 is both first and top
    (told,) = re.findall(r"(\d+) trained, 6 compared", tournament)
    assert 0 < int(told) < len(made)
    assert not list((project / "outputs/checkpoints/tournament").rglob("*.safetensors"))


def test_a_tournament_tells_what_may_be_claimed(project: Path, tournament: str) -> None:
    folder = project / "outputs/tournament"
    changes = pd.read_csv(folder / "changes.csv")
    assert set(changes["rule"]) == {"top", "first", "draw"}
    assert (changes["low"] <= changes["value"]).all()
    assert (changes["value"] <= changes["high"]).all()
    assert set(pd.read_csv(folder / "comparisons.csv")["rival"]) == {"first", "draw"}
    verdicts = json.loads((folder / "verdicts.json").read_text())
    assert any("took the same layers as first-1" in sentence for sentence in verdicts[MODEL])
    assert (folder / "tournament.png").read_bytes().startswith(b"\x89PNG")
    chosen = json.loads((folder / f"selections/{MODEL}.json").read_text())
    assert set(chosen) == {"top-1", "first-1", "draw-1-0", "draw-1-1"}
    assert chosen["top-1"]["why"][0]["reason"].startswith("rank 1 of 14")


def test_the_runs_of_a_tournament_are_nested_under_one(tournament: str, client: MlflowClient) -> None:
    (experiment,) = [e for e in client.search_experiments() if e.name == "head-impact"]
    (parent,) = client.search_runs(
        [experiment.experiment_id], "tags.step = 'tournament' and attributes.status = 'FINISHED'"
    )
    nested = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(nested) == 6
    assert {child.data.tags["setup"] for child in nested} == {"top-1", "first-1", "draw-1-0", "draw-1-1"}
    assert {"test/perplexity", "test/accuracy", "parameters/trainable"} <= set(nested[0].data.metrics)
    names = {file.path for file in client.list_artifacts(parent.info.run_id, "tournament")}
    assert "tournament/tournament.png" in names
    assert {child.data.tags["cells_digest"] for child in nested} == {parent.data.tags["cells_digest"]}


def test_a_finished_tournament_trains_only_what_is_new(
    project: Path, tournament: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    begun: list[tournament_step.Task] = []
    monkeypatch.setattr(tournament_step, "work", lambda make, tasks, workers: begun.extend(tasks) or ())
    config = params.load(layout.PARAMS)
    assert tournament_step._train(config, [tournament_step._enter(config, MODEL)]) == 0
    assert begun == []
    more = params.load(layout.PARAMS, {"tournament.draws": "3"})
    drawn = tournament_step._enter(more, MODEL)
    known = pd.read_csv(layout.tournament_table("cells"), dtype={"layers": str})["layers"]
    new = {drawn.selections["draw-1-2"].layers} - {tuple(map(int, layers.split(","))) for layers in known}
    assert tournament_step._train(more, [drawn]) == len(new) == len(begun)


def test_a_setup_answers_beside_the_original(project: Path, client: MlflowClient) -> None:
    told = invoke(project, "answer", "--setup", "top-4")
    assert f"answer@{MODEL}-original" in told  # was missing, and built first
    assert "against the original" in told
    folder = layout.answers(MODEL, "top-4")
    assert {path.name for path in folder.iterdir()} == {"orders.parquet", "generated.parquet", "results.json"}
    for setup in ("original", "top-4"):
        orders = pd.read_parquet(layout.order_answers(MODEL, setup)).set_index("object_id")
        stored = pd.read_parquet(layout.evaluated_objects(MODEL, setup)).set_index("object_id")
        stored = stored.loc[orders.index]
        assert orders["image_id"].nunique() == 4
        assert orders["correct_one"].tolist() == stored["correct"].astype(float).tolist()
        assert orders["ans_prob_one"].tolist() == pytest.approx(stored["ans_prob"].tolist(), abs=1e-4)
        generated = pd.read_parquet(layout.generated(MODEL, setup)).drop_duplicates("object_id")
        expected = -stored.loc[generated["object_id"], "nll"]
        assert generated["reference_log_prob"].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    (answered,) = client.search_runs(["1"], "tags.step = 'answer' and tags.setup = 'top-4'")
    results = read_json(layout.answer_results(MODEL, "top-4"))
    for name, figure in results["metrics"].items():
        assert answered.data.metrics[f"test/{name}"] == figure["value"]
        assert f"test/{name}_difference" in answered.data.metrics
    page = mlflow.artifacts.load_text(f"runs:/{answered.info.run_id}/gallery.html")
    assert page.count("data:image/jpeg") == 2
    assert '<th scope="col">original</th>' in page
    assert graph.stale([f"answer@{MODEL}-top-4"]) == []


def test_an_adapter_is_refused_on_another_base(project: Path) -> None:
    other = loading.load(str(project / "models/bases/tiny-qwen2-vl"))
    with pytest.raises(InputError, match="was trained on"):
        lora.load(other, project / layout.adapter(MODEL, "top-4"))


def test_what_is_only_known_after_the_scoring_gets_one_message_and_changes_nothing(project: Path) -> None:
    before = sorted(path for path in (project / "outputs").rglob("*") if path.is_file())
    told = invoke(project, "finetune", "--setup", "top-99", ok=False)
    assert "the model has 14" in told
    assert "Traceback" not in told
    assert sorted(path for path in (project / "outputs").rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(
    "edited",
    [
        layout.DATASET / "annotations/test.json",
        layout.DATASET / "images/000001.png",
        layout.impact_table(MODEL),
    ],
)
def test_files_edited_by_hand_are_refused_and_left_alone(
    project: Path, edited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(graph, "reproduce", lambda stages: pytest.fail("it was made again"))
    original = edited.read_bytes()
    # DVC may have linked the file into its cache, which must stay whole.
    edited.unlink()
    edited.write_bytes(original[: len(original) // 2])
    try:
        config = params.load(layout.PARAMS)
        with pytest.raises(InputError, match=re.escape(edited.as_posix())):
            pipeline.run("finetune", config, Job(MODEL, OUTSIDE), False, lambda step: pytest.fail("it ran"))
        assert edited.read_bytes() == original[: len(original) // 2]
    finally:
        edited.write_bytes(original)


def test_a_pulled_dataset_is_not_built_again(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a remote that is a local folder, into a clone without data."""
    clone = tmp_path / "clone"
    left_out = shutil.ignore_patterns("outputs", "mlruns", "mlflow.db*", "dataset", "cache", "tmp")
    shutil.copytree(project, clone, ignore=left_out)
    assert not (clone / layout.DATASET).exists()
    remote = f"[core]\n    remote = shared\n['remote \"shared\"']\n    url = {tmp_path / 'remote'}\n"
    for folder in (project, clone):
        (folder / ".dvc/config.local").write_text(remote)
    run(project, "dvc push data")
    run(clone, "dvc pull data")
    assert dataset_digest(clone / layout.DATASET) == dataset_digest(project / layout.DATASET)
    assert (clone / layout.DATASET_LOOK / "contact_sheet.png").is_file()
    monkeypatch.chdir(clone)
    assert graph.stale(["data"]) == []
