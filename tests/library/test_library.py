"""The library: its page runs as it stands, it imports nothing of the lifecycle, and it has all that it promises."""

import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from PIL import Image

import headimpact
from headimpact import api
from headimpact.data import scenes
from headimpact.data.scene_dataset import write_scenes


def run(code: str, folder: Path, project_root: Path) -> str:
    """What a fresh process prints that knows the package alone, in a folder that is no project."""
    environment = {"PYTHONPATH": str(project_root / "src"), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_runs_in_a_folder_that_is_no_project_and_without_mlflow_and_dvc(tmp_path: Path, project_root: Path):
    page = (project_root / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = [textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", page, re.M | re.S)]
    assert len(blocks) == page.count("```python") == 6
    (tmp_path / "models").symlink_to(project_root / "models")
    write_scenes(tmp_path / "data" / "dataset", {"impact": 3}, seed=0)
    for name, scene_id in (("first", 1), ("second", 2)):
        scene = scenes.draw(0, scene_id)
        scene.image.save(tmp_path / f"{name}.png")
        Image.fromarray(scene.things[0].mask).save(tmp_path / f"{name}-mask.png")
    report = textwrap.dedent(
        """
        import sys
        modules = {name.split(".")[0] for name in sys.modules}
        assert not modules & {"mlflow", "dvc", "typer", "IPython"}, modules
        assert not [name for name in sys.modules if name.startswith("headimpact.lifecycle")]
        print(len(selection.layers), sorted(impact.table()), seen.whole.shape, adapted.peft_config["default"].r)
        """
    )
    printed = run("\n".join([*blocks, report]), tmp_path, project_root)
    assert printed.startswith("4 ['auroc', 'chance'")
    assert printed.endswith(" 8\n")


def test_the_import_alone_imports_nothing(tmp_path: Path, project_root: Path):
    code = (
        "import sys; before = set(sys.modules); import headimpact; dir(headimpact); "
        "print({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    assert run(code, tmp_path, project_root) == "{'headimpact'}\n"


def test_every_name_is_there_and_told_to_editors(project_root: Path):
    told = re.search(
        r"if TYPE_CHECKING:.*?import \((.*?)\)", (project_root / "src/headimpact/__init__.py").read_text(), re.S
    )
    assert told is not None
    assert re.findall(r"\w+", told[1]) == headimpact.__all__ == api.__all__
    assert dir(headimpact) == sorted(["__version__", *headimpact.__all__])
    for name in headimpact.__all__:
        assert getattr(headimpact, name) is getattr(api, name)
        assert getattr(headimpact, name).__doc__
    with pytest.raises(AttributeError, match="'headimpact' has no attribute 'train'"):
        headimpact.train  # noqa: B018


def test_defaults_are_the_values_of_params(project_root: Path):
    params = yaml.safe_load((project_root / "params.yaml").read_text())

    def defaults(function):
        return {name: p.default for name, p in inspect.signature(function).parameters.items()}

    assert defaults(headimpact.score).items() >= {**params["impact"], "seed": params["seed"]}.items()
    assert defaults(headimpact.select)["seed"] == params["seed"]
    expected = params["lora"] | {"targets": tuple(params["lora"]["targets"])}
    assert defaults(headimpact.lora_config).items() >= expected.items()
    compute = params["compute"]
    assert defaults(headimpact.load_base).items() >= {name: compute[name] for name in ("device", "dtype")}.items()
    assert defaults(headimpact.score)["batch_tokens"] == compute["batch_tokens"]


def test_the_distribution_holds_every_file_and_the_pinned_dependencies(tmp_path: Path, project_root: Path):
    """Built from links, because building writes into the folder."""
    for name in ("pyproject.toml", "requirements.txt"):
        (tmp_path / name).symlink_to(project_root / name)
    package = project_root / "src" / "headimpact"
    files = [f for f in sorted(package.rglob("*")) if f.is_file() and "__pycache__" not in f.parts]
    for file in files:
        link = tmp_path / "src" / file.relative_to(package.parent)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    code = (
        "import contextlib, sys, zipfile\n"
        "from setuptools import build_meta\n"
        "with contextlib.redirect_stdout(sys.stderr):\n"
        "    name = build_meta.build_wheel('.')\n"
        "with zipfile.ZipFile(name) as wheel:\n"
        "    for member in wheel.namelist():\n"
        "        print(member)\n"
        "        if member.endswith(('METADATA', 'entry_points.txt')):\n"
        "            print(wheel.read(member).decode())\n"
    )
    lines = run(code, tmp_path, project_root).splitlines()
    assert {file.relative_to(package.parent).as_posix() for file in files} <= set(lines)
    pinned = (project_root / "requirements.txt").read_text().split()
    assert [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist")] == pinned
    assert f"Version: {headimpact.__version__}" in lines
    assert "headimpact = headimpact.lifecycle.command_line:app" in lines
