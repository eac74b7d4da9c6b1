"""Draws docs/mlflow-*.png: MLflow's pages of this project, as a person finds them.

    python benchmarks/mlflow_pictures.py --model tiny-smolvlm

Run it in a project folder with a few finished adapters. It starts ``mlflow ui`` on a free port and ends it; it needs
playwright (requirements-dev.txt) and a chromium.
"""

import argparse
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from playwright.sync_api import Page, sync_playwright

WIDTH, HEIGHT = 1600, 640
_SECONDS = 120


def main() -> None:
    """Draw the runs table, the tab Models and a registered model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-smolvlm", help="whose registered model is shown")
    parser.add_argument("--to", type=Path, default=Path("docs"), help="folder of the pictures")
    given = parser.parse_args()
    experiment = mlflow.get_experiment_by_name("head-impact")
    if experiment is None:
        sys.exit("There is no experiment head-impact here: run headimpact finetune first.")
    of_training, number = "workflowType=machine_learning", experiment.experiment_id
    pages = {  # and what stands on each once it is drawn
        "runs": (f"experiments/{number}/runs?viewStateShareKey=adapters&{of_training}", "test/accuracy"),
        "models": (f"experiments/{number}/models?{of_training}", f"{given.model}-"),
        "registered": (f"models/head-impact-{given.model}?{of_training}", "LoRA adapters of"),
    }
    with _server() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for name, (path, text) in pages.items():
            _draw(page, f"{address}/#/{path}", text, given.to / f"mlflow-{name}.png")
        browser.close()


def _draw(page: Page, address: str, text: str, picture: Path) -> None:
    page.goto(address)
    page.get_by_text(text).first.wait_for(timeout=1000 * _SECONDS)
    for aside in page.get_by_role("button", name=re.compile("close", re.IGNORECASE)).all():  # an assistant, a notice
        if aside.is_visible():
            aside.click()
    page.wait_for_timeout(5000)
    page.screenshot(path=picture)
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


@contextmanager
def _server() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(_SECONDS):
            try:
                urllib.request.urlopen(f"{address}/health")
                break
            except urllib.error.URLError:
                time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
