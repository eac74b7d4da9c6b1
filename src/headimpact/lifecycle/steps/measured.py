"""What the rules of selection go by, from the files that hold it."""

from pathlib import Path

import numpy as np
import pandas as pd

from headimpact.errors import InputError
from headimpact.impact.head_impact import head_grid
from headimpact.lifecycle import layout
from headimpact.selection.selection import HI_COLUMNS, MEASURES


def read_measured(model: str, with_measures: bool) -> dict[str, np.ndarray]:
    """The columns of the HI table and, ``with_measures``, what measure found.

    Raises:
        InputError: a file is not there.
    """
    table = _read(layout.impact_table(model), f"score --model {model}")
    measured = {column: head_grid(table, column) for column in HI_COLUMNS}
    if with_measures:
        layers = _read(layout.measures(model), f"measure --model {model}")
        measured |= {name: layers[name].to_numpy() for name in MEASURES if name in layers}
    return measured


def _read(path: Path, command: str) -> pd.DataFrame:
    try:
        return pd.read_csv(path, float_precision="round_trip")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Make it: headimpact {command}") from None
