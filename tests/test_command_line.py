"""The command line: what reaches the steps, and how mistakes end."""

import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import headimpact.lifecycle.command_line as command_line
from headimpact.errors import InputError
from headimpact.lifecycle import pipeline
from headimpact.lifecycle.config import STEPS, Config, Job, documentation
from headimpact.lifecycle.summary import Summary, print_summary

Run = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(project_root / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the pipeline, which does nothing here."""
    seen: list[dict[str, Any]] = []

    def record(step: str, config: Config, job: Job, overridden: bool, function: str) -> Summary:
        call = {"step": step, "config": config, "job": job, "overridden": overridden, "function": function}
        seen.append(call | {"folder": Path.cwd()})
        return Summary("done", [("what", "nothing")])

    monkeypatch.setattr(pipeline, "run", record)
    steps = types.SimpleNamespace(import_module=lambda name: types.SimpleNamespace(run=name))
    monkeypatch.setattr(command_line, "importlib", steps)
    return seen


@pytest.fixture
def run() -> Run:
    return lambda *arguments: CliRunner().invoke(command_line.app, list(arguments))


@pytest.mark.parametrize("step", STEPS)
def test_a_step_runs_on_the_defaults_of_params(root: Path, calls: list[dict[str, Any]], run: Run, step: str) -> None:
    result = run(step)
    assert result.exit_code == 0, result.output
    (call,) = calls
    assert (call["step"], call["function"]) == (step, f"headimpact.lifecycle.steps.{step}")
    assert call["job"] == Job("tiny-smolvlm", "top-4")
    assert not call["overridden"]
    assert "nothing" in result.output


def test_selectors_and_values_reach_the_step(root: Path, calls: list[dict[str, Any]], run: Run) -> None:
    command = "finetune --train.lr 2.0e-3 --model smolvlm --train.epochs=2 --setup layers:1,2"
    assert run(*command.split()).exit_code == 0
    (call,) = calls
    assert call["job"] == Job("smolvlm", "layers:1,2")
    assert (call["config"].train.lr, call["config"].train.epochs) == (0.002, 2)
    assert call["overridden"]


def test_a_value_that_changes_nothing_overrides_nothing(root: Path, calls: list[dict[str, Any]], run: Run) -> None:
    assert run("finetune", "--lora.rank", "8").exit_code == 0
    assert not calls[0]["overridden"]


def test_it_runs_in_the_root_from_any_folder_of_the_project(
    root: Path, calls: list[dict[str, Any]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "below/further").mkdir(parents=True)
    monkeypatch.chdir(root / "below/further")
    assert run("data").exit_code == 0
    assert calls[0]["folder"] == root


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("finetune --setup topp-4", "Error: Unknown setup 'topp-4'."),
        ("finetune --setup top-0", "Error: Setup 'top-0' selects no layer"),
        (
            "score --model tiny-smolvl",
            "Error: --model: unknown model 'tiny-smolvl'. Did you mean tiny-smolvlm?",
        ),
        ("select --setup original", "Error: The setup original adapts no layer"),
        (
            "finetune --train.rl 1.0",
            "Error: --train.rl: there is no value of this name in params.yaml. Did you",
        ),
        ("finetune --train.lr high", "Error: command line: train.lr is 'high' (text). Needed: number"),
        ("finetune --scenes.sizes.train 9", "dvc exp run -S 'scenes.sizes.train=9'"),
        ("score --setup top-4", "Error: score works on no single setup"),
        ("main --train.lr 1.0e-2", "dvc exp run -S 'train.lr=1.0e-2'"),
        ("finetune --train.lr", "Error: --train.lr needs a value"),
        ("finetune --train.lr 1.0 --train.lr 2.0", "Error: --train.lr is given twice."),
        ("finetune train.lr=1.0", "Error: Do not know what to do with 'train.lr=1.0'"),
    ],
)
def test_bad_input_ends_with_one_message(
    root: Path, calls: list[dict[str, Any]], run: Run, command: str, message: str
) -> None:
    result = run(*command.split())
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not calls


def test_a_wrong_params_file_ends_with_one_message(root: Path, calls: list[dict[str, Any]], run: Run) -> None:
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("seed: 0", "sead: 0"))
    result = run("data")
    assert result.exit_code == 1
    assert "Did you mean seed?" in result.stderr
    assert not calls


def test_outside_of_the_project(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("data")
    assert result.exit_code == 1
    assert "is not in the project" in result.stderr


def _failing(error: BaseException) -> Callable[..., Summary]:
    def fail(*_: object, **__: object) -> Summary:
        raise error

    return fail


def test_errors_and_interruptions(
    root: Path, calls: list[dict[str, Any]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "run", _failing(InputError("No such image.")))
    result = run("score")
    assert (result.exit_code, result.stderr) == (1, "Error: No such image.\n")
    assert isinstance(run("score", "--debug").exception, InputError)
    monkeypatch.setattr(pipeline, "run", _failing(KeyboardInterrupt()))
    result = run("score")
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")
    monkeypatch.setattr(pipeline, "run", _failing(ZeroDivisionError()))
    assert isinstance(run("score").exception, ZeroDivisionError)  # a fault of ours is not hidden


@pytest.mark.parametrize("step", STEPS)
def test_help_documents_every_value_that_the_step_takes(run: Run, step: Any) -> None:
    result = run(step, "--help")
    assert result.exit_code == 0
    for parameter in documentation(step):
        assert f"--{parameter.key}  {parameter.type}{parameter.allowed}\n" in result.output
        assert parameter.meaning in result.output
    assert ("--setup" in result.output) == (step in ("select", "finetune", "answer"))
    assert ("--model" in result.output) == (
        step in ("pretrain", "score", "measure", "examine", "select", "finetune", "answer")
    )


def test_help_of_main_documents_every_value(run: Run) -> None:
    output = run("main", "--help").output
    for parameter in documentation():
        assert f"  {parameter.key}  {parameter.type}" in output


def test_the_grid_runs_under_one_run(root: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    parents: list[str | None] = []

    def grid(config: Config) -> int:
        parents.append(os.environ.get("HEADIMPACT_PARENT_RUN"))
        return 3

    monkeypatch.setattr(pipeline, "run_grid", grid)
    result = run("main")
    assert result.exit_code == 0, result.output
    assert parents[0]
    assert parents[0] in result.output
    assert "HEADIMPACT_PARENT_RUN" not in os.environ


def test_as_a_program(project_root: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(project_root / "src")}
    command = [sys.executable, "-m", "headimpact", "finetune", "--setup", "top-0"]
    done = subprocess.run(command, cwd=project_root, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: Setup 'top-0' selects no layer")
    assert done.stderr.count("\n") == 1


def test_help_imports_nothing_heavy(project_root: Path) -> None:
    heavy = {"dvc", "mlflow", "torch", "transformers"}
    code = f"import sys, headimpact.__main__; print({heavy} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(project_root / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_summary_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(
        title="score [tiny]",
        rows=[("images", "240"), ("best head", "layer 3 [head] 2")],
        skipped=[("object 7", "empty mask")],
        files=[Path("outputs/impact/tiny/impact.csv"), Path("outputs/impact/tiny/" + "long" * 30)],
        run="0123abc",
        next="headimpact select",
    )
    print_summary(summary)
    printed = capsys.readouterr().out
    for text in (
        "score [tiny]",
        "240",
        "[head]",
        "skipped object 7",
        "empty mask",
        "impact.csv",
        "0123abc",
        "select",
    ):
        assert text in printed
    assert re.sub(r"\W", "", printed).count("long") == 30  # folded over lines, not cut
    print_summary(Summary("data", []))
    assert "nothing" in capsys.readouterr().out
