"""Progress of long work: a bar with rate and time left, or a line every few seconds where there is no terminal."""

import time
from collections.abc import Callable, Iterable, Iterator
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


def _nothing(item: object) -> str:
    return ""


def track(
    items: Iterable[Item],
    total: int,
    what: str,
    console: Console | None = None,
    note: Callable[[Item], str] = _nothing,
) -> Iterator[Item]:
    """Yield ``items`` and show how far they are.

    Args:
        items: what is worked on.
        total: how many there will be.
        what: the work in a word or two.
        console: where to show it; standard output if None.
        note: what an item has to say; the latest is shown.
    """
    console = console or Console(markup=False, highlight=False)
    if not console.is_terminal:
        yield from _lines(items, total, what, console, note)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RateColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, *times, console=console) as bar:
        task = bar.add_task(what, total=total, note="")
        for item in bar.track(items, total=total, task_id=task):
            yield item
            bar.update(task, note=note(item))


def _lines(
    items: Iterable[Item], total: int, what: str, console: Console, note: Callable[[Item], str]
) -> Iterator[Item]:
    started = told = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - told >= SECONDS_BETWEEN_LINES and done < total:
            rate = done / (now - started)
            words = f"{what}: {done}/{total}, {rate:.1f} a second, {(total - done) / rate:.0f} s left"
            console.print(f"{words}; {said}" if (said := note(item)) else words, soft_wrap=True)
            told = now
