"""``headimpact check-data``: what is wrong with a dataset, on the screen and as CSV."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from headimpact.data.checking import check, write_problems
from headimpact.data.packed import PackedSamples
from headimpact.data.problems import Problem
from headimpact.errors import InputError
from headimpact.lifecycle import layout
from headimpact.lifecycle.outlook import outlook, split_as_data_would
from headimpact.lifecycle.params import is_own
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.summary import Summary, print_summary
from headimpact.vlm.base import Vlm
from headimpact.vlm.suited import Unsuited, suited

MAX_PRINTED = 50


@dataclass(frozen=True)
class Plan:
    """What would be made of a dataset.

    Attributes:
        sizes: of the parts.
        seed: of split and questions.
        vlm: the base that it is for, without weights; None where it is checked for none.
        dataset: what params.yaml names as the dataset.
    """

    sizes: Mapping[str, int | float]
    seed: int
    vlm: Vlm | None = None
    dataset: str = ""


def run(folder: Path, report: Path | None = None, console: Console | None = None, plan: Plan | None = None) -> Summary:
    """Check a dataset, print its problems and summarise them, and what it will and will not measure.

    Args:
        folder: see :func:`check`.
        report: CSV for all problems.
        console: where to show the first problems; standard output if None.
        plan: what would be made of it; None where that is not known.

    Raises:
        InputError: the dataset has a problem.
    """
    console = console or Console(markup=False, highlight=False)
    result = check(folder, lambda samples, part: track(samples, len(samples), f"checking {part}", console))
    problems = [*result.problems, *(_unsuited(folder, result.samples, plan.vlm) if plan and plan.vlm else [])]
    if report is not None:
        write_problems(report, problems)
    counts = [(part, f"{images} images, {objects} objects") for part, (images, objects) in result.parts.items()]
    rows = [*counts, *result.noted, ("problems", str(len(problems)))]
    parts = split_as_data_would(result.samples, plan.sizes, plan.seed) if plan and not result.problems else None
    if plan and parts:
        rows += outlook(parts, plan.seed)
    files = [] if report is None else [report]
    summary = Summary(f"check-data {folder}", rows, skipped=result.left_out, files=files)
    if problems:
        print_problems(folder, problems, console)
        print_summary(summary, console)
        count = len(problems)
        raise InputError(f"{folder} has {count} problem{'s' * (count > 1)}.")
    if plan:
        summary = replace(summary, next=_next(folder.absolute(), plan.dataset))
    return summary


def _next(folder: Path, dataset: str) -> str | None:
    """What makes the dataset of a sound folder; None where the folder is what was made."""
    root = layout.find_root(Path.cwd())
    if folder == root / layout.DATASET:
        return None
    named = is_own(dataset) and (root / dataset).resolve() == folder.resolve()
    told = folder.relative_to(root) if folder.is_relative_to(root) else folder
    text = told.as_posix() if "/" in told.as_posix() else f"./{told.as_posix()}"
    return "headimpact data" if named else f"dataset: {text} in {layout.PARAMS}, then headimpact data"


def _unsuited(folder: Path, samples_of: Mapping[str, PackedSamples], vlm: Vlm) -> list[Problem]:
    """What a base cannot take."""
    found: list[Unsuited] = []
    for samples in samples_of.values():
        suited(samples, vlm, found.append)
    advice = "It is left out with this model, and the others go on."
    return [Problem(folder, what.record, what.reason, advice) for what in found]


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
