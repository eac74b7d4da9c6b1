"""The page on which the original and the adapters of a model answer side by side."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import tiny_folders
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest

from headimpact import hub
from headimpact.adapters import lora
from headimpact.errors import InputError
from headimpact.lifecycle import demo, layout
from headimpact.vlm import loading

MODEL = "tiny"
SETTINGS = lora.LoraSettings(rank=2, alpha=64, targets=("q_proj", "k_proj", "v_proj"))
PICTURE = Image.new("RGB", (96, 64), "red")


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return tiny_folders.saved("qwen2_vl")


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two adapters of a tiny model."""
    root = tmp_path_factory.mktemp("project")
    for setup in ("top-2", "layers:1,2"):
        base = loading.load(str(checkpoint))
        adapted = lora.attach(base, [1, 2], SETTINGS, seed=0)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.add_(1.0 if setup == "top-2" else -1.0)
        header = {"base": MODEL, "source": base.source, "base_digest": base.digest, "layers": [1, 2], "setup": setup}
        header |= {"base_settings": hub.settings_digests(checkpoint)}
        lora.save(adapted, root / layout.adapter(MODEL, setup), header)
    (root / layout.DATASET / "images").mkdir(parents=True)
    PICTURE.save(root / layout.DATASET / "images/000001.png")
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_original_and_every_adapter_answer_and_leave_the_base_as_it_was(project: Path, checkpoint: Path) -> None:
    vlm = loading.load(str(checkpoint))
    adapters = demo.trained(MODEL)
    assert adapters == {setup: layout.adapter(MODEL, setup) for setup in ("layers:1,2", "top-2")}
    told = dict(demo.answers(vlm, adapters, PICTURE, "What is this?", 4))
    assert list(told) == ["original", "layers:1,2", "top-2"]
    assert len(set(told.values())) > 1
    assert told["original"] == vlm.generate(PICTURE, "What is this?", max_new_tokens=4, do_sample=False)
    assert not [name for name, _ in vlm.model.named_modules() if "lora" in name]


def test_without_streamlit_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed: pip install -r requirements-demo\.txt"):
        demo.run(MODEL, "folder", None, 8501)


@pytest.fixture
def page(project: Path, checkpoint: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    (project / "params.yaml").write_text((project_root / "params.yaml").read_text())
    monkeypatch.setattr("sys.argv", ["demo_page.py", MODEL, str(checkpoint)])
    return AppTest.from_file(str(demo.PAGE), default_timeout=60).run()


def test_the_page_shows_an_answer_of_each(page: AppTest) -> None:
    assert not page.exception
    assert page.title[0].value == "tiny: the original and its adapters"
    page.button[0].click().run()
    assert not page.exception
    assert [header.value for header in page.subheader] == ["original", "layers:1,2", "top-2"]
    assert len(page.text) == 3


def test_what_a_person_can_mend_stands_on_the_page(page: AppTest) -> None:
    page.text_input[0].set_value("<|im_end|>")
    page.button[0].click().run()
    assert not page.exception
    assert page.error[0].value.startswith("The prompt holds a control token of the model")


def test_a_model_without_adapters_is_told(page: AppTest, project: Path) -> None:
    for header in layout.FINETUNED.rglob("header.json"):
        header.unlink()
    page.run()
    assert page.info[0].value == "There is no adapter yet: headimpact finetune --model tiny"
