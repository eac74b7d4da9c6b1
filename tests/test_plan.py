"""The step plan: what it assumes, what it says, and what it leaves alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from family_facts import tiny

from headimpact.adapters import cost
from headimpact.data import coco
from headimpact.data.samples import Sample, key_object
from headimpact.errors import InputError
from headimpact.lifecycle import config, layout, params, tracking
from headimpact.lifecycle.steps import plan
from headimpact.tiny import bases
from headimpact.vlm import loading


@pytest.fixture(scope="module")
def without_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an embedded base that holds no weights."""
    folder = tmp_path_factory.mktemp("base") / "tiny-smolvlm"
    bases.save(bases.build("tiny-smolvlm", 0), folder)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def settings(
    project_root: Path, without_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> config.Config:
    """params.yaml with that base, in a project without a dataset."""
    shutil.copytree(without_weights, tmp_path / layout.base("tiny-smolvlm"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(tracking.RUN, raising=False)
    monkeypatch.setattr(cost, "measure_rate", lambda device, dtype: 1e9)
    overrides = {"train.batch_images": "8"}
    return params.load(project_root / "params.yaml", overrides)


JOB = config.Job("tiny-smolvlm", "top-4")


def test_a_plan_without_a_dataset_says_what_it_assumes(settings):
    summary = plan.run(settings, JOB)
    rows = dict(summary.rows)
    assert settings.grid.setups[0] == "original"
    assert [name for name, _ in summary.rows if name in settings.grid.setups] == list(settings.grid.setups)
    assert rows["layers x heads"] == "14 x 6 (6 key-value heads)"
    assert "640x480, COCO's most common size" in rows["visual tokens"]
    assert rows["top-4"].startswith("trainable 18,432 of 1,851,168 (0.9957 %); estimate: ")
    assert rows["full"].startswith("trainable 64,512 of 1,897,248 (3.4003 %); estimate: ")
    assert rows["original"].startswith("1,832,736 parameters; estimate: ")
    assert "7 MB of it weights" in rows["top-4"]
    assert "a step of 8 images" in rows["top-4"]
    assert "epoch" not in rows["top-4"]
    assert "assumed to reach 40%" in rows["estimates"]
    assert "measured in a matrix product on cpu" in rows["estimates"]
    assert "params.yaml" not in rows
    assert summary.run is None
    assert summary.next == "headimpact score --model tiny-smolvlm"


def test_a_plan_uses_the_datasets_own_images(settings, tmp_path, monkeypatch):
    samples = []
    mask = torch.ones(96, 160, dtype=torch.bool).numpy()
    for i in range(5):
        objects = (key_object(i, "red circle", mask, 1.0),)
        samples.append(Sample(i, tmp_path / f"{i}.png", 160, 96, objects))
    monkeypatch.setattr(plan, "read_part", lambda part: samples)
    path = coco.annotation_path(layout.DATASET, "train")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    rows = dict(plan.run(settings, JOB).rows)
    assert rows["visual tokens"].startswith("80 (5 images of data/")
    assert "with 1.0 descriptions" in rows["tokens an image"]
    assert "an epoch of 5" in rows["top-4"]
    samples.clear()
    with pytest.raises(InputError, match="has no image with an object in its part train"):
        plan.run(settings, JOB)


def test_a_plan_for_a_gpu_that_is_not_here_says_so(settings, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    compute = settings.compute.model_copy(update={"device": "cuda"})
    estimates = dict(plan.run(settings.model_copy(update={"compute": compute}), JOB).rows)["estimates"]
    assert "there is no cuda here: 70 TFLOP/s assumed" in estimates
    assert "base in bfloat16" in estimates


def test_a_plan_names_the_commit_of_a_branch(settings, monkeypatch):
    skeleton = loading.skeleton

    def from_the_hub(source, revision):
        base = skeleton(source, revision)
        base.revision = "c" * 40
        return base

    monkeypatch.setattr(loading, "skeleton", from_the_hub)
    rows = dict(plan.run(settings, JOB).rows)
    assert rows["params.yaml"].endswith(f"revision: {'c' * 40}")
    assert rows["base"].endswith(f"at {'c' * 40}")


def test_a_plan_of_a_hybrid_says_what_it_cannot_do(settings, monkeypatch):
    hybrid = tiny("qwen3_5")
    monkeypatch.setattr(loading, "skeleton", lambda source, revision: hybrid)
    rows = dict(plan.run(settings, config.Job("tiny-smolvlm", "top-2")).rows)
    assert rows["attention"] == "in the layers 1, 3 alone: only they are scored, chosen and adapted"
    assert rows["single heads"].startswith("cannot be adapted: each head's rows of its q_proj hold a query and the ")
    assert "each in a sequence of its own" in rows["tokens an image"]
    assert rows["top-4"].startswith("not possible: Setup 'top-4' asks for 4 layers, but the model has 2 of 4 that")
    assert rows["top-2"].startswith("trainable ")
    assert rows["full"] == rows["top-2"]
    with pytest.raises(InputError, match=r"^Single heads of tiny qwen3_5 cannot be adapted: each head's rows"):
        plan.run(settings, config.Job("tiny-smolvlm", "heads:top-4"))
    with pytest.raises(InputError, match=r"^Setup 'top-3' asks for 3 layers"):
        plan.run(settings, config.Job("tiny-smolvlm", "top-3"))


def test_a_plan_logs_its_parameters_into_the_run_that_is_there_and_opens_none(settings, monkeypatch):
    opened, logged = [], {}

    class Run:
        def __enter__(self):
            opened.append(True)

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(tracking, "run", lambda step, model: Run())
    monkeypatch.setattr(tracking, "log_parameters", logged.update)
    plan.run(settings, JOB)
    assert not opened
    monkeypatch.setenv(tracking.RUN, "some-run")
    plan.run(settings, JOB)
    assert opened == [True]
    assert json.dumps(sorted(logged)) == '["model", "revision", "source"]'
