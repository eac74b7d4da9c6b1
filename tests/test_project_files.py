"""The project's files agree with each other: every fact has one home, and its copies are held to it here."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from headimpact.files import read_json
from headimpact.lifecycle import code, layout, params, written
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.registry import STEPS, locate

WRITE = "Run `headimpact write` and commit what it changes."


@pytest.fixture(scope="module")
def config(project_root: Path) -> Config:
    return params.load(project_root / layout.PARAMS)


@pytest.fixture(scope="module")
def lock(project_root: Path) -> dict[str, Any]:
    return yaml.safe_load((project_root / "dvc.lock").read_text())["stages"]


def test_files_that_follow_from_the_registry_are_as_it_says(project_root: Path, config: Config) -> None:
    for path, content in written.files(config.grid).items():
        assert (project_root / path).read_text() == content, f"{path} is not what the registry says. {WRITE}"


def test_the_fingerprints_are_those_of_the_code(
    project_root: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a fresh clone would make again what is there, or take for current what is not."""
    monkeypatch.chdir(project_root)
    committed = read_json(layout.FINGERPRINTS)
    monkeypatch.setattr(code, "write_json", lambda path, content: pytest.fail(_outdated(committed, content)))
    assert not code.refresh(config)


def _outdated(committed: dict[str, dict[str, str]], content: dict[str, dict[str, str]]) -> str:
    names = [
        f"{kind}.{name}"
        for kind, digests in content.items()
        for name, digest in digests.items()
        if committed.get(kind, {}).get(name) != digest
    ]
    return f"fingerprints.json is not that of the code ({', '.join(names) or 'a name too many'}). {WRITE}"


@pytest.mark.parametrize("model", ["tiny-paligemma2", "tiny-qwen2-vl", "tiny-smolvlm", "tiny-gemma3"])
def test_the_committed_bases_are_up_to_date(
    project_root: Path, config: Config, lock: dict[str, Any], model: str
) -> None:
    """Otherwise the first command in a fresh clone would pretrain for an hour.

    After an edit that changes nothing in the bases: ``headimpact write``, then ``dvc commit -f pretrain``.
    """
    assert model in config.pretrain.models
    entry = lock[f"pretrain@{model}"]
    stage = yaml.safe_load((project_root / layout.GRAPH).read_text())["stages"]["pretrain"]
    assert entry["cmd"] == stage["cmd"].replace("${item.model}", model)
    recipe = {f"pretrain.{name}": value for name, value in config.pretrain.model_dump().items() if name != "models"}
    assert entry["params"][layout.PARAMS.as_posix()] == recipe
    fingerprints = {"steps.pretrain": read_json(project_root / layout.FINGERPRINTS)["steps"]["pretrain"]}
    assert entry["params"][layout.FINGERPRINTS.as_posix()] == fingerprints, "Run `dvc commit -f pretrain`."
    assert "deps" not in entry
    (out,) = entry["outs"]
    folder = project_root / layout.base(model)
    assert out["path"] == layout.base(model).as_posix()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert (out["nfiles"], out["size"]) == (len(files), sum(path.stat().st_size for path in files))
    assert (folder / "model.safetensors").is_file()


def test_the_lock_knows_the_stages_that_there_are(lock: dict[str, Any], config: Config) -> None:
    cells = {
        "project": [""],
        "model": [f"@{model}" for model in config.grid.models],
        "setup": [f"@{model}-{setup}" for model in config.grid.models for setup in config.grid.setups],
    }
    known = {f"{name}{cell}" for name, step in STEPS.items() for cell in cells[step.per]}
    assert set(lock) <= known | {f"pretrain@{model}" for model in config.pretrain.models}


def test_what_dvcs_cache_has_no_copy_of_is_there(project_root: Path, config: Config) -> None:
    for step in STEPS.values():
        for place in step.writes if step.in_git else ():
            for model in config.grid.models:
                path = locate(place, model, "")
                assert (project_root / path).exists(), f"{path} is not there. Run `dvc repro`, and commit it to git."


def test_environments_come_from_requirements(project_root: Path) -> None:
    mlproject = yaml.safe_load((project_root / layout.ENTRY_POINTS).read_text())
    assert mlproject["conda_env"] == "conda.yaml"
    conda = yaml.safe_load((project_root / "conda.yaml").read_text())
    assert conda["dependencies"] == ["python=3.11", "pip", {"pip": ["-r requirements.txt"]}]


def _requirements(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("-r ")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    return pins


def test_installed_are_the_pinned_versions(project_root: Path) -> None:
    for file in ("requirements.txt", "requirements-cluster.txt", "requirements-dev.txt"):
        for name, version in _requirements(project_root / file).items():
            installed = importlib.metadata.version(re.sub(r"\[.*\]", "", name))
            assert installed.split("+")[0] == version, name


def test_what_the_package_imports_is_pinned(project_root: Path) -> None:
    files = ("requirements.txt", "requirements-cluster.txt", "requirements-demo.txt")
    pinned = {name.lower().replace("_", "-") for file in files for name in _requirements(project_root / file)}
    homes = importlib.metadata.packages_distributions()
    for path in (project_root / "src").rglob("*.py"):
        for top in _imported(ast.parse(path.read_text())) - set(sys.stdlib_module_names) - {"headimpact"}:
            assert {home.lower().replace("_", "-") for home in homes[top]} & pinned, f"{path.name} imports {top}"


def _imported(tree: ast.AST) -> set[str]:
    modules = [
        *(alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names),
        *(node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module),
    ]
    return {module.split(".")[0] for module in modules}


def test_continuous_integration_runs_the_checks(project_root: Path) -> None:
    script = project_root / ".ci/run"
    assert script.read_text().splitlines()[-1] == "make test"
    assert script.stat().st_mode & 0o111


def test_make_runs_what_it_says(project_root: Path) -> None:
    # The make that runs the tests tells its own targets and jobs to every make below it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment.pop("TESTS", None)

    def dry_run(target: str) -> list[str]:
        command = ["make", "--dry-run", "--always-make", "--no-print-directory", target]
        done = subprocess.run(command, cwd=project_root, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.splitlines()

    assert dry_run("finetune")[-1] == "mlflow run . -e finetune -P setup=top-4 --env-manager local"
    *checks, tests = dry_run("test")
    assert [line.split()[0] for line in checks[-5:]] == ["ruff", "ruff", "PYTHONPATH=src", "make", "pyright"]
    assert tests.startswith("pytest ")
    assert "-m" not in tests
    *quick_checks, quick_tests = dry_run("check")
    assert [line.split()[0] for line in quick_checks[-5:]] == [line.split()[0] for line in checks[-5:]]
    assert quick_tests.endswith('-n 0 tests/unit -m "not slow"')
    assert dry_run("write")[-1] == "headimpact write"
