"""``headimpact demo``: a page on which the original and the adapters of a model answer side by side."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from headimpact.adapters import lora
from headimpact.errors import InputError
from headimpact.files import read_json_object
from headimpact.lifecycle import layout
from headimpact.selection.grammar import ORIGINAL
from headimpact.vlm.base import Vlm

PAGE = Path(__file__).with_name("demo_page.py")
REQUIREMENTS = "requirements-demo.txt"


def trained(model: str) -> dict[str, Path]:
    """The adapters of a model that are trained, by setup."""
    headers = sorted((layout.FINETUNED / model).glob(f"*/adapter/{lora.HEADER}"))
    return {read_json_object(header, "setup")["setup"]: header.parent for header in headers}


def answers(
    vlm: Vlm, adapters: dict[str, Path], image: Image.Image, prompt: str, max_new_tokens: int
) -> Iterator[tuple[str, str]]:
    """What the original and every adapter answer, one after the other, each by its most probable tokens.

    Raises:
        InputError: the prompt is not one (:meth:`headimpact.vlm.base.Vlm.generate`), or an adapter is not of this base.
    """
    options = {"max_new_tokens": max_new_tokens, "do_sample": False}
    yield ORIGINAL, vlm.generate(image, prompt, **options)
    for setup, folder in adapters.items():
        adapted = lora.load(vlm, folder)
        try:
            yield setup, vlm.generate(image, prompt, **options)
        finally:
            adapted.unload()


def run(model: str, source: str, revision: str | None, port: int) -> int:
    """Serve the page on this machine alone, until Ctrl-C; gives the exit status.

    Raises:
        InputError: Streamlit is not installed.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise InputError(f"The page is made with Streamlit, which is not installed: pip install -r {REQUIREMENTS}")
    given = [text for name, value in options(port).items() for text in (f"--{name}", value)]
    page = [str(PAGE), *given, "--", model, source, *([revision] if revision else [])]
    return subprocess.run([sys.executable, "-m", "streamlit", "run", *page], check=False).returncode


def options(port: int) -> dict[str, str]:
    """How Streamlit serves the page."""
    return {
        "server.address": "127.0.0.1",
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
    }
