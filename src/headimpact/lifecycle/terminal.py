"""Output that every terminal can take: where it cannot show a character, a plain one stands in its place."""

import codecs
import io
import sys

_PLAIN = {"±": "+/-", "↑": "(up)", "↓": "(down)", "…": "...", "\N{MULTIPLICATION SIGN}": "x", "\N{EN DASH}": "-"}
_HANDLER = "headimpact.plain"


def make_printable() -> None:
    """Have standard output and standard error write plain characters where their encoding lacks one.

    Else a result's table would be computed, and then end in an error in a terminal that is not UTF-8.
    """
    codecs.register_error(_HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in text), error.end
