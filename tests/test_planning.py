"""Plans: parameters exactly as in table 5, weights exactly, the rest as estimates that move the right way."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_families import real

from headimpact.adapters import cost, lora
from headimpact.data import coco
from headimpact.data.samples import Sample, key_object
from headimpact.engine.phrases import caption_loss
from headimpact.errors import InputError
from headimpact.lifecycle import config, layout, params, tracking
from headimpact.lifecycle.steps import plan
from headimpact.selection.setups import check_setup
from headimpact.tiny import bases
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm

SETTINGS = lora.LoraSettings(rank=8, alpha=16, targets=("q_proj", "k_proj", "v_proj"))
LOAD = cost.Workload(images=8, visual=1000.0, tokens=1100.0, answers=30.0, blocks=1.0)


@pytest.mark.parametrize(
    ("family", "base", "on_four", "on_all"),
    [
        ("paligemma", 3_033_127_152, 352_256, 2_289_664),
        ("qwen2_vl", 2_208_985_600, 212_992, 1_490_944),
        ("idefics3", 2_246_272_880, 393_216, 2_359_296),
    ],
)
def test_parameters_are_those_of_table_5(family, base, on_four, on_all):
    model = real(family)
    four, full = [3, 4, 5, 6], cost.setup_layers(check_setup("full"), model.layers)
    assert cost.count_parameters(model, four, SETTINGS) == lora.Parameters(base + on_four, on_four)
    assert cost.count_parameters(model, full, SETTINGS) == lora.Parameters(base + on_all, on_all)
    assert cost.count_parameters(model, [], SETTINGS) == lora.Parameters(base, 0)
    assert lora.adapted_modules(model.model) == []
    assert all(parameter.requires_grad for parameter in model.model.parameters())
    assert type(model.model) is model.model_class


def test_setups_stand_for_as_many_layers_as_they_train():
    counts = {setup: cost.setup_layers(check_setup(setup), 12) for setup in ("original", "top-4", "random-2")}
    assert counts == {"original": [], "top-4": [0, 1, 2, 3], "random-2": [0, 1]}
    assert cost.setup_layers(check_setup("full"), 3) == [0, 1, 2]
    assert cost.setup_layers(check_setup("layers:6,8,9"), 12) == [6, 8, 9]


@pytest.mark.parametrize("name", bases.TINY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_are_exact(name, dtype):
    model = bases.build(name, 0)
    model.model.to(dtype)
    held = sum(parameter.numel() * parameter.element_size() for parameter in model.model.parameters())
    assert cost.estimate(model, LOAD, None, 0, dtype).weights == held


@pytest.mark.parametrize("name", bases.TINY)
def test_the_activations_are_about_what_the_backward_keeps(name):
    model, phrases, images = bases.build(name, 0), ("red circle", "blue star upper left", "dog"), 2
    lora.attach(model, [4, 9], SETTINGS, 0)
    load = cost.workload(model, [(160, 160, phrases)], images)
    estimated = cost.estimate(model, load, 4, 0, torch.float32).activations
    kept = _kept(model, phrases, images)
    assert 0.8 * kept < estimated < 1.6 * kept


def _kept(model: Vlm, phrases: Sequence[str], images: int) -> int:
    """Bytes that autograd keeps for the backward of a training step."""
    masks = torch.ones(160, 160, dtype=torch.bool).numpy()
    objects = tuple(key_object(i, phrase, masks, 1.0) for i, phrase in enumerate(phrases))

    class Blank(Sample):
        def image(self) -> Image.Image:
            return Image.new("RGB", (160, 160), (90, 20, 200))

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.model.parameters()}
    kept = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), storage)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        caption_loss(model, [Blank(i, Path("none"), 160, 160, objects) for i in range(images)])
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("family", ["paligemma", "qwen2_vl", "idefics3"])
def test_estimates_of_real_bases_move_the_right_way(family):
    model = real(family)
    half = cost.estimate(model, LOAD, 0, 400_000, torch.bfloat16)
    assert half.adapter == 6_400_000
    assert half.memory == half.weights + half.adapter + half.activations
    assert cost.estimate(model, LOAD, 0, 400_000, torch.float32).memory > 1.25 * half.memory
    later = cost.estimate(model, LOAD, model.layers - 1, 400_000, torch.bfloat16)
    forward = cost.estimate(model, LOAD, None, 0, torch.bfloat16)
    assert forward.flops < later.flops < half.flops < 3 * forward.flops
    assert forward.activations <= later.activations < half.activations
    double = cost.estimate(model, replace(LOAD, images=16), 0, 400_000, torch.bfloat16)
    assert double.flops == pytest.approx(2 * half.flops)
    assert double.activations == pytest.approx(2 * half.activations)
    # 2 operations a parameter and token, at least.
    decoder = sum(p.numel() for p in model.decoder.get_submodule("layers").parameters())
    assert forward.flops > 2 * decoder * LOAD.tokens * LOAD.images


@pytest.mark.parametrize("name", bases.TINY)
def test_the_workload_is_that_of_the_packed_sequences(name):
    model = bases.build(name, 0)
    image = model.encode_image(Image.new("RGB", (160, 96)))
    one = model.tokenize(model.caption("dog"), image.grid)
    load = cost.workload(model, [(160, 96, ["dog"])], 4)
    assert load == cost.Workload(
        4, float(image.grid.tokens), float(len(one.ids)), float(len(one.answer)), float(image.grid.blocks)
    )
    two = cost.workload(model, [(160, 96, ["dog", "red circle"]), (96, 160, ["dog"])], 4)
    assert load.tokens < two.tokens < 2 * load.tokens


def test_a_rate_is_measured():
    assert cost.measure_rate(torch.device("cpu"), torch.float32, seconds=0.01) > 1e6


# ---- the step


@pytest.fixture
def settings(project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Config:
    """params.yaml with a base in a folder that holds no weights, in a project without a dataset."""
    folder = tmp_path / layout.base("tiny-smolvlm")
    bases.save(bases.build("tiny-smolvlm", 0), folder)
    (folder / "model.safetensors").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(tracking.RUN, raising=False)
    monkeypatch.setattr(cost, "measure_rate", lambda device, dtype: 1e9)
    overrides = {"train.batch_images": "4", "train.accumulation": "2"}
    return params.load(project_root / "params.yaml", overrides)


JOB = config.Job("tiny-smolvlm", "top-4")


def test_a_plan_without_a_dataset_says_what_it_assumes(settings):
    told = plan.run(settings, JOB)
    rows = dict(told.rows)
    assert [name for name, _ in told.rows if name in ("original", *settings.grid.setups)] == [
        "original",
        *settings.grid.setups,
    ]
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
    assert told.run is None
    assert told.next == "headimpact score --model tiny-smolvlm"


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
    told = dict(plan.run(settings.model_copy(update={"compute": compute}), JOB).rows)["estimates"]
    assert "there is no cuda here: 70 TFLOP/s assumed" in told
    assert "base in bfloat16" in told


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
