"""The command line: what reaches the steps, and how mistakes end."""

import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import headimpact.lifecycle
from headimpact.errors import InputError
from headimpact.files import read_json
from headimpact.lifecycle import code, command_line, graph, invocation, layout, pipeline, written
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.documentation import documentation
from headimpact.lifecycle.jobs import enter
from headimpact.lifecycle.params import load
from headimpact.lifecycle.registry import COMMANDS, STEPS
from headimpact.lifecycle.summary import Summary, print_summary
from headimpact.lifecycle.values import overridable

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

    def record(
        step: str, config: Config, job: Job, overridden: bool, function: Callable[[str], Callable[..., Any]]
    ) -> list[Summary]:
        pipeline.check_job(step, config, job)
        call = {"step": step, "config": config, "job": job, "overridden": overridden, "function": function(step)()}
        seen.append(call | {"folder": Path.cwd()})
        return [Summary("done", [("what", "nothing")]), Summary("done", [("what", "else")])]

    monkeypatch.setattr(pipeline, "run", record)
    steps = types.SimpleNamespace(import_module=lambda name: types.SimpleNamespace(run=lambda: name))
    monkeypatch.setattr(invocation, "importlib", steps)
    return seen


@pytest.fixture
def run() -> Run:
    return lambda *arguments: CliRunner().invoke(command_line.app, list(arguments))


@pytest.mark.parametrize("step", [name for name, step in STEPS.items() if step.needed_for("scenes")])
def test_a_step_runs_on_the_defaults_of_params(root: Path, calls: list[dict[str, Any]], run: Run, step: str) -> None:
    result = run(step)
    assert result.exit_code == 0, result.output
    (call,) = calls
    assert (call["step"], call["function"]) == (step, f"headimpact.lifecycle.steps.{step}")
    assert call["job"] == Job("tiny-smolvlm", "top-4")
    assert not call["overridden"]
    assert "nothing" in result.output
    assert "else" in result.output


def test_a_step_that_the_dataset_does_not_need_is_not_even_imported(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def direct(
        name: str, config: Config, job: Job, overridden: bool, function: Callable[[str], Callable[..., Summary]]
    ) -> list[Summary]:
        return [function(name)(config, job)]

    monkeypatch.setattr(pipeline, "run", direct)
    monkeypatch.setattr(invocation, "importlib", None)
    steps = ["download", "ground", "segment"]
    assert [name for name, step in STEPS.items() if not step.needed_for("scenes")] == steps
    assert [name for name, step in STEPS.items() if not step.needed_for("published")] == steps[1:]
    for step in steps:
        assert "the dataset scenes does not need it" in run(step).output
        assert read_json(layout.made(step)) == {"digest": None}


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
        (
            "finetune --train.rl 1.0",
            "Error: --train.rl: there is no value of this name in params.yaml. Did you",
        ),
        ("finetune --train.lr high", "Error: command line: train.lr is 'high' (text). Needed: number"),
        ("finetune --scenes.sizes.train 9", "dvc exp run -S 'scenes.sizes.train=9'"),
        ("score --setup top-4", "Error: score works on no single setup"),
        ("score --models.smolvlm.revision main", "this value belongs to the step identify"),
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


def test_a_stage_tells_who_runs_it_why_it_fails(
    root: Path, calls: list[dict[str, Any]], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_STAGE", "score@tiny")
    monkeypatch.setenv("HEADIMPACT_SAID", str(tmp_path / "error.txt"))
    monkeypatch.setattr(pipeline, "run", _failing(InputError("No such image.")))
    run("score")
    assert graph._why(Exception("failed to run: x, exited with 1")) == "No such image."


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("failed to run: x, exited with -9", "it was ended from outside (SIGKILL, perhaps for want of memory)."),
        ("failed to run: x, exited with 143", "it was ended from outside (SIGTERM)."),
        ("failed to run: x, exited with 1", "failed to run: x, exited with 1; if it had more to say, that is printed"),
        ("output 'x' does not exist", "output 'x' does not exist; if it had more to say, that is printed above."),
    ],
)
def test_a_stage_that_says_nothing_is_told_by_how_it_ended(
    said: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADIMPACT_SAID", raising=False)
    assert graph._why(Exception(said)).startswith(why)


@pytest.mark.parametrize("step", STEPS)
def test_help_documents_every_value_that_the_step_takes(run: Run, step: str) -> None:
    result = run(step, "--help")
    assert result.exit_code == 0
    assert STEPS[step].help in " ".join(result.output.split())
    for parameter in overridable(step):
        assert f"--{parameter.key}  {parameter.type}{parameter.allowed}\n" in result.output
        assert parameter.meaning in result.output
    assert ("--model" in result.output, "--setup" in result.output) == {
        "project": (False, False),
        "model": (True, False),
        "setup": (True, True),
    }[STEPS[step].per]


def test_every_command_has_its_help(run: Run) -> None:
    output = " ".join(run("--help").output.split())
    for name, entry in (STEPS | COMMANDS).items():
        assert f" {name} {entry.help[:20]}" in output
        assert entry.help in " ".join(run(name, "--help").output.split())


@pytest.mark.parametrize(("command", "prefix"), [("main", "  "), ("plan", "  --")])
def test_help_of_the_grid_and_of_plans_documents_every_value(run: Run, command: str, prefix: str) -> None:
    output = run(command, "--help").output
    for parameter in documentation():
        assert f"{prefix}{parameter.key}  {parameter.type}" in output


def test_the_grid_runs_under_one_run(root: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    parents: list[str | None] = []

    @contextmanager
    def opened(step: str) -> Iterator[str]:
        yield f"run of {step}"

    def grid(config: Config, function: object) -> int:
        parents.append(os.environ.get("HEADIMPACT_PARENT_RUN"))
        return 3

    _stand_in(monkeypatch, "tracking", run=opened, PARENT_RUN="HEADIMPACT_PARENT_RUN")
    monkeypatch.setattr(pipeline, "run_grid", grid)
    result = run("main")
    assert result.exit_code == 0, result.output
    assert parents == ["run of main"]
    assert "run of main" in result.output
    assert re.search(r"stages run\W+3\W", result.output)
    assert "HEADIMPACT_PARENT_RUN" not in os.environ


def _stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **content: object) -> None:
    """In the place of a module whose import takes seconds."""
    monkeypatch.setattr(headimpact.lifecycle, name, types.SimpleNamespace(**content), raising=False)


def test_register_works_on_one_model(root: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def register_all(config: Config, model: str) -> Summary:
        asked.append(model)
        return Summary("register", [])

    _stand_in(monkeypatch, "registration", register_all=register_all)
    assert run("register").exit_code == run("register", "--model", "smolvlm").exit_code == 0
    assert asked == ["tiny-smolvlm", "smolvlm"]
    result = run("register", "--model", "smolvl")
    assert (result.exit_code, result.stderr[:44]) == (1, "Error: --model: unknown model 'smolvl'. Did ")


def test_what_is_refused_early_is_told_in_the_run_that_mlflow_run_opened(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str | None, ...]] = []

    @contextmanager
    def join(*work: str | None) -> Iterator[str]:
        opened.append(work)
        yield "a run"

    _stand_in(monkeypatch, "tracking", run=join)
    assert run("finetune", "--model", "smolvl").exit_code == 1
    assert opened == []
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    result = run("finetune", "--model", "smolvl", "--setup", "top-4")
    assert (result.exit_code, result.stderr[:38]) == (1, "Error: --model: unknown model 'smolvl'")
    assert opened == [("finetune", "smolvl", "top-4")]


def test_write_writes_what_follows_from_registry_code_and_grid(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written, "commands_page", lambda: "")  # takes a second
    _stand_in(monkeypatch, "pages", pages=lambda folder: {Path("README.md"): "# Head Impact\n"})
    monkeypatch.setattr(code, "step_fingerprint", lambda step: step.name)
    monkeypatch.setattr(code, "family_fingerprint", lambda source, identity: source)
    (root / "dvc.yaml").write_text("stages: {}")
    enter([("select", Job("tiny-smolvlm", "bottom-8"))], load(layout.PARAMS))
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace(", full]", ", full, bottom-8]", 1))
    result = run("write")
    assert (
        " ".join(result.output.split())
        == "Written: dvc.yaml, MLproject, docs/commands.md, README.md, fingerprints.json, jobs/dvc.yaml"
    )
    assert layout.GRAPH.read_text() == written.graph(load(layout.PARAMS).grid)
    assert "stages: {}" in layout.JOBS.read_text()
    assert run("write").output == "Everything is as it should be.\n"


def test_as_a_program(project_root: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(project_root / "src")}
    command = [sys.executable, "-m", "headimpact", "finetune", "--setup", "top-0"]
    done = subprocess.run(command, cwd=project_root, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: Setup 'top-0' selects no layer")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("__main__", {"dvc", "mlflow", "torch", "transformers", "pandas"}),
        ("lifecycle.steps.sources", {"dvc", "mlflow", "torch", "transformers", "pandas"}),
        ("lifecycle.steps.finetune", {"dvc", "mlflow", "torch", "transformers", "pandas"}),  # for the original
        ("lifecycle.steps.select", {"torch", "transformers", "peft", "matplotlib", "scipy.stats"}),
    ],
)
def test_what_has_little_to_do_imports_nothing_heavy(project_root: Path, module: str, heavy: set[str]) -> None:
    code = f"import sys, headimpact.{module}; print({heavy} & set(sys.modules))"
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
