"""The input that a version is registered with."""

import base64
import io
from pathlib import Path

import pandas as pd
import pytest
import tiny_folders
from PIL import Image

from headimpact.files import write_json
from headimpact.lifecycle import input_example, layout

MODEL, SETUP = "tiny", "top-2"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two test images with an object each, the second described best."""
    monkeypatch.chdir(tmp_path)
    (layout.DATASET / "images").mkdir(parents=True)
    images = [{"id": number, "file_name": f"{number}.png"} for number in (4, 7)]
    write_json(layout.DATASET / "annotations/test.json", {"images": images, "annotations": []})
    for number, colour in ((4, "red"), (7, "blue")):
        Image.new("RGB", (64, 48), colour).save(layout.DATASET / f"images/{number}.png")
    results = layout.evaluated_objects(MODEL, SETUP)
    results.parent.mkdir(parents=True)
    pd.DataFrame({"image_id": [4, 7], "object_id": [1, 2], "nll": [2.0, 0.5]}).to_parquet(results)
    return tmp_path


def picture(example: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(example["image"])))


def test_it_is_the_picture_that_is_described_best_with_the_prompt_that_was_trained(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(tiny_folders.saved("qwen2_vl"))
    (example,) = input_example.input_example(MODEL, SETUP, source, None)
    assert example["prompt"] == "What is this photo?"
    assert picture(example).getpixel((0, 0)) == (0, 0, 255)
    monkeypatch.setattr(input_example, "_LARGEST", 10)
    monkeypatch.setattr(input_example, "_SMALLER", (32, 32))
    (smaller,) = input_example.input_example(MODEL, SETUP, source, None)
    assert (picture(smaller).format, picture(smaller).size) == ("JPEG", (32, 24))


def test_without_a_base_results_or_images_there_is_none(project: Path) -> None:
    source = str(tiny_folders.saved("qwen2_vl"))
    assert input_example.input_example(MODEL, SETUP, "models/bases/none", None) == []
    assert input_example.input_example(MODEL, "original", source, None) == []
    write_json(layout.DATASET / "annotations/test.json", {"images": [], "annotations": []})
    assert input_example.input_example(MODEL, SETUP, source, None) == []
