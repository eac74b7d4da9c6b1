"""What a command tells at its end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Summary:
    """What was done (``rows``), what was skipped and why, the files, the MLflow run, the next command."""

    title: str
    rows: list[tuple[str, str]]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    run: str | None = None
    next: str | None = None


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """Print one small table; nothing in it is read as markup, and nothing is cut off."""
    table = Table(title=summary.title, title_justify="left", title_style="bold", show_header=False, expand=False)
    table.add_column(style="cyan", overflow="fold")
    table.add_column(overflow="fold")
    for block in _blocks(summary):
        for row in block:
            table.add_row(*row)
        table.add_section()
    (console or Console(markup=False, highlight=False)).print(table)


def _blocks(summary: Summary) -> list[Sequence[tuple[str, str]]]:
    done = summary.rows
    skipped = [(f"skipped {what}", why) for what, why in summary.skipped] or [("skipped", "nothing")]
    places = [("files", "\n".join(path.as_posix() for path in summary.files))] if summary.files else []
    run = [("MLflow run", summary.run)] if summary.run else []
    after = [("next", summary.next)] if summary.next else []
    return [done, skipped, [*places, *run, *after]]
