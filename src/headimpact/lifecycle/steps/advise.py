"""Advise: which setup of a model to use, from what was measured; prints what the first screen of the report has."""

import os

from rich import box
from rich.console import Console
from rich.table import Table

from headimpact.errors import InputError
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.dataset_in_use import in_use
from headimpact.lifecycle.pasting import paste
from headimpact.lifecycle.proposal import advice_of
from headimpact.lifecycle.rehearsal import outcome
from headimpact.lifecycle.steps import plan
from headimpact.lifecycle.summary import Summary
from headimpact.report.advice import Advice
from headimpact.selection.grammar import ORIGINAL

_UNMADE = (
    "{dataset} has not been made (headimpact data makes it); what is in the project is of {made}, and is no evidence "
    "for it"
)


def run(config: Config, job: Job, console: Console | None = None) -> Summary:
    """Print the table of setups and the choice as text; the recommendation is in the summary."""
    console = console or Console(markup=False, highlight=False)
    advice, made = advice_of(config, job.model), in_use().instead_of(config.dataset)
    if tracking.RUN in os.environ:  # `mlflow run` opened one
        with tracking.run("advise", job.model):
            tracking.set_tags({"recommended": advice.decision.setup})
    _print_table(advice, console)
    _print_choice(config, advice, console)
    rows = [("use", advice.sentence), ("", advice.sure), *(("", note) for note in advice.notes)]
    skipped = [("dataset", _UNMADE.format(dataset=config.dataset, made=made))] if made else []
    return Summary(f"advise {job.model}", [*rows, *_costs(config, advice)], skipped, next=advice.next)


def _print_table(advice: Advice, console: Console) -> None:
    content = advice.table
    if not content.rows:
        return
    title = f"{advice.model}: every setup that was measured, adapter minus original"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    longest = max(len(word) for row in content.rows for word in row[0].text.split())
    for column, numeric in zip(content.columns, content.numeric, strict=True):
        table.add_column(column, justify="right" if numeric else "left", min_width=0 if table.columns else longest)
    for row in content.rows:
        texts = [f"{cell.text}\n{cell.note}" if cell.note else cell.text for cell in row]
        table.add_row(*texts, style="bold" if row[0].strong else None)
    console.print(table)


def _print_choice(config: Config, advice: Advice, console: Console) -> None:
    setup = advice.decision.setup
    if setup == ORIGINAL:
        return
    console.print(f"{setup} of {advice.model}, to paste elsewhere", style="bold")
    try:
        for snippet in paste(config, advice.model, setup, fetch=True):
            limits = f": {snippet.limits}" if snippet.limits else ""
            console.print(f"\n# {snippet.where}{limits}", soft_wrap=True)
            console.print(snippet.text, soft_wrap=True)
    except InputError as error:
        console.print(f"not known: {error}", soft_wrap=True)
    console.print()


def _costs(config: Config, advice: Advice) -> list[tuple[str, str]]:
    """What is not trained here, and what it would cost."""
    if not advice.missing:
        return []
    try:
        costs, estimated = plan.costs(config, advice.model, advice.missing)
    except InputError as error:
        return [(f"cost of {setup}", f"not known: {error}") for setup in advice.missing]
    rows = [(f"cost of {setup}", costs[setup]) for setup in advice.missing]
    rehearsed = map(outcome.load, sorted(layout.REHEARSALS.glob(f"{advice.model}-*.json")))
    return [*rows, ("estimates", estimated), *(("measured", _times(found)) for found in rehearsed)]


def _times(found: outcome.Outcome) -> str:
    """Seconds an image, as a rehearsal measured them."""
    times = [f"{run.what} {sum(run.seconds.values()):.3g} s" for run in found.runs if not run.problem]
    return f"an image on {found.device}: {', '.join(times)} (headimpact rehearse)"
