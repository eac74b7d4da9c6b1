"""The rows of tables."""

from typing import Any, cast

import pandas as pd


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries."""
    return cast(list[dict[str, Any]], table.to_dict("records"))
