"""What follows from the registry and stands in files: the graph of DVC, MLflow's entry points, docs/commands.md."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from headimpact.files import write_text
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Grid
from headimpact.lifecycle.documentation import Parameter, documentation
from headimpact.lifecycle.registry import COMMANDS, STEPS, Place, Read, Step, locate
from headimpact.lifecycle.values import overridable, tracked_keys
from headimpact.selection.grammar import ORIGINAL, is_softened

# A model and a setup, to be found again in paths.
_MODEL, _SETUP = "some-model", "top-999"
_PYTHON = "PYTHONPATH=src python -m headimpact"
_GRAPH = """\
# The graph of DVC: every model of grid.models in params.yaml with every setup of grid.setups. Written by
# `headimpact write` from src/headimpact/lifecycle/registry.py. Models and setups outside of the grid that were asked
# for by name have their stages in jobs/dvc.yaml.
"""
_ENTRY_POINTS = """\
# Written by `headimpact write` from src/headimpact/lifecycle/registry.py.
# No parameter is declared, so that none has a second default here: MLflow hands on whatever is given, -P setup=top-4 as
# --setup top-4 and -P train.lr=1.0e-4 as --train.lr 1.0e-4, and what is not given comes from params.yaml.
# PYTHONPATH and not an installation: MLflow names an environment by its dependencies alone, and would run the code
# of the clone that installed it.
"""
_COMMANDS = """\
# Commands

Written by `headimpact write` from the registry of steps and from what `params.yaml` may hold.

Every command can be run in three ways, which do the same: `headimpact finetune --setup top-4`,
`mlflow run . -e finetune -P setup=top-4`, and, for a model and a setup of the grid, as a stage of `dvc repro`. A
command first makes what it needs and what is missing or out of date. Values of `params.yaml` that belong to a command
can be given for one run, as in `--train.lr 1.0e-4` (`-P train.lr=1.0e-4`).
"""
_PER = {
    "project": "",
    "model": " `--model` names one of `models` in `params.yaml`, or a checkpoint.",
    "setup": " `--model` names one of `models` in `params.yaml`, or a checkpoint, `--setup` a setup such as `top-4`.",
}


def stage(step: Step, model: str, setup: str, alias: str, more: tuple[Read, ...] = ()) -> dict[str, Any]:
    """A stage of DVC.

    Args:
        step: what it runs.
        model: the model, or what DVC puts in its place.
        setup: the setup, or what DVC puts in its place.
        alias: the setup as in paths.
        more: what it reads beside ``step.reads``.
    """

    options = {"project": "", "model": f" --model {model}", "setup": f" --model {model} --setup {setup}"}
    keys = [f"models.{model}" if (step.per, key) == ("model", "models") else key for key in tracked_keys(step)]
    code = [f"steps.{step.name}", *_families(step, model)]
    outs = [_path(place, model, alias) for place in step.writes]
    made = {
        "cmd": f"{_PYTHON} {step.name}{options[step.per]}",
        "deps": sorted({_path(read.place, model, alias) for read in (*step.reads, *more)}),
        "params": [*keys, {layout.FINGERPRINTS.as_posix(): code}],
        "outs": [{out: {"cache": False, "persist": True}} if step.in_git else out for out in outs],
    }
    return {key: value for key, value in made.items() if value}


def _path(place: Place, model: str, alias: str) -> str:
    return locate(place, _MODEL, _SETUP).as_posix().replace(_MODEL, model).replace(_SETUP, alias)


def _families(step: Step, model: str) -> list[str]:
    return [f"families.{model}"] if step.runs_base and step.per != "project" else []


def shown(cells: Sequence[tuple[str, str]], start: Path = Path()) -> dict[str, Any]:
    """What ``dvc metrics`` and ``dvc plots`` show of models and setups: files among the outputs of their stages.

    Args:
        cells: models, each with a setup.
        start: where paths start, seen from the file that this is written to.
    """

    def paths(places: Iterable[Place]) -> list[str]:
        return list(dict.fromkeys((start / locate(place, *cell)).as_posix() for place in places for cell in cells))

    steps = STEPS.values()
    metrics = paths(place for step in steps for place in step.metrics)
    plots: list[Any] = paths(place for step in steps for place in step.pictures)
    for place in (place for step in steps for place in step.curves):
        for model in dict.fromkeys(model for model, _ in cells):
            trained = [setup for of, setup in cells if of == model and setup != ORIGINAL and not is_softened(setup)]
            lines = {(start / locate(place, model, setup)).as_posix(): "value" for setup in trained}
            if lines:
                plots.append({f"validation of {model}": {"x": "step", "y": lines, "template": "validation"}})
    return {name: files for name, files in (("metrics", metrics), ("plots", plots)) if files}


def graph(grid: Grid) -> str:
    """The content of dvc.yaml."""
    stages = {}
    for step in (step for step in STEPS.values() if step.in_grid):
        models = "${pretrain.models}" if step.name == "pretrain" else "${grid.models}"
        matrix = {"project": {}, "model": {"model": models}, "setup": {"model": models, "setup": "${grid.setups}"}}
        made = stage(step, "${item.model}", "${item.setup}", "${item.setup}")
        stages[step.name] = ({"matrix": matrix[step.per]} if matrix[step.per] else {}) | made
    cells = [(model, setup) for model in grid.models for setup in grid.setups]
    return f"{_GRAPH}{_dump({'stages': stages} | shown(cells))}"


def diagram() -> str:
    """The graph of the steps as a Mermaid diagram, without the arrows that others imply."""
    above = {name: {read.step for read in step.reads} for name, step in STEPS.items()}
    everything: dict[str, set[str]] = {}
    for name, direct in above.items():  # the registry is in the order of the lifecycle
        everything[name] = direct.union(*(everything[step] for step in direct))
    arrows = [
        f"    {step} --> {name}"
        for name, direct in above.items()
        for step in sorted(direct, key=list(STEPS).index)
        if not any(step in everything[other] for other in direct)
    ]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```"])


def entry_points() -> str:
    """The content of MLproject."""
    names = [*STEPS, *(name for name, command in COMMANDS.items() if command.entry_point)]
    entries = {name: {"command": f"{_PYTHON} {name}"} for name in names}
    return f"{_ENTRY_POINTS}{_dump({'name': 'head-impact', 'conda_env': 'conda.yaml', 'entry_points': entries})}"


def commands_page() -> str:
    """The content of docs/commands.md."""
    parts = [_COMMANDS]
    for step in STEPS.values():
        reads = sorted({_path(read.place, "<model>", "<setup>") for read in step.reads})
        parts.append(f"\n## {step.name}\n\n{step.help}{_PER[step.per]}\n")
        if reads:
            parts.append(f"\nReads {', '.join(f'`{path}`' for path in reads)}.\n")
        writes = ", ".join(f"`{_path(place, '<model>', '<setup>')}`" for place in step.writes)
        parts.append(f"\nWrites {writes}.\n")
        parts.append(_table(overridable(step.name), "Values for one run"))
    for name, command in COMMANDS.items():
        parts.append(f"\n## {name}\n\n{command.help}\n")
        parts.append(_table(overridable(name), "Values for one run"))
    parts.append("\n## All values of params.yaml\n")
    parts.append(_table(documentation(), "Value"))
    return "".join(parts)


def _table(parameters: list[Parameter], title: str) -> str:
    kinds = [f"{parameter.type}{parameter.allowed}".replace("|", "\\|") for parameter in parameters]
    rows = [f"| `{p.key}` | {kind} | {p.meaning} |" for p, kind in zip(parameters, kinds, strict=True)]
    return "\n".join([f"\n| {title} | what | meaning |", "|---|---|---|", *rows, ""]) if rows else ""


def _dump(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=1000, allow_unicode=True)


def files(grid: Grid) -> dict[Path, str]:
    """Every file that follows from the registry, with its content."""
    return {layout.GRAPH: graph(grid), layout.ENTRY_POINTS: entry_points(), layout.COMMANDS: commands_page()}


def write(contents: Mapping[Path, str]) -> list[Path]:
    """Write the files that are not as they should be; gives those."""
    changed = [p for p, text in contents.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    for path in changed:
        write_text(path, contents[path])
    return changed
