"""Progress of long work: a bar with rate and time left, or a line every few seconds where there is no terminal."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SECONDS_BETWEEN_LINES = 5.0
Item = TypeVar("Item")


class _RateColumn(ProgressColumn):
    """Items a second; empty until it is known."""

    def render(self, task: Task) -> Text:
        """The rate of the last half minute."""
        return Text("" if task.speed is None else f"{task.speed:.1f} a second")


def track(items: Iterable[Item], total: int, what: str, console: Console | None = None) -> Iterator[Item]:
    """Yield ``items`` and show how far they are.

    Args:
        items: what is worked on.
        total: how many there will be.
        what: the work in a word or two.
        console: where to show it; standard output if None.
    """
    console = console or Console(markup=False, highlight=False)
    if not console.is_terminal:
        yield from _lines(items, total, what, console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RateColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        yield from bar.track(items, total=total, description=what)


def _lines(items: Iterable[Item], total: int, what: str, console: Console) -> Iterator[Item]:
    started = told = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - told >= SECONDS_BETWEEN_LINES and done < total:
            rate = done / (now - started)
            console.print(f"{what}: {done}/{total}, {rate:.1f} a second, {(total - done) / rate:.0f} s left")
            told = now
