"""A document, and its form as Markdown; ``as_html`` makes one HTML page of the same content.

The blocks hold plain text; each form escapes it.
"""

import base64
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

# What `mlflow ui` listens on, and the first experiment that is made in a fresh store.
ADDRESS = "http://127.0.0.1:5000"
EXPERIMENT = "0"
# 12, 1,024, -0.4, 3.6e-9, 3.02 ± 0.03, 0.4 (0.1 to 0.7); page.js holds the same to sort by it.
_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?%?(\s*[±(].*)?", re.IGNORECASE | re.DOTALL)
_NO_NUMBER = ("", "missing")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what it says, a second line below it, and whether it stands out."""

    text: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    kind: ClassVar[str] = "items"
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table; every row has a cell for every column."""

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def numeric(self) -> list[bool]:
        """For each column: does it hold numbers, and numbers alone?"""
        columns = [[row[index].text for row in self.rows] for index in range(len(self.columns))]
        given = [[text for text in column if text not in _NO_NUMBER] for column in columns]
        return [bool(texts) and all(map(_NUMBER.fullmatch, texts)) for texts in given]


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG file. Markdown points to it, HTML holds it; a ``wide`` one is as wide as the page, however high."""

    kind: ClassVar[str] = "picture"
    path: Path
    caption: str
    wide: bool = False

    @property
    def data_uri(self) -> str:
        """The whole picture as an address."""
        kind = "png" if self.path.suffix == ".png" else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.path.read_bytes()).decode()}"


@dataclass(frozen=True)
class Run:
    """An MLflow run, named by what it ran and found by a search: a run id would differ from store to store."""

    name: str
    search: str

    @property
    def link(self) -> str:
        """Where the default store shows what the search finds."""
        return f"{ADDRESS}/#/experiments/{EXPERIMENT}/runs?searchFilter={quote(self.search, safe='')}"


@dataclass(frozen=True)
class Runs:
    """MLflow runs. The HTML page has fields for the address of the store, which its links follow."""

    kind: ClassVar[str] = "runs"
    runs: Sequence[Run]


@dataclass(frozen=True)
class Code:
    """Text to copy, line by line as it is."""

    kind: ClassVar[str] = "code"
    text: str


Block = Text | Heading | Items | Table | Picture | Runs | Code


@dataclass(frozen=True)
class Section:
    """Blocks below a title; no two sections of a document have the same one."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """The title as an anchor of the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Document:
    """A title and sections."""

    title: str
    sections: Sequence[Section]


def to_markdown(document: Document, folder: Path) -> str:
    """The same content for an editor and for a repository's web page.

    Args:
        document: what to write.
        folder: where the file will be; pictures are pointed to from there.
    """
    parts = [f"# {_escape(document.title)}"]
    for section in document.sections:
        parts += [f"## {_escape(section.title)}", *(_markdown(block, folder) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Text():
            return _escape(block.text)
        case Heading():
            return f"### {_escape(block.text)}"
        case Items():
            return "\n".join(f"- {_escape(item)}" for item in block.items)
        case Table():
            return table_markdown(block).strip()
        case Picture():
            address = Path(os.path.relpath(block.path, folder)).as_posix()
            return f"![{_escape(block.caption)}]({quote(address)})"
        case Code():
            return _fenced(block.text)
        case Runs():
            return "\n".join(f"- {_escape(run.name)}: {_code(run.search)}" for run in block.runs)


def table_markdown(table: Table) -> str:
    """A Markdown table."""
    rows = [list(map(_escape, table.columns)), ["---"] * len(table.columns)]
    rows += [list(map(_cell, row)) for row in table.rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(cell: Cell) -> str:
    text = f"**{_escape(cell.text)}**" if cell.strong else _escape(cell.text)
    return f"{text}<br>{_escape(cell.note)}" if cell.note else text


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*|\[\]])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _fenced(text: str) -> str:
    """Lines in a code block, whose fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _code(text: str) -> str:
    """Text in a code span, whose fence is longer than any run of backticks in it."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {' '.join(text.split())} {fence}"
