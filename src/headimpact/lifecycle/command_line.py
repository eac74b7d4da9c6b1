"""The command line: one command a step of the registry, imported only when it runs."""

from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from headimpact.errors import InputError
from headimpact.lifecycle import layout, params, values
from headimpact.lifecycle.config import Job
from headimpact.lifecycle.documentation import documentation
from headimpact.lifecycle.invocation import (
    entered,
    errors_told,
    load,
    load_to_try,
    project_values,
    run_step,
    step_functions,
)
from headimpact.lifecycle.registry import COMMANDS, STEPS, Step

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
        run_step(step.name, given, model, setup, debug)

    def of_model(given: Values = None, model: Model = None, debug: Debug = False) -> None:
        run_step(step.name, given, model, None, debug)

    def of_project(given: Values = None, debug: Debug = False) -> None:
        run_step(step.name, given, None, None, debug)

    return {"setup": of_setup, "model": of_model, "project": of_project}[step.per]


for _step in STEPS.values():
    app.command(_step.name, help=_step.help, cls=ValuesCommand, context_settings=UNKNOWN)(_command(_step))


@app.command(help=COMMANDS["main"].help, cls=ValuesCommand, context_settings=UNKNOWN)
def main(given: Values = None, debug: Debug = False) -> None:
    """Run the whole grid."""
    with errors_told(debug):
        _, loaded = load("main", given)
        from headimpact.lifecycle import graph, pipeline, tracking
        from headimpact.lifecycle.summary import Summary, print_summary

        pipeline.check_processes("main")
        with tracking.run("main") as run, graph.environment(**{tracking.PARENT_RUN: run}):
            stages = pipeline.run_grid(loaded, step_functions(loaded))
        rows = [("stages run", str(stages)), ("up to date", "all others")]
        print_summary(Summary("main", rows, files=[layout.REPORTS], run=run, next="mlflow ui"))


@app.command(help=COMMANDS["plan"].help, cls=ValuesCommand, context_settings=UNKNOWN)
def plan(given: Values = None, model: Model = None, debug: Debug = False) -> None:
    """Tell what a model and its setups would cost."""
    with errors_told(debug):
        loaded, job = load_to_try("plan", given, model)
        from headimpact.lifecycle.steps import plan as step
        from headimpact.lifecycle.summary import print_summary

        print_summary(step.run(loaded, job))


@app.command(help=COMMANDS["advise"].help, cls=ValuesCommand, context_settings=UNKNOWN)
def advise(given: Values = None, model: Model = None, debug: Debug = False) -> None:
    """Tell which setup to use."""
    with errors_told(debug):
        loaded, job = load_to_try("advise", given, model)
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
    with errors_told(debug):
        plain, loaded = load("look", given)
        if model and model not in loaded.models:
            model = entered(loaded, model)
            plain, loaded = load("look", given)
        job = Job(model or loaded.model, setup)
        from headimpact.lifecycle import pipeline

        pipeline.check_processes("look")
        from headimpact.lifecycle.steps import look as step
        from headimpact.lifecycle.summary import print_summary

        asked = step.Asked(images, picture, phrase or (), question)
        asked.check()
        with pipeline.provided(*asked.reads(job), plain, step_functions(plain)):
            print_summary(step.run(loaded, job, asked))


@app.command(help=COMMANDS["rehearse"].help, cls=ValuesCommand, context_settings=UNKNOWN)
def rehearse(given: Values = None, model: Model = None, images: Images = 3, debug: Debug = False) -> None:
    """Try what a real checkpoint will cost."""
    with errors_told(debug):
        loaded, job = load_to_try("rehearse", given, model)
        from headimpact.lifecycle.steps import rehearse as step
        from headimpact.lifecycle.summary import print_summary

        print_summary(step.run(loaded, job, images))


@app.command(help=COMMANDS["register"].help)
def register(model: Model = None, debug: Debug = False) -> None:
    """Register what is trained and evaluated."""
    with errors_told(debug):
        _, loaded = load("register", None)
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
    with errors_told(debug):
        _, loaded = load("demo", None)
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
    with errors_told(debug):
        _, loaded = load("export", None)
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
    with errors_told(debug):
        loaded = project_values()
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
    with errors_told(debug):
        from headimpact.data.converting.writing import convert as write_converted
        from headimpact.lifecycle.summary import Summary, print_summary

        made = write_converted(source, folder, boxes)
        rows = [("kind", made.kind), ("images", str(made.images)), ("objects", str(made.objects))]
        if made.boxes:
            rows.append(("masks", f"{made.boxes} are boxes: attention on what else is in them counts as on the object"))
        following = f"headimpact check-data {folder}"
        print_summary(Summary(f"convert {source}", rows, made.left_out, [folder], next=following))


@app.command(help=COMMANDS["write"].help)
def write(debug: Debug = False) -> None:
    """Write what follows from the registry and from the code."""
    with errors_told(debug):
        _, loaded = load("write", None)
        from headimpact.lifecycle import code, jobs, pages, written

        changed = written.write({**written.files(loaded.grid), **pages.pages(Path())})
        changed += [layout.FINGERPRINTS] if code.refresh(loaded) else []
        changed += [layout.JOBS] if jobs.enter([("report", Job(loaded.model, loaded.setup))], loaded) else []
        print(f"Written: {', '.join(map(str, changed))}" if changed else "Everything is as it should be.")
