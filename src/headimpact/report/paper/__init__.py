"""The tables that the paper prints, and nothing else of it.

Every value is text, as printed: 0.30 is not 0.3, and equal in every digit is a comparison of texts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pandas as pd

Tables = Mapping[str, pd.DataFrame]

METRICS = ("accuracy", "ans_prob", "perplexity")
"""The metrics of table 4."""

FILES = {
    "table1": "table1_models.csv",
    "table2": "table2_kruskal_as_printed.csv",
    "table3": "table3_layers.csv",
    "table4": "table4_metrics.csv",
    "table5": "table5_parameters.csv",
}


def read() -> dict[str, pd.DataFrame]:
    """Tables 1 to 5 by name.

    Columns: table1 model, checkpoint, layers, heads; table2 column_as_printed, groups (layers or heads), statistic,
    p_value; table3 model, setup, layers (as in ``6 8 9 11``); table4 model, setup, accuracy, ans_prob, perplexity, the
    last two with ``_se``; table5 model, total, trainable, percent.
    """
    folder = Path(__file__).parent
    return {name: pd.read_csv(folder / file, dtype=str) for name, file in FILES.items()}


def rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of a printed table."""
    return cast(list[dict[str, str]], table.to_dict("records"))


def cell(row: Mapping[str, str], metric: str) -> str:
    """One cell of table 4 as printed: ``0.94`` or ``0.94 ± 0.01``."""
    error = row.get(f"{metric}_se")
    return row[metric] if error is None else f"{row[metric]} ± {error}"
