"""A project whose stages take no time, and how it is after its first steps."""

import pickle
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import small_graph
import yaml

from headimpact.lifecycle import layout, pipeline, written
from headimpact.lifecycle.config import Grid

STEPS = ("data", "score", "select", "finetune")


def make_project(folder: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Path:
    """The real dvc.yaml and params.yaml in a folder of their own, in git: one model, two setups, a short script."""
    values = yaml.safe_load((project_root / "params.yaml").read_text())
    values["grid"] = {"models": [small_graph.MODEL], "setups": ["original", "top-4", "full"]}
    values["pretrain"]["models"] = [small_graph.MODEL]
    values["tournament"]["models"] = [small_graph.MODEL]
    root = folder / "project"
    root.mkdir()
    subprocess.run(["git", "init", "-q"], check=True, cwd=root)
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(written, "_PYTHON", "python -I -S script.py")
    (root / "dvc.yaml").write_text(written.graph(Grid(**values["grid"])))
    (root / "script.py").write_text(small_graph.SCRIPT)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    for kind in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
        monkeypatch.setenv(f"DVC_{kind}_DIR", str(folder / kind))
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(pipeline.checking, "verify", lambda folder: None)
    parse_once(monkeypatch)
    monkeypatch.chdir(root)
    return root


def parse_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC parses params.yaml for every stage: here once for every content of it, which was most of the time."""
    from dvc.utils.serialize import _yaml

    real = _yaml.parse_yaml
    parsed = cache(lambda text: pickle.dumps(real(text, "")))

    def parse(text: str, path: str, typ: str = "safe") -> object:
        if typ != "safe":
            return real(text, path, typ)
        try:
            return pickle.loads(parsed(text))
        except _yaml.YAMLFileCorruptedError:
            return real(text, path)

    monkeypatch.setattr(_yaml, "parse_yaml", parse)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Path:
    """Nothing is made yet."""
    return make_project(tmp_path, monkeypatch, project_root)


@pytest.fixture(scope="session")
def states(made_once: Callable[[str, Callable[[Path], object]], Path], project_root: Path) -> Path:
    """The project after each of STEPS, one run after the other; a folder each, to be copied."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            root = make_project(folder, patch, project_root)
            for step in STEPS:
                small_graph.run(step)
                small_graph.ran()
                shutil.copytree(root, folder / step, ignore=lambda folder, names: {"tmp"} & set(names))

    return made_once("states", make)


@pytest.fixture
def after(project: Path, states: Path) -> Callable[[str], None]:
    """Brings the project to where it is after a step."""

    def bring(step: str) -> None:
        shutil.copytree(states / step, project, dirs_exist_ok=True)

    assert layout.PARAMS.read_bytes() == (states / STEPS[0] / layout.PARAMS).read_bytes()
    return bring
