"""The lists of a JSON file item by item: a file of any length takes the memory of its longest item."""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from headimpact.errors import InputError

MAX_VALUE = 1 << 28
"""Characters of a single value, such as a record: a file that never ends one would fill the memory."""

_CHUNK = 1 << 20  # characters
_SPACE = re.compile(r"[ \t\n\r]*")


class UnevenJsonError(InputError):
    """A file that is no JSON, or no dictionary, or has a key twice: it must be read as a whole to say so."""


Entry = tuple[str, int | None, Any]
"""A key, and its value after None; or, where the value is a list that is read item by item, an empty list in its place,
and then for each item the key, its index and the item."""


def walk(path: Path, lists: Collection[str]) -> Iterator[Entry]:
    """The entries of a dictionary in a file, in order; lists under the keys ``lists`` are read item by item.

    Raises:
        UnevenJsonError: after any number of entries.
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8-sig") as stream:
        try:
            yield from _Reader(stream).entries(lists)
        except (ValueError, RecursionError) as error:
            raise UnevenJsonError(str(error)) from None


class _Reader:
    """The rest of a text, of which some is in memory: ``text`` from ``place`` on."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.text = ""
        self.place = 0
        self.ended = False  # nothing follows what is in memory
        self.decoder = json.JSONDecoder()

    def _read_on(self) -> None:
        """Read a chunk, a larger one where a single value takes several."""
        rest = self.text[self.place :]
        added = self.stream.read(max(_CHUNK, len(rest)))
        self.text, self.place, self.ended = rest + added, 0, not added

    def _peek(self, start: int = 0) -> str:
        """The next character that is no white space, from ``start`` characters on; empty where none is in memory."""
        match = _SPACE.match(self.text, self.place + start)
        assert match is not None
        return self.text[match.end() : match.end() + 1]

    def _next(self) -> str:
        """Go to the next character that is no white space; empty at the end."""
        while not (character := self._peek()) and not self.ended:
            self._read_on()
        self.place = self.text.find(character, self.place) if character else len(self.text)
        return character

    def _take(self, expected: str) -> str:
        """Go behind the next character, which is one of those expected."""
        character = self._next()
        if not character or character not in expected:
            raise ValueError(f"{character!r} in the place of {expected!r}")
        self.place += 1
        return character

    def _value(self) -> Any:
        """Go behind the next value."""
        self._next()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError:
                if self.ended:
                    raise
                if len(self.text) - self.place > MAX_VALUE:
                    raise ValueError(f"a value of more than {MAX_VALUE} characters") from None
            else:
                # A number may go on behind what is in memory.
                follows = self._peek(end - self.place)
                if self.ended or (follows and follows in ",:]}"):
                    self.place = end
                    return value
            self._read_on()

    def _items(self) -> Iterator[Any]:
        self._take("[")
        if self._next() == "]":
            self._take("]")
            return
        while True:
            yield self._value()
            if self._take(",]") == "]":
                return

    def entries(self, lists: Collection[str]) -> Iterator[Entry]:
        """See :func:`walk`."""
        keys = set[str]()
        self._take("{")
        closed = self._next() == "}" and self._take("}")
        while not closed:
            key = self._value()
            if not isinstance(key, str) or key in keys:
                raise ValueError(f"{key!r} is no key, or one that was there before")
            keys.add(key)
            self._take(":")
            if key in lists and self._next() == "[":
                yield key, None, []
                for index, item in enumerate(self._items()):
                    yield key, index, item
            else:
                yield key, None, self._value()
            closed = self._take(",}") == "}"
        if self._next():
            raise ValueError("something follows the dictionary")
