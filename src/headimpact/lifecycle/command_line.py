"""The command line: routes to the steps, and imports them only when they run."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand

from headimpact.errors import InputError
from headimpact.lifecycle import config, layout

app = typer.Typer(
    help="Which layers of a vision-language model to fine-tune, answered from its attention.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str | None, typer.Option(help="Model, one of models in params.yaml.  [default: model in params.yaml]")
]
Setup = Annotated[
    str | None,
    typer.Option(
        help="original, top-K, bottom-K, random-K, full, layers:6,8,9,11, ...  [default: setup in params.yaml]"
    ),
]
Values = Annotated[list[str] | None, typer.Argument(metavar="--NAME VALUE", help="Values of params.yaml, see below.")]
UNKNOWN = {"ignore_unknown_options": True}  # they are values of params.yaml
Debug = Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")]


class StepCommand(TyperCommand):
    """A command whose help ends with the values of params.yaml that concern it."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the usual help, then two lines a value."""
        super().format_help(ctx, formatter)
        if self.name == "main":
            formatter.write("\nValues of params.yaml, which it takes as they are there:\n")
            parameters, prefix = config.documentation(), ""
        elif self.name == "plan":
            formatter.write("\nValues of params.yaml that can be tried, as in --train.batch_images 2:\n")
            parameters, prefix = config.documentation(), "--"
        else:
            parameters, prefix = config.documentation(cast(config.Step, self.name)), "--"
            if parameters:
                formatter.write(
                    f"\nValues of params.yaml that can be given for this run alone, as --{parameters[0].key}:\n"
                )
        for parameter in parameters:
            formatter.write(f"  {prefix}{parameter.key}  {parameter.type}{parameter.allowed}\n")
            formatter.write(f"      {parameter.meaning}\n")


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def download(values: Values = None, debug: Debug = False) -> None:
    """Fetch what the datasets published and coco are made from; what is there is kept."""
    _run("download", values, None, None, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def ground(values: Values = None, debug: Debug = False) -> None:
    """Find the phrases of COCO's captions in the images (Florence-2); goes on where it was."""
    _run("ground", values, None, None, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def segment(values: Values = None, debug: Debug = False) -> None:
    """Find the masks of the phrases' boxes (SAM 2); goes on where it was."""
    _run("segment", values, None, None, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def data(values: Values = None, debug: Debug = False) -> None:
    """Make the dataset: images, masks and phrases, in four parts."""
    _run("data", values, None, None, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def pretrain(values: Values = None, model: Model = None, debug: Debug = False) -> None:
    """Pretrain an embedded base; goes on from its last checkpoint."""
    _run("pretrain", values, model, None, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def score(values: Values = None, model: Model = None, debug: Debug = False) -> None:
    """Compute the Head Impact of every attention head."""
    _run("score", values, model, None, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def measure(values: Values = None, model: Model = None, debug: Debug = False) -> None:
    """Measure what Head Impact does not say about each layer, for the rules that go by it."""
    _run("measure", values, model, None, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def examine(values: Values = None, model: Model = None, debug: Debug = False) -> None:
    """Put Head Impact itself under test: other definitions, other images, layers against heads."""
    _run("examine", values, model, None, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def select(values: Values = None, model: Model = None, setup: Setup = None, debug: Debug = False) -> None:
    """Select the layers of a setup."""
    _run("select", values, model, setup, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def finetune(values: Values = None, model: Model = None, setup: Setup = None, debug: Debug = False) -> None:
    """Train an adapter on the selected layers, evaluate and register it; whatever it needs is made first."""
    _run("finetune", values, model, setup, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def answer(values: Values = None, model: Model = None, setup: Setup = None, debug: Debug = False) -> None:
    """Ask a setup in every order of the options and in open questions, beside the original; with a gallery."""
    _run("answer", values, model, setup, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def tournament(values: Values = None, debug: Debug = False) -> None:
    """Set the rules for choosing layers against each other; finished runs are kept, and it goes on where it was."""
    _run("tournament", values, None, None, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def report(values: Values = None, debug: Debug = False) -> None:
    """Write the tables and figures of the whole grid."""
    _run("report", values, None, None, debug)


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def main(values: Values = None, debug: Debug = False) -> None:
    """Run the whole grid and the report: dvc repro, its runs nested under one."""
    with _errors_told(debug):
        _, loaded = _load("main", values)
        from headimpact.lifecycle import graph, pipeline, tracking
        from headimpact.lifecycle.summary import Summary, print_summary

        with tracking.run("main") as run, graph.environment(**{tracking.PARENT_RUN: run}):
            ran = pipeline.run_grid(loaded)
        rows = [("stages run", str(ran)), ("up to date", "all others")]
        print_summary(Summary("main", rows, files=[layout.REPORTS], run=run, next="mlflow ui"))


@app.command(cls=StepCommand, context_settings=UNKNOWN)
def plan(values: Values = None, model: Model = None, debug: Debug = False) -> None:
    """Tell what a model and its setups would cost, from its config alone: nothing heavy is fetched."""
    with _errors_told(debug):
        os.chdir(layout.find_root(Path.cwd()))
        loaded = config.load(layout.PARAMS, read_overrides(values or []))
        job = config.Job(model or loaded.model, loaded.setup)
        config.check_model(loaded, job.model)
        from headimpact.lifecycle.steps import plan as step
        from headimpact.lifecycle.summary import print_summary

        print_summary(step.run(loaded, job))


@app.command("check-data")
def check_data(
    folder: Annotated[Path, typer.Argument(help="Folder of a dataset, in this project's layout or of your own.")],
    report: Annotated[Path | None, typer.Option(help="CSV file for all problems.")] = None,
    debug: Debug = False,
) -> None:
    """Check every record and image of a dataset, and tell everything that is wrong."""
    with _errors_told(debug):
        from headimpact.lifecycle import check_data as checking
        from headimpact.lifecycle.summary import print_summary

        print_summary(checking.run(folder, report))


def _run(step: config.Step, arguments: list[str] | None, model: str | None, setup: str | None, debug: bool) -> None:
    with _errors_told(debug):
        plain, values = _load(step, arguments)
        job = config.Job(model or values.model, setup or values.setup)
        from headimpact.lifecycle import pipeline
        from headimpact.lifecycle.summary import print_summary

        pipeline.check_job(step, values, job)  # before the step's own imports, which take seconds
        function = importlib.import_module(f"headimpact.lifecycle.steps.{step}").run
        print_summary(pipeline.run(step, values, job, overridden=values != plain, function=function))


def _load(command: str, arguments: list[str] | None) -> tuple[config.Config, config.Config]:
    """``params.yaml`` as it is, and with the values given on the command line."""
    os.chdir(layout.find_root(Path.cwd()))
    overrides = read_overrides(arguments or [])
    loaded = config.load(layout.PARAMS), config.load(layout.PARAMS, overrides)
    for key, text in overrides.items():
        config.check_override(key, command, text)
    return loaded


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


@contextmanager
def _errors_told(debug: bool) -> Iterator[None]:
    """Bad input ends with its message and 1, Ctrl-C with 130; anything else is a fault of ours: its trace."""
    try:
        yield
    except InputError as error:
        if debug:
            raise
        print(f"Error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise typer.Exit(130) from None
