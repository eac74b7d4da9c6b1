"""What is wrong with a dataset: raised by those who refuse it, collected by those who list everything."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from headimpact.errors import InputError

LeftOut = Counter[tuple[str, str]]
"""How many images or objects (the first word) were left out, by the reason (the second)."""


class Noted(str):
    """A reason for which nothing is left out, but read otherwise than a person may think."""


def told(left_out: LeftOut) -> list[tuple[str, str]]:
    """What a summary says of what was left out."""
    return [(f"{n} {what}", why) for (what, why), n in left_out.items() if n and not isinstance(why, Noted)]


def noted(left_out: LeftOut) -> list[tuple[str, str]]:
    """What a summary says of what was read otherwise."""
    return [("noted", f"{n} {what}: {why}") for (what, why), n in left_out.items() if n and isinstance(why, Noted)]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset.

    Attributes:
        record: the image, annotation or field; empty where it is the file as a whole.
        what: what is wrong.
        advice: what to do about it.
    """

    file: Path
    record: str
    what: str
    advice: str

    def __str__(self) -> str:
        """All of it in a line."""
        return f"{self.file}{f': {self.record}:' if self.record else ''} {self.what}. {self.advice}"


class DataError(InputError):
    """A problem, raised."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


Reporter = Callable[[Problem], None]
"""Is given every problem. Where it returns, the work goes on without what has the problem."""


def refuse(problem: Problem) -> NoReturn:
    """The reporter of those who take no dataset with a problem.

    Raises:
        DataError: always.
    """
    raise DataError(problem)


@contextmanager
def reporting(report: Reporter) -> Iterator[None]:
    """Hand a problem that is raised in the block to ``report``."""
    try:
        yield
    except DataError as error:
        report(error.problem)
