"""The rehearsal: true checkpoints with random weights, tried under a clock before anything is fetched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from family_facts import facts, families
from typer.testing import CliRunner

from headimpact import clock
from headimpact.adapters import lora
from headimpact.errors import InputError
from headimpact.lifecycle import command_line, layout, pages, params
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.rehearsal import checkpoints, images, memory, outcome, runs
from headimpact.lifecycle.steps import rehearse
from headimpact.vlm import settings as vlm_settings
from headimpact.vlm.families import family_class, find

MODEL = "tiny-qwen2-vl"
CPU = torch.device("cpu")


@pytest.fixture
def config(project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    loaded = params.load(project_root / layout.PARAMS)
    base = loaded.models[MODEL].model_copy(update={"source": str(project_root / layout.base(MODEL))})
    compute = loaded.compute.model_copy(update={"device": "cpu"})
    return loaded.model_copy(update={"models": loaded.models | {MODEL: base}, "compute": compute})


# ---- the clock


def test_a_part_counts_without_the_parts_within_it() -> None:
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    with clock.running(CPU, lambda: next(now)) as times, clock.part("decoder"), clock.part("capture"):
        pass
    assert times.seconds == {"other": 1 + 5, "decoder": 2 + 4, "capture": 3}


def test_without_a_clock_nothing_is_measured_and_two_do_not_run_at_once() -> None:
    with clock.part("decoder"):
        pass
    with clock.running(CPU) as times:
        with pytest.raises(RuntimeError, match="A clock runs already"), clock.running(CPU):
            pass
        with pytest.raises(ValueError, match="within"), clock.part("decoder"):
            raise ValueError("within")
    assert set(times.seconds) == {"other", "decoder"}


def test_memory_is_watched_while_it_is_taken() -> None:
    size = 2**28
    with memory.watched(CPU) as before:
        pass
    with memory.watched(CPU) as peak:
        taken = torch.ones(size, dtype=torch.uint8)
        del taken
    assert peak.bytes > before.bytes + size // 2


# ---- checkpoints


@families()
def test_a_published_checkpoint_has_its_true_size(family: str) -> None:
    known = [of for of in checkpoints.published().values() if find(of.config) == family]
    assert facts(family).parameters in [of_checkpoint.parameters for of_checkpoint in known]
    for of_checkpoint in known:
        vlm = checkpoints.build(of_checkpoint.source, None, torch.device("meta"), torch.bfloat16)
        assert lora.count_parameters(vlm.model).total == of_checkpoint.parameters
        assert vlm.grid(640, 480) == facts(family).grid_at_640x480
        assert {parameter.dtype for parameter in vlm.model.parameters()} == {torch.bfloat16}
        assert torch.get_default_dtype() == torch.float32
        vlm_settings.check(vlm)


def test_every_model_of_params_is_there_without_a_download(project_root: Path) -> None:
    models = params.load(project_root / layout.PARAMS).models
    sources = {base.source for base in models.values() if not (project_root / base.source).is_dir()}
    assert sources == set(checkpoints.published())
    assert {checkpoints.stands_in(source) for source in sources} < set(models)


def test_another_checkpoint_is_made_from_its_small_files(project_root: Path) -> None:
    folder = str(project_root / layout.base(MODEL))
    vlm = checkpoints.build(folder, None, CPU, torch.float32)
    assert (vlm.source, checkpoints.stands_in(folder)) == (folder, None)
    assert vlm.device == CPU
    weight = next(vlm.model.parameters())
    assert weight.isfinite().all()
    assert weight.std() > 0


def test_weights_that_do_not_fit_are_told(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(family_class("qwen2_vl"), "model_class", full)
    with pytest.raises(InputError, match=r"do not fit into the memory of cpu in torch\.float32: take a larger device"):
        rehearse._build("Qwen/Qwen2-VL-2B-Instruct", None, CPU, torch.float32)


# ---- images


def test_images_are_of_real_size_and_can_be_asked_about(tmp_path: Path) -> None:
    samples = images.draw(3, tmp_path)
    assert [sample.image().size for sample in samples] == [(640, 480)] * 3
    assert len({obj.id for sample in samples for obj in sample.objects}) == 9
    for sample in samples:
        assert all(obj.mask().shape == (480, 640) and obj.shows_something for obj in sample.objects)
    first, second = ({obj.phrase for obj in sample.objects} for sample in samples[:2])
    assert (len(first), len(second), first & second) == (3, 3, set())


# ---- the whole


def test_everything_is_tried_and_kept(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = rehearse.run(config, Job(MODEL, "top-4"), 2)
    (path,) = summary.files
    assert path == layout.rehearsal(MODEL, "cpu")
    found = outcome.load(path)
    assert [run.what for run in found.runs] == [
        "score",
        "evaluate",
        "train last 4",
        "train first 4",
        "train last 4, checkpointed",
        "train first 4, checkpointed",
    ]
    parts = {"data", "vision", "decoder", "other"}
    scored, evaluated, *trained = found.runs
    assert set(scored.seconds) == {*parts, "capture", "IoU"}
    assert set(evaluated.seconds) == parts
    assert all(set(run.seconds) == {*parts, "backward"} for run in trained)
    assert all(second >= 0 for run in found.runs for second in run.seconds.values())
    assert all(run.peak > 0 for run in found.runs)
    assert all(run.processor > 0 for run in found.runs)
    # The first layers' backward is longer; with checkpoints less is kept.
    assert trained[0].planned_seconds < trained[1].planned_seconds < trained[3].planned_seconds
    assert trained[3].planned_peak < trained[1].planned_peak
    assert (evaluated.planned_seconds, evaluated.planned_peak) == (None, None)
    assert "random weights in float32 on a CPU" in found.told
    assert "tokenizer" not in found.told
    shown = capsys.readouterr().out
    assert all(words.split()[0] in shown for words in outcome.PARTS.values())
    assert summary.next == f"headimpact score --model {MODEL}"


def test_what_does_not_fit_is_told_and_the_rest_is_tried(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> Callable[..., None]:
        def raises(*arguments: object) -> None:
            raise error

        return raises

    monkeypatch.setattr(
        runs, "score_images", fails(InputError("The device's memory is too small for one sequence of 9 tokens"))
    )
    monkeypatch.setattr(runs, "evaluate", fails(torch.OutOfMemoryError("tried to allocate 2 GiB")))
    monkeypatch.setattr(runs.Training, "optimize", lambda self, images: None)
    summary = rehearse.run(config, Job(MODEL, "top-4"), 2)
    assert [what for what, _ in summary.skipped] == ["score", "evaluate"]
    assert [why for _, why in summary.skipped] == [
        "The device's memory is too small for one sequence of 9 tokens",
        "tried to allocate 2 GiB",
    ]
    _, rows = outcome.table(outcome.load(summary.files[0]))
    assert rows[0][1:3] == ["not possible"] * 2
    assert "not possible" not in rows[0][3:]


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"model": "a"}')
    with pytest.raises(InputError, match="is not what `headimpact rehearse` writes"):
        outcome.load(tmp_path / "a.json")


def test_the_page_shows_every_rehearsal(tmp_path: Path) -> None:
    run = outcome.Run("score", {"data": 0.5, "vision": 1.5}, 3.0, 2_000_000_000, 1.0, 1e9)
    found = outcome.Outcome(
        "a", "b/a", 1234, 9, "tiny-a", "a GPU", "bfloat16", 2, (640, 480), 3, 4096, [run, replace(run, problem="no")]
    )
    for name in ("a-cpu", "a-cuda"):
        found.save(tmp_path / layout.REHEARSALS / f"{name}.json")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- rehearsals:start -->\n<!-- rehearsals:end -->\n")
    text = pages.pages(tmp_path)[Path("README.md")]
    assert text.count("a: 1,234 random weights in bfloat16 on a GPU, 2 images of 640x480 (9 visual tokens)") == 2
    assert "tokenizer of tiny-a" in text
    assert "| s / image | 2 | not possible |" in text
    assert "| processor s / image | 3 |  |" in text
    assert "| peak GB | 2.00 |  |" in text


def test_an_image_alone_is_refused(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root)
    result = CliRunner().invoke(command_line.app, ["rehearse", "--images", "1"])
    assert result.exit_code == 2
    assert "should be greater than or equal to 2" in result.output
