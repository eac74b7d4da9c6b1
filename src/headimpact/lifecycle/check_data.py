"""``headimpact check-data``: what is wrong with a dataset, on the screen and as CSV."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from headimpact.data.checking import check, write_problems
from headimpact.data.problems import Problem
from headimpact.errors import InputError
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.summary import Summary, print_summary

MAX_PRINTED = 50


def run(folder: Path, report: Path | None = None, console: Console | None = None) -> Summary:
    """Check a dataset, print its problems and summarise them.

    Args:
        folder: see :func:`check`.
        report: CSV for all problems.
        console: where to show the first problems; standard output if None.

    Raises:
        InputError: the dataset has a problem.
    """
    console = console or Console(markup=False, highlight=False)
    result = check(folder, lambda samples, part: track(samples, len(samples), f"checking {part}", console))
    if report is not None:
        write_problems(report, result.problems)
    counts = [(part, f"{images} images, {objects} objects") for part, (images, objects) in result.parts.items()]
    rows = [*counts, ("problems", str(len(result.problems)))]
    summary = Summary(f"check-data {folder}", rows, files=[] if report is None else [report])
    if result.problems:
        print_problems(folder, result.problems, console)
        print_summary(summary, console)
        count = len(result.problems)
        raise InputError(f"{folder} has {count} problem{'s' * (count > 1)}.")
    return summary


def print_problems(folder: Path, problems: Sequence[Problem], console: Console) -> None:
    """Print a table of the first problems of a dataset, and how many more there are."""
    table = Table("where", "what is wrong", "what to do", show_lines=True)
    for column in table.columns:
        column.overflow = "fold"
    for problem in problems[:MAX_PRINTED]:
        file = problem.file.relative_to(folder) if problem.file != folder else ""
        where = "\n".join(filter(None, (str(file), problem.record)))
        table.add_row(where, problem.what, problem.advice)
    console.print(table)
    if len(problems) > MAX_PRINTED:
        console.print(f"... and {len(problems) - MAX_PRINTED} more; --report file.csv writes all.")
