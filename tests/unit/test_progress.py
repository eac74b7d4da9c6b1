"""Progress: a bar on a terminal, a line every few seconds elsewhere."""

import io
import time

import pytest
from rich.console import Console

from headimpact.lifecycle import progress


class Clock:
    """A clock that only goes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def run(clock: Clock, seconds: list[float], total: int | None = None) -> list[str]:
    """The lines that are told while items take so many seconds each."""
    told = io.StringIO()
    console = Console(file=told, force_terminal=False, markup=False, highlight=False, width=200)
    done = []
    for item in progress.track(iter(seconds), total or len(seconds), "scoring tiny [x]", console):
        clock.now += item
        done.append(item)
    assert done == seconds
    return told.getvalue().splitlines()


def test_a_line_every_few_seconds_with_rate_and_time_left(clock):
    """At 2 s an item: after 6 and 12 s; nothing at the end, where the summary follows."""
    assert run(clock, [2.0] * 7) == [
        "scoring tiny [x]: 3/7, 0.5 a second, 8 s left",
        "scoring tiny [x]: 6/7, 0.5 a second, 2 s left",
    ]


def test_quick_work_tells_nothing(clock):
    assert run(clock, [0.1] * 20) == []


def test_slow_items_tell_a_line_each_but_the_last(clock):
    assert run(clock, [10.0, 30.0, 1.0]) == [
        "scoring tiny [x]: 1/3, 0.1 a second, 20 s left",
        "scoring tiny [x]: 2/3, 0.1 a second, 20 s left",
    ]


def test_work_that_ends_before_its_total_is_no_error(clock):
    """Early stopping: fewer items than announced."""
    assert run(clock, [6.0], total=4) == ["scoring tiny [x]: 1/4, 0.2 a second, 18 s left"]


def test_nothing_to_do(clock):
    assert run(clock, []) == []


def test_a_terminal_gets_a_bar_with_count_and_rate():
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=120, color_system=None)

    def until_it_is_told():
        for item in range(200):
            yield item
            if "a second" in told.getvalue():
                return
            time.sleep(0.05)

    done = list(progress.track(until_it_is_told(), 200, "scoring", console))
    assert len(done) < 200
    assert "scoring" in told.getvalue()
    assert "/200" in told.getvalue()


def test_an_error_of_the_work_passes_through(clock):
    def broken():
        yield 1
        raise OSError("disk")

    console = Console(file=io.StringIO(), force_terminal=False)
    with pytest.raises(OSError, match="disk"):
        list(progress.track(broken(), 2, "scoring", console))


def test_what_the_latest_item_has_to_say_is_shown(clock):
    told = io.StringIO()
    console = Console(file=told, force_terminal=False, markup=False, highlight=False, width=200)
    for _ in progress.track(["loss 2.0", "loss 1.0", "loss 0.5"], 3, "training", console, note=str):
        clock.now += 6
    assert [line.partition("; ")[2] for line in told.getvalue().splitlines()] == ["loss 2.0", "loss 1.0"]
