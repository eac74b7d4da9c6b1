"""The benchmark of speed: what people would otherwise write gives the engine's numbers, and the page shows the rest."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speed as benchmark
import subjects
import tasks
from tasks import WAYS, Case

from headimpact.data.samples import Sample
from headimpact.errors import InputError
from headimpact.files import write_json
from headimpact.lifecycle import layout, pages, speed
from headimpact.tiny import bases
from headimpact.vlm import loading

BASE = "tiny-qwen2-vl"


@pytest.mark.parametrize(("task", "images", "layers"), [("score", 3, ()), ("evaluate", 3, ()), ("train", 8, (7, 13))])
def test_every_way_gives_the_same_numbers(
    project_root: Path, monkeypatch: pytest.MonkeyPatch, task: str, images: int, layers: tuple[int, ...]
) -> None:
    monkeypatch.chdir(project_root)
    group = [Case("tiny", BASE, task, way, images, 3, layers) for way in WAYS[task]]
    measured = [tasks.measure(case) for case in group]
    assert all(benchmark.difference(measured[0], other) <= benchmark.TOLERANCE[task] for other in measured)
    assert all(np.isfinite(result.numbers).all() for result in measured)
    assert len(measured[0].numbers) == len(measured[1].numbers) > 1
    assert all(result.processor > 0 and result.peak > 0 for result in measured)
    # An image goes through its processor once; in training the one that validates, too.
    assert measured[0].passes == images + (task == "train")


@pytest.mark.parametrize("size", ["geometry", "width"])
def test_bases_have_the_real_geometry(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects.checkpoints, "random_model", _without_weights)
    for base, (tokens, width) in {
        "tiny-paligemma2": (1024, 2304),
        "tiny-qwen2-vl": (391, 1536),
        "tiny-smolvlm": (1053, 2048),
    }.items():
        vlm = subjects.build(size, base)
        assert vlm.grid(640, 480).tokens == tokens
        assert vlm.text_config.hidden_size == (width if size == "width" else bases.WIDTH)
        assert vlm.text_config.vocab_size >= len(vlm.tokenizer)
        assert vlm.layers == subjects.DECODER_LAYERS[size]


def _without_weights(family: Any, config: Any, device: Any, dtype: Any) -> Any:
    import torch

    with torch.device("meta"):
        return family.model_class(config)


def test_images_have_as_many_objects_as_asked_for(tmp_path: Path, project_root: Path) -> None:
    three, many = (subjects.draw("tiny", 2, count, tmp_path) for count in (3, 10))
    assert [len(sample.objects) for sample in [*three, *many]] == [3, 3, 10, 10]
    assert _phrases(many[0])[:3] == _phrases(three[0])
    assert len({obj.id for sample in many for obj in sample.objects}) == 20
    assert loading.load(str(project_root / layout.base(BASE))).encode_image(many[0].image()).grid.tokens > 0


def _phrases(sample: Sample) -> list[str]:
    return [obj.phrase for obj in sample.objects]


def test_a_way_with_other_numbers_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    group = [Case("tiny", BASE, "score", way, 2) for way in WAYS["score"][:2]]
    measured = [tasks.Measured(1.0, 1.0, 1.0, 2, 0.5, [0.25, value]) for value in (0.5, 0.6)]
    monkeypatch.setattr(benchmark, "measure", lambda group: measured)
    with pytest.raises(SystemExit, match=r"its numbers are up to 0\.1 from those of the engine"):
        benchmark.records(group)
    monkeypatch.setattr(benchmark, "measure", lambda group: measured[:1] * 2)
    assert [record["apart"] for record in benchmark.records(group)] == [0.0, 0.0]


def _record(task: str, way: str, processor: float, **others: Any) -> dict[str, Any]:
    case = asdict(Case("tiny", "tiny-smolvlm", task, way, 4)) | {"layers": []}
    taken = {"processor": processor, "seconds": 9.0, "peak": 512.4, "passes": 4, "forward": 1.0, "first": 6.0}
    return case | taken | {"apart": 2e-7} | others


def test_new_records_take_the_place_of_old_ones() -> None:
    old = [_record("score", "engine", 1.0), _record("score", "plain forward", 1.0)]
    merged = benchmark.merge(old, [_record("score", "engine", 2.0), _record("score", "engine", 3.0, growth=True)])
    assert [(record["way"], record["processor"]) for record in merged] == [
        ("engine", 2.0),
        ("plain forward", 1.0),
        ("engine", 3.0),
    ]


def test_the_page_has_a_table_a_task(tmp_path: Path) -> None:
    found = [
        _record("score", "engine", 2.0),
        _record("score", "eager, a sequence an object", 6.0),
        _record("score", "plain forward", 1.0, forward=0.5),
        _record("train", "engine", 2.0, layers=[7, 9]),
        _record("train", "Trainer and PEFT", 9.0, layers=[7, 9]),
        _record("evaluate", "engine", 2.0),
        _record("evaluate", "padded, a sequence a phrase and question", 5.0),
        _record("evaluate", "one by one, four sequences a question", 20.0),
        _record("score", "engine", 2.0, growth=True, objects=60),
        _record("score", "eager, a sequence an object", 80.0, growth=True, objects=60),
        _record("evaluate", "engine", 2.0, growth=True),
        _record("evaluate", "padded, a sequence a phrase and question", 5.0, growth=True),
    ]
    names = [f"speed{name}" for name in ("scoring", "training", "evaluation", "growth")]
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("".join(f"<!-- {n}:start -->\n<!-- {n}:end -->\n" for n in names))
    empty = pages.pages(tmp_path)[Path("README.md")]
    assert empty.count("Not there yet: `python benchmarks/speed.py` makes it.") == 4
    write_json(tmp_path / layout.SPEED, found)
    text = pages.pages(tmp_path)[Path("README.md")]
    assert "| tiny | smolvlm | 0.5 | 3.0 x | 2.00 | 2.00 | 1 | 512 / 512 |" in text
    assert "| tiny | smolvlm | 7, 9 | 1.5 | 0.5 | 2.25 | 4.5 x | 512 / 512 | 2e-07 |" in text
    assert "| tiny | smolvlm | 0.5 | 2.5 x | 10.0 x | 512 / 512 |" in text
    assert "| score | 4 | 60 | 0.5 | 20 | 512 / 512 |" in text
    assert "| evaluate | 4 | 3 | 0.5 | 1.25 | 512 / 512 |" in text


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text("[")
    with pytest.raises(InputError, match="is not valid JSON"):
        speed.groups(tmp_path / "speed.json", "score")
