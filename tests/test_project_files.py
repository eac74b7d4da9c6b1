"""The project's files agree with each other: every fact has one home, and its copies are held to it here."""

import ast
import hashlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from headimpact.lifecycle import layout
from headimpact.lifecycle.config import STEPS, Config, Job, Step, load, tracked_values
from headimpact.lifecycle.steps import tournament

# How a step is run and shown, not what it writes: editing these makes no output stale.
PLUMBING = {"config", "errors", "files", "layout", "progress", "serving", "summary", "tracking", "workers"}


@pytest.fixture(scope="module")
def stages(project_root: Path) -> dict[str, Any]:
    return yaml.safe_load((project_root / "dvc.yaml").read_text())["stages"]


@pytest.fixture(scope="module")
def config(project_root: Path) -> Config:
    return load(project_root / "params.yaml")


@pytest.fixture(scope="module")
def mlproject(project_root: Path) -> dict[str, Any]:
    return yaml.safe_load((project_root / "MLproject").read_text())


@pytest.mark.parametrize(
    ("stage", "step", "setup"),
    [(step, step, "top-4") for step in STEPS]
    + [("original", "finetune", "original"), ("answer-original", "answer", "original")],
)
def test_stages_depend_on_the_values_that_their_step_uses(
    stages: dict[str, Any], config: Config, stage: str, step: Step, setup: str
) -> None:
    model = config.grid.models[0]
    listed = [key.replace("${item.model}", model) for key in stages[stage].get("params", [])]
    used = tracked_values(config, step, Job(model, setup))
    assert listed == sorted(listed)
    for key in used:
        assert any(key == name or key.startswith(f"{name}.") for name in listed), f"{stage} lacks {key}"
    for name in listed:
        below = {key for key in tracked_values(config, step, Job(model, setup)) if f"{key}.".startswith(f"{name}.")}
        assert below, f"{stage} lists {name}, which the step does not use"


def _code_of(step: str) -> set[str]:
    """The files that decide what a step writes: what it imports, directly or not, but for the plumbing."""
    # Only these write figures and pages that are results; the others log them.
    plumbing = (
        PLUMBING if step in ("data", "score", "examine", "tournament", "report") else PLUMBING | {"gallery", "plots"}
    )
    return _imports(f"headimpact.lifecycle.steps.{step}", plumbing)


def _imports(name: str, plumbing: set[str]) -> set[str]:
    """The files of a module and of what it imports, directly or not, but for the plumbing."""
    graph = grimp.build_graph("headimpact")
    found, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        parts = module.split(".")
        if module in found or len(parts) == 1 or parts[1] in plumbing:
            continue
        found.add(module)
        waiting += graph.find_modules_directly_imported_by(module)
    return {_file(module) for module in found}


def _file(module: str) -> str:
    parts = module.split(".")
    if parts[1] in ("page", "paper", "vlm"):
        return f"src/headimpact/{parts[1]}"
    path = "src/" + "/".join(parts)
    return f"{path}.py"


@pytest.mark.parametrize(
    ("stage", "step"),
    [
        ("download", "download"),
        ("data", "data"),
        ("score", "score"),
        ("measure", "measure"),
        ("examine", "examine"),
        ("select", "select"),
        ("finetune", "finetune"),
        ("tournament", "tournament"),
        ("answer", "answer"),
        ("answer-original", "answer"),
        ("report", "report"),
    ],
)
def test_stages_depend_on_the_code_that_their_step_imports(stages: dict[str, Any], stage: str, step: str) -> None:
    listed = [path for path in stages[stage]["deps"] if path.startswith("src/")]
    assert listed == sorted(_code_of(step))


def test_a_run_of_the_tournament_is_known_by_all_code_that_decides_its_results() -> None:
    named = {f"src/headimpact/{pattern.removesuffix('/*.py')}" for pattern in tournament.CODE}
    assert named == _imports("headimpact.adapters.cell", PLUMBING)


def test_the_original_depends_on_no_code_of_training(stages: dict[str, Any]) -> None:
    code = [path for path in stages["finetune"]["deps"] if path.startswith("src/")]
    training = [f"src/headimpact/{name}.py" for name in ("checkpoints", "lora", "selection", "training")]
    assert [path for path in stages["original"]["deps"] if path.startswith("src/")] == [
        path for path in code if path not in training
    ]


@pytest.mark.parametrize(("stage", "module"), [("ground", "grounding"), ("segment", "segmentation")])
def test_the_annotators_depend_on_their_own_files_alone(stages: dict[str, Any], stage: str, module: str) -> None:
    listed = [path for path in stages[stage]["deps"] if path.startswith("src/")]
    assert listed == [f"src/headimpact/{name}.py" for name in ("annotators", module, f"steps/{stage}")]
    assert set(listed) < _code_of(stage)


def test_pretraining_depends_on_its_recipe_alone(stages: dict[str, Any], project_root: Path) -> None:
    assert stages["pretrain"]["deps"] == [f"src/headimpact/{name}.py" for name in ("bases", "pretraining", "scenes")]
    for path in stages["pretrain"]["deps"]:
        assert (project_root / path).is_file()


def test_the_committed_bases_are_up_to_date(project_root: Path, config: Config) -> None:
    """Otherwise the first command in a fresh clone would pretrain for an hour.

    After an edit that changes nothing in the bases: ``dvc commit -f pretrain``.
    """
    locked = yaml.safe_load((project_root / "dvc.lock").read_text())["stages"]
    for model in config.grid.models:
        entry = locked[f"pretrain@{model}"]
        for dep in entry["deps"]:
            digest = hashlib.md5((project_root / dep["path"]).read_bytes(), usedforsecurity=False).hexdigest()
            assert digest == dep["md5"], dep["path"]
        assert entry["params"]["params.yaml"] == {"pretrain": config.pretrain.model_dump()}
        assert (project_root / layout.base(model) / "model.safetensors").is_file()


def test_stage_paths_are_those_of_the_layout(stages: dict[str, Any]) -> None:
    def paths(stage: str, kind: str) -> list[str]:
        entries = [next(iter(e)) if isinstance(e, dict) else e for e in stages[stage][kind]]
        names = {"${dataset}": "D", "${item.model}": "m", "${item.setup}": "top-4"}
        for old, new in names.items():
            entries = [entry.replace(old, new) for entry in entries]
        return [entry for entry in entries if not entry.startswith("src/")]

    data, base = str(layout.DATASET), str(layout.base("m"))
    selection, original = str(layout.selection("m", "top-4")), str(layout.finetune("m", "original"))
    made = {name: str(layout.made(name)) for name in ("download", "ground", "segment")}
    assert paths("download", "outs") == [made["download"]]
    assert paths("ground", "deps") == [made["download"]]
    assert paths("ground", "outs") == [made["ground"]]
    assert paths("segment", "deps") == [made["download"], made["ground"]]
    assert paths("segment", "outs") == [made["segment"]]
    assert paths("data", "deps") == [made["download"], made["segment"]]
    assert paths("data", "outs") == [data, str(layout.DATASET_LOOK)]
    assert paths("pretrain", "outs") == [base]
    assert paths("score", "deps") == [data, base]
    assert paths("score", "outs") == [str(layout.impact("m"))]
    measures = str(layout.measures("m"))
    assert paths("measure", "deps") == [data, base]
    assert paths("measure", "outs") == [measures]
    assert paths("examine", "deps") == [data, base, str(layout.impact_objects("m"))]
    assert paths("examine", "outs") == [str(layout.examination("m"))]
    assert paths("select", "deps") == [str(layout.impact_table("m")), str(layout.impact_summary("m"))]
    assert paths("select", "outs") == [selection]
    assert paths("original", "deps") == [data, base]
    assert paths("original", "outs") == [original]
    assert paths("finetune", "deps") == [data, base, original, selection]
    assert paths("finetune", "outs") == [str(layout.finetune("m", "top-4"))]
    assert paths("tournament", "deps") == [
        data,
        str(layout.base("m").parent),
        str(layout.impact("m").parent),
        str(layout.measures("m").parent),
    ]
    assert paths("tournament", "outs") == [str(layout.tournament())]
    answered = str(layout.answers("m", "original"))
    assert paths("answer-original", "deps") == [data, base]
    assert paths("answer-original", "outs") == [answered]
    assert paths("answer", "deps") == [data, base, answered, str(layout.finetune("m", "top-4"))]
    assert paths("answer", "outs") == [str(layout.answers("m", "top-4"))]
    above = [
        layout.answers("m", "top-4").parents[1],
        layout.examination("m").parent,
        layout.finetune("m", "top-4").parents[1],
        layout.impact("m").parent,
        layout.measures("m").parent,
        layout.selection("m", "top-4").parents[1],
        layout.tournament(),
    ]
    assert paths("report", "deps") == [data, *map(str, above)]
    assert paths("report", "outs") == [str(layout.REPORTS)]


def test_what_goes_on_after_an_interruption_is_not_deleted_by_dvc(stages: dict[str, Any]) -> None:
    for stage in ("pretrain", "tournament"):
        (out,) = stages[stage]["outs"]
        assert next(iter(out.values())) == {"cache": False, "persist": True}


def test_stages_and_entry_points_run_the_same_command(stages: dict[str, Any], mlproject: dict[str, Any]) -> None:
    entries = {name: entry["command"] for name, entry in mlproject["entry_points"].items()}
    assert list(entries) == [*STEPS, "plan", "main"]
    for name, stage in stages.items():
        step = {"original": "finetune", "answer-original": "answer"}.get(name, name)
        assert stage["cmd"].split(" --")[0] == entries[step]
    assert entries["main"] == "PYTHONPATH=src python -m headimpact main"


def test_entry_points_declare_nothing_that_stands_in_params(mlproject: dict[str, Any]) -> None:
    """A default of their own would win over params.yaml."""
    assert all(set(entry) == {"command"} for entry in mlproject["entry_points"].values())


def test_environments_come_from_requirements(project_root: Path, mlproject: dict[str, Any]) -> None:
    assert mlproject["conda_env"] == "conda.yaml"
    conda = yaml.safe_load((project_root / "conda.yaml").read_text())
    assert conda["dependencies"] == ["python=3.11", "pip", {"pip": ["-r requirements.txt"]}]


def _requirements(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("-r ")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    return pins


def test_installed_are_the_pinned_versions(project_root: Path) -> None:
    for file in ("requirements.txt", "requirements-dev.txt"):
        for name, version in _requirements(project_root / file).items():
            installed = importlib.metadata.version(re.sub(r"\[.*\]", "", name))
            assert installed.split("+")[0] == version, name


def test_what_the_package_imports_is_pinned(project_root: Path) -> None:
    pinned = {name.lower().replace("_", "-") for name in _requirements(project_root / "requirements.txt")}
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
    def dry_run(target: str) -> list[str]:
        command = ["make", "--dry-run", "--always-make", "--no-print-directory", target]
        done = subprocess.run(command, cwd=project_root, check=True, capture_output=True, text=True)
        return done.stdout.splitlines()

    assert dry_run("finetune")[-1] == "mlflow run . -e finetune -P setup=top-4 --env-manager local"
    checks = [line.split()[0] for line in dry_run("test")[-5:]]
    assert checks == ["ruff", "ruff", "pyright", "PYTHONPATH=src", "pytest"]
