"""The page on which the original and the adapters of a model answer side by side."""

import asyncio
import importlib.util
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import browser
import pytest
import tiny_folders
import torch
from PIL import Image
from streamlit import config
from streamlit.runtime import Runtime
from streamlit.testing.v1 import AppTest
from streamlit.web.server import Server

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


def test_a_picture_is_answered_side_by_side_in_a_browser(
    project: Path, checkpoint: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "params.yaml").write_text((project_root / "params.yaml").read_text())
    Image.new("RGB", (80, 60), "green").save(project / "mine.png")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr("sys.argv", ["demo_page.py", MODEL, str(checkpoint)])
    address = f"http://127.0.0.1:{port}"
    with _served(demo.options(port)), browser.chromium() as found, browser.opened(found, address) as shown:
        _answer(shown, project / "mine.png")


@contextmanager
def _served(options: dict[str, str]) -> Iterator[None]:
    """The page behind Streamlit's own server, in this process, which has imported everything already."""
    for name, value in options.items():
        config.set_option(name, json.loads(value) if value in ("true", "false") or value.isdigit() else value)
    started: Queue[tuple[asyncio.AbstractEventLoop, Server]] = Queue()

    async def serve() -> None:
        server = Server(str(demo.PAGE), False)
        await server.start()
        started.put((asyncio.get_running_loop(), server))
        await server.stopped

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, server = started.get(timeout=100)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join()
        Runtime._instance = None  # as AppTest leaves it


def _answer(shown: browser.Opened, picture: Path) -> None:
    page = shown.page
    page.set_default_timeout(100_000)
    page.get_by_role("heading", name="tiny: the original and its adapters").wait_for()
    page.locator("input[type=file]").set_input_files(picture)
    page.get_by_text("mine.png").wait_for()
    page.get_by_role("button", name="Answer").click()
    headings = [page.get_by_role("heading", name=name, exact=True) for name in ("original", "layers:1,2", "top-2")]
    headings[-1].wait_for()
    page.get_by_test_id("stText").nth(2).wait_for()
    boxes = [heading.bounding_box() for heading in headings]
    lefts, tops = zip(*[(box["x"], box["y"]) for box in boxes if box], strict=True)
    assert list(lefts) == sorted(set(lefts))
    assert len(set(tops)) == 1
    assert all(text.strip() for text in page.get_by_test_id("stText").all_inner_texts())
    assert shown.overflow == 0
    assert all("//127.0.0.1:" in address for address in shown.requests if not address.startswith("blob:"))


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
