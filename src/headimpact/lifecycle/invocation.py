"""How every command runs: where it is, with which values, and what becomes of its errors."""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from safetensors import SafetensorError

from headimpact import processes
from headimpact.errors import InputError, fault_of_machine
from headimpact.lifecycle import layout, params, values
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.garbage import nothing_collected
from headimpact.lifecycle.registry import STEPS
from headimpact.lifecycle.starter import end_with_starter
from headimpact.lifecycle.terminal import make_printable


def project_values() -> Config | None:
    """The values of the project that the working directory is in; None outside of any."""
    try:
        root = layout.find_root(Path.cwd())
    except InputError:
        return None
    return params.load(root / layout.PARAMS)


def run_step(step: str, arguments: list[str] | None, model: str | None, setup: str | None, debug: bool) -> None:
    """A step with all that it reads, as its command: with the values that are given, its summary printed."""
    with errors_told(debug), _told_in_run(step, model, setup), nothing_collected():
        plain, loaded = load(step, arguments)
        if model and model not in loaded.models:
            model = entered(loaded, model)
            plain, loaded = load(step, arguments)
        job = Job(model or loaded.model, setup or loaded.setup)
        from headimpact.lifecycle import pipeline
        from headimpact.lifecycle.summary import print_summary

        summaries = pipeline.run(step, loaded, job, loaded != plain, step_functions(loaded))
        processes.leave()
        for summary in summaries:
            print_summary(summary)


def step_functions(config: Config) -> Callable[[str], Callable[[Config, Job], Any]]:
    """Gives the function of a step, which is imported then."""
    from headimpact.lifecycle.steps.sources import nothing_to_do

    def function(name: str) -> Callable[[Config, Job], Any]:
        if not STEPS[name].needed_for(config.dataset):
            return lambda config, job: nothing_to_do(name, config)
        with nothing_collected():  # until the step begins
            run = importlib.import_module(STEPS[name].module).run  # takes seconds: what can be refused was
        gc.freeze()
        gc.enable()
        return run

    return function


def entered(config: Config, model: str) -> str:
    """The name of a model that is not one of params.yaml by now."""
    from headimpact.lifecycle import entries

    return entries.model_of(config, model)


def load(command: str, arguments: list[str] | None) -> tuple[Config, Config]:
    """``params.yaml`` as it is, and with the values given on the command line."""
    os.chdir(layout.find_root(Path.cwd()))
    overrides = read_overrides(arguments or [])
    loaded = params.load(layout.PARAMS), params.load(layout.PARAMS, overrides)
    for key, text in overrides.items():
        values.check_override(key, command, text)
    return loaded


def load_to_try(command: str, arguments: list[str] | None, model: str | None) -> tuple[Config, Job]:
    """Any values, and a model: for a command that nothing depends on."""
    os.chdir(layout.find_root(Path.cwd()))
    overrides = read_overrides(arguments or [])
    loaded = params.load(layout.PARAMS, overrides)
    if model and model not in loaded.models:
        model = entered(loaded, model)
        loaded = params.load(layout.PARAMS, overrides)
    job = Job(model or loaded.model, loaded.setup)
    from headimpact.lifecycle import pipeline

    pipeline.check_processes(command)
    return loaded, job


def read_overrides(arguments: list[str]) -> dict[str, str]:
    """``--train.lr 1.0e-4`` and ``--train.lr=1.0e-4``, as ``{"train.lr": "1.0e-4"}``.

    Raises:
        InputError: something is not of this form, or is given twice.
    """
    overrides: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--") or len(argument) == 2:
            raise InputError(f"Do not know what to do with {argument!r}: values are given as --train.lr 1.0e-4.")
        key, given, text = argument[2:].partition("=")
        value = text if given else next(rest, None)
        if value is None:
            raise InputError(f"--{key} needs a value, as in --train.lr 1.0e-4.")
        if key in overrides:
            raise InputError(f"--{key} is given twice.")
        overrides[key] = value
    return overrides


def _tell(error: InputError) -> None:
    if (message := processes.told_here(error)) is not None:
        print(f"Error: {message}", file=sys.stderr, flush=True)
    if "DVC_STAGE" in os.environ:
        from headimpact.lifecycle import graph

        graph.say(str(error))


@contextmanager
def _told_in_run(step: str, model: str | None, setup: str | None) -> Iterator[None]:
    """What is refused before the step opens its run has its name and the reason in the run that `mlflow run` opened."""
    try:
        yield
    except InputError as error:
        if "MLFLOW_RUN_ID" in os.environ and "DVC_STAGE" not in os.environ and processes.is_first():
            from headimpact.lifecycle import tracking

            with tracking.run(step, model, setup):
                raise error
        raise


@contextmanager
def errors_told(debug: bool) -> Iterator[None]:
    """Bad input ends with its message and 1, Ctrl-C with 130; anything else is a fault of ours: its trace."""
    make_printable()
    end_with_starter()
    try:
        yield
    except InputError as error:
        if debug:
            raise
        _tell(error)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise typer.Exit(130) from None
    except (OSError, SafetensorError) as error:
        message = fault_of_machine(error)
        if debug or message is None:
            raise
        _tell(InputError(message))
        raise typer.Exit(1) from None
