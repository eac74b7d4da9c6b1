"""What MLflow says, in a sentence, and for how long it may say nothing."""

import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException

from headimpact.errors import InputError

# MLflow's own bounds (7 tries again of 120 s each) are 500 s of silence where nothing listens, and half an hour where a
# server accepts and never answers.
_BOUNDS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_FIRST_LOOK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_LAST_WORD = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


class StoreError(InputError):
    """MLflow could not do what was asked of it."""


@contextmanager
def told(before: str = "", after: str = "") -> Iterator[None]:
    """What MLflow raises in the block becomes a :class:`StoreError`, which begins and ends with these words.

    Raises:
        StoreError: with the cause first.
    """
    try:
        yield
    except MlflowException as error:
        raise StoreError(f"{before}{cause(error)} {after}".rstrip()) from error


def cause(error: BaseException) -> str:
    """Why a request to MLflow failed, in one sentence: who does not answer and why, or what MLflow says."""
    chain = _chain(error)
    for link in chain:
        if url := getattr(getattr(link, "request", None), "url", None):  # an error of the HTTP library
            server = urlsplit(url)
            return f"{server.scheme}://{server.netloc} does not answer ({_reason(chain[-1])})."
    if isinstance(chain[-1], sqlite3.Error):  # MLflow's message begins with how SQLAlchemy came to it
        return f"MLflow's database: {chain[-1]}."
    lines = [line for line in str(getattr(error, "message", None) or error).splitlines() if line.strip()]
    text = (lines or [type(error).__name__])[0].strip().rstrip(".")
    return f"MLflow: {text}."


def is_unanswered(error: BaseException) -> bool:
    """Whether a server did not answer: whatever else is asked of it would take as long again."""
    return any(hasattr(link, "request") for link in _chain(error))


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what caused it, from the outermost to the innermost."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    return chain


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return "it accepts but says nothing in time"
    if inner := next((argument for argument in error.args if isinstance(argument, Exception)), None):
        return _reason(inner)  # urllib3 gives a pair of words and error
    return getattr(error, "strerror", None) or str(error).splitlines()[0] or type(error).__name__


def bound_patience() -> None:
    """Bound how long a request to a server may take, for this process and its children, where nobody has done so, and
    tell of every try that failed."""
    for name, value in _BOUNDS.items():
        os.environ.setdefault(name, value)
    logger = logging.getLogger("urllib3.connectionpool")
    if not any(isinstance(handler, _TriesTold) for handler in logger.handlers):
        logger.setLevel(logging.WARNING)
        logger.addHandler(_TriesTold(logging.WARNING))
        logger.propagate = False


def first_look() -> dict[str, str]:
    """Variables for one request that is to find out soon whether a server is there at all."""
    return _shortened(_FIRST_LOOK)


def last_word() -> dict[str, str]:
    """Variables for what is said to a server after it has failed: once, and shortly."""
    return _shortened(_LAST_WORD)


def _shortened(bounds: dict[str, str]) -> dict[str, str]:
    def shorter(name: str) -> str:
        given = os.environ.get(name, "")
        return min(given, bounds[name], key=int) if given.isdecimal() else bounds[name]

    return {name: shorter(name) for name in bounds}


class _TriesTold(logging.Handler):
    """Tells of a request that is tried again, which urllib3 says at great length."""

    def emit(self, record: logging.LogRecord) -> None:
        arguments: Any = record.args
        if record.msg.startswith("Retrying") and len(arguments) == 3:
            left, error, _ = arguments
            reason = _reason(_chain(error)[-1])
            print(f"The tracking server does not answer ({reason}); tries left: {left.total + 1}.", file=sys.stderr)
