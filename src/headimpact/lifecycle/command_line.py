"""The command line: one command a step of the registry, imported only when it runs."""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors import SafetensorError
from typer.core import TyperCommand

from headimpact import processes
from headimpact.errors import InputError, fault_of_machine
from headimpact.lifecycle import layout, params, values
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.documentation import documentation
from headimpact.lifecycle.garbage import nothing_collected
from headimpact.lifecycle.registry import COMMANDS, STEPS, Step
from headimpact.lifecycle.starter import end_with_starter
from headimpact.lifecycle.terminal import make_printable

app = typer.Typer(
    help="Which layers of a vision-language model to fine-tune, answered from its attention.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str | None,
    typer.Option(
        help="One of models in params.yaml, or a checkpoint (folder or hub name), which gets an entry there."
        "  [default: model in params.yaml]"
    ),
]
Setup = Annotated[
    str | None,
    typer.Option(
        help="original, top-K, bottom-K, random-K, full, layers:6,8,9,11, soft-top-K, ..."
        "  [default: setup in params.yaml]"
    ),
]
Images = Annotated[int, typer.Option(min=2, help="Images of 640x480 with three objects each.")]
Values = Annotated[list[str] | None, typer.Argument(metavar="--NAME VALUE", help="Values of params.yaml, see below.")]
UNKNOWN = {"ignore_unknown_options": True}  # they are values of params.yaml
Debug = Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")]


class ValuesCommand(TyperCommand):
    """A command whose help ends with the values of params.yaml that concern it."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the usual help, then two lines a value."""
        super().format_help(ctx, formatter)
        parameters, prefix, title = documentation(), "", "which it takes as they are there:"
        if self.name in ("advise", "plan", "rehearse"):
            prefix, title = "--", "that can be tried, as in --train.batch_images 2:"
        elif self.name in STEPS or COMMANDS[str(self.name)].values:
            parameters, prefix = values.overridable(str(self.name)), "--"
            title = f"that can be given for this run alone, as --{parameters[0].key}:" if parameters else ""
        if title:
            formatter.write(f"\nValues of params.yaml {title}\n")
        for parameter in parameters:
            formatter.write(f"  {prefix}{parameter.key}  {parameter.type}{parameter.allowed}\n")
            formatter.write(f"      {parameter.meaning}\n")


def _command(step: Step) -> Callable[..., None]:
    """The function of a step's command, with the options that the step takes."""

    def of_setup(given: Values = None, model: Model = None, setup: Setup = None, debug: Debug = False) -> None:
        _run(step.name, given, model, setup, debug)

    def of_model(given: Values = None, model: Model = None, debug: Debug = False) -> None:
        _run(step.name, given, model, None, debug)

    def of_project(given: Values = None, debug: Debug = False) -> None:
        _run(step.name, given, None, None, debug)

    return {"setup": of_setup, "model": of_model, "project": of_project}[step.per]


for _step in STEPS.values():
    app.command(_step.name, help=_step.help, cls=ValuesCommand, context_settings=UNKNOWN)(_command(_step))


@app.command(help=COMMANDS["main"].help, cls=ValuesCommand, context_settings=UNKNOWN)
def main(given: Values = None, debug: Debug = False) -> None:
    """Run the whole grid."""
    with _errors_told(debug):
        _, loaded = _load("main", given)
        from headimpact.lifecycle import graph, pipeline, tracking
        from headimpact.lifecycle.summary import Summary, print_summary

        pipeline.check_processes("main")
        with tracking.run("main") as run, graph.environment(**{tracking.PARENT_RUN: run}):
            stages = pipeline.run_grid(loaded)
        rows = [("stages run", str(stages)), ("up to date", "all others")]
        print_summary(Summary("main", rows, files=[layout.REPORTS], run=run, next="mlflow ui"))


@app.command(help=COMMANDS["plan"].help, cls=ValuesCommand, context_settings=UNKNOWN)
def plan(given: Values = None, model: Model = None, debug: Debug = False) -> None:
    """Tell what a model and its setups would cost."""
    with _errors_told(debug):
        loaded, job = _load_to_try("plan", given, model)
        from headimpact.lifecycle.steps import plan as step
        from headimpact.lifecycle.summary import print_summary

        print_summary(step.run(loaded, job))


@app.command(help=COMMANDS["advise"].help, cls=ValuesCommand, context_settings=UNKNOWN)
def advise(given: Values = None, model: Model = None, debug: Debug = False) -> None:
    """Tell which setup to use."""
    with _errors_told(debug):
        loaded, job = _load_to_try("advise", given, model)
        from headimpact.lifecycle.steps import advise as step
        from headimpact.lifecycle.summary import print_summary

        print_summary(step.run(loaded, job))


@app.command(help=COMMANDS["look"].help, cls=ValuesCommand, context_settings=UNKNOWN)
def look(
    given: Values = None,
    model: Model = None,
    setup: Annotated[str, typer.Option(help="Shown beside the original; made first where it is missing.")] = "original",
    images: Annotated[int, typer.Option(min=1, help="Images of the dataset, where no --image is given.")] = 24,
    image: Annotated[Path | None, typer.Option(help="Any picture, with --phrase or --question.")] = None,
    phrase: Annotated[
        list[str] | None, typer.Option(help="What to look for in it; can be given several times.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="A question about it, which the model answers itself.")] = None,
    debug: Debug = False,
) -> None:
    """Show where every head looks."""
    picture = image.absolute() if image else None  # before the working directory becomes the project's root
    with _errors_told(debug):
        plain, loaded = _load("look", given)
        if model and model not in loaded.models:
            model = _entered(loaded, model)
            plain, loaded = _load("look", given)
        job = Job(model or loaded.model, setup)
        from headimpact.lifecycle import pipeline

        pipeline.check_processes("look")
        from headimpact.lifecycle.steps import look as step
        from headimpact.lifecycle.summary import print_summary

        asked = step.Asked(images, picture, phrase or (), question)
        asked.check()
        with pipeline.provided(*asked.reads(job), plain, _functions(plain)):
            print_summary(step.run(loaded, job, asked))


@app.command(help=COMMANDS["rehearse"].help, cls=ValuesCommand, context_settings=UNKNOWN)
def rehearse(given: Values = None, model: Model = None, images: Images = 3, debug: Debug = False) -> None:
    """Try what a real checkpoint will cost."""
    with _errors_told(debug):
        loaded, job = _load_to_try("rehearse", given, model)
        from headimpact.lifecycle.steps import rehearse as step
        from headimpact.lifecycle.summary import print_summary

        print_summary(step.run(loaded, job, images))


@app.command(help=COMMANDS["register"].help)
def register(model: Model = None, debug: Debug = False) -> None:
    """Register what is trained and evaluated."""
    with _errors_told(debug):
        _, loaded = _load("register", None)
        params.check_model(loaded, model or loaded.model)
        from headimpact.lifecycle import pipeline, registration
        from headimpact.lifecycle.summary import print_summary

        pipeline.check_processes("register")
        print_summary(registration.register_all(loaded, model or loaded.model))


@app.command(help=COMMANDS["demo"].help)
def demo(
    model: Model = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page on this machine.")] = 8501,
    debug: Debug = False,
) -> None:
    """Serve the page on which answers stand side by side."""
    with _errors_told(debug):
        _, loaded = _load("demo", None)
        name = model or loaded.model
        params.check_model(loaded, name)
        from headimpact.lifecycle import demo as page

        base = loaded.models[name]
        raise typer.Exit(page.run(name, base.source, base.revision, port))


@app.command(help=COMMANDS["export"].help)
def export(
    model: Model = None,
    setup: Setup = None,
    merged: Annotated[bool, typer.Option("--merged", help="Write the base with the adapter merged in, too.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: tell what a server would make of it; 1 if not all.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Deliver an adapter."""
    with _errors_told(debug):
        _, loaded = _load("export", None)
        job = Job(model or loaded.model, setup or loaded.setup)
        from headimpact.lifecycle import pipeline
        from headimpact.lifecycle.steps import export as step
        from headimpact.lifecycle.summary import print_summary

        pipeline.check_job("export", loaded, job)
        pipeline.check_processes("export")
        print_summary(step.check(job) if check else step.run(loaded, job, merged))


@app.command("check-data", help=COMMANDS["check-data"].help)
def check_data(
    folder: Annotated[Path, typer.Argument(help="Folder of a dataset, in this project's layout or of your own.")],
    report: Annotated[Path | None, typer.Option(help="CSV file for all problems.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of params.yaml that must be able to take it.")] = None,
    debug: Debug = False,
) -> None:
    """Check a dataset."""
    with _errors_told(debug):
        loaded = _project()
        if model and loaded is None:
            raise InputError("--model names a model of params.yaml, and there is none here or above.")
        from headimpact.lifecycle import check_data as checking
        from headimpact.lifecycle.summary import print_summary

        vlm = None
        if loaded and model:
            from headimpact.vlm import loading

            params.check_model(loaded, model)
            base = loaded.models[model]
            with chdir(layout.find_root(Path.cwd())):
                vlm = loading.skeleton(base.source, base.revision)
        plan = checking.Plan(loaded.split.model_dump(), loaded.seed, vlm, loaded.dataset) if loaded else None
        print_summary(checking.run(folder, report, plan=plan))


@app.command(help=COMMANDS["convert"].help)
def convert(
    source: Annotated[Path, typer.Argument(help="Folder of LabelMe, YOLO, a CSV table or a COCO export, unpacked.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make, for `dataset` in params.yaml.")],
    boxes: Annotated[
        bool, typer.Option("--boxes", help="Take the box of an object without a mask for its mask.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Make data of one's own from another tool's files."""
    with _errors_told(debug):
        from headimpact.data.converting.writing import convert as write_converted
        from headimpact.lifecycle.summary import Summary, print_summary

        made = write_converted(source, folder, boxes)
        rows = [("kind", made.kind), ("images", str(made.images)), ("objects", str(made.objects))]
        if made.boxes:
            rows.append(("masks", f"{made.boxes} are boxes: attention on what else is in them counts as on the object"))
        following = f"headimpact check-data {folder}"
        print_summary(Summary(f"convert {source}", rows, made.left_out, [folder], next=following))


def _project() -> Config | None:
    """The values of the project that the working directory is in; None outside of any."""
    try:
        root = layout.find_root(Path.cwd())
    except InputError:
        return None
    return params.load(root / layout.PARAMS)


@app.command(help=COMMANDS["write"].help)
def write(debug: Debug = False) -> None:
    """Write what follows from the registry and from the code."""
    with _errors_told(debug):
        _, loaded = _load("write", None)
        from headimpact.lifecycle import code, jobs, pages, written

        changed = written.write({**written.files(loaded.grid), **pages.pages(Path())})
        changed += [layout.FINGERPRINTS] if code.refresh(loaded) else []
        changed += [layout.JOBS] if jobs.enter([("report", Job(loaded.model, loaded.setup))], loaded) else []
        print(f"Written: {', '.join(map(str, changed))}" if changed else "Everything is as it should be.")


def _run(step: str, arguments: list[str] | None, model: str | None, setup: str | None, debug: bool) -> None:
    with _errors_told(debug), _told_in_run(step, model, setup), nothing_collected():
        plain, loaded = _load(step, arguments)
        if model and model not in loaded.models:
            model = _entered(loaded, model)
            plain, loaded = _load(step, arguments)
        job = Job(model or loaded.model, setup or loaded.setup)
        from headimpact.lifecycle import pipeline
        from headimpact.lifecycle.summary import print_summary

        summaries = pipeline.run(step, loaded, job, loaded != plain, _functions(loaded))
        processes.leave()
        for summary in summaries:
            print_summary(summary)


def _functions(config: Config) -> Callable[[str], Callable[[Config, Job], Any]]:
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


def _entered(config: Config, model: str) -> str:
    """The name of a model that is not one of params.yaml by now."""
    from headimpact.lifecycle import entries

    return entries.model_of(config, model)


def _load(command: str, arguments: list[str] | None) -> tuple[Config, Config]:
    """``params.yaml`` as it is, and with the values given on the command line."""
    os.chdir(layout.find_root(Path.cwd()))
    overrides = read_overrides(arguments or [])
    loaded = params.load(layout.PARAMS), params.load(layout.PARAMS, overrides)
    for key, text in overrides.items():
        values.check_override(key, command, text)
    return loaded


def _load_to_try(command: str, arguments: list[str] | None, model: str | None) -> tuple[Config, Job]:
    """Any values, and a model: for a command that nothing depends on."""
    os.chdir(layout.find_root(Path.cwd()))
    overrides = read_overrides(arguments or [])
    loaded = params.load(layout.PARAMS, overrides)
    if model and model not in loaded.models:
        model = _entered(loaded, model)
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
def _errors_told(debug: bool) -> Iterator[None]:
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
