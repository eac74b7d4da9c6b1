"""Values as cells, and rows of cells as tables."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, cast

import pandas as pd

from headimpact.report.page import Block, Cell, Items, Table, Text

MISSING = "missing"

Row = dict[str, Cell]
"""Cells by column."""


def value_cell(value: Any) -> Cell:
    """A value as text; a cell without a value says so."""
    if pd.isna(value):
        return Cell(MISSING)
    if isinstance(value, float):
        return Cell(f"{value:.4g}")
    return Cell(f"{value:,}" if isinstance(value, Integral) else str(value))


def estimate_cell(
    value: float, error: float, change: tuple[float, float, float] | None = None, strong: bool = False
) -> Cell:
    """A figure with its standard error, and below it its difference with the ends of its interval, if there is one."""
    note = "" if change is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*change)
    return Cell(f"{value:.3f} ± {error:.3f}", note, strong)


def rows_of(table: pd.DataFrame) -> list[Row]:
    """The rows of a table, value by value."""
    return [{str(name): value_cell(value) for name, value in row.items()} for row in records(table)]


def table_of(rows: Sequence[Mapping[str, Cell]]) -> Table:
    """Rows as a table of all their columns; a row that has not a column has no value to miss there."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return Table(columns, [[row.get(column, Cell("")) for column in columns] for row in rows])


def listing(items: Sequence[object], otherwise: str) -> Block:
    """A list, or a sentence where there is nothing to list."""
    return Items([str(item) for item in items]) if items else Text(otherwise)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries."""
    return cast(list[dict[str, Any]], table.to_dict("records"))
