"""What the rules of selection go by, from the files that hold it."""

from pathlib import Path

import numpy as np
import pandas as pd

from headimpact.errors import InputError
from headimpact.lifecycle import layout
from headimpact.selection.measured import measured_layers


def read_measured(model: str, with_measures: bool) -> dict[str, np.ndarray]:
    """The columns of the HI table and, ``with_measures``, what measure found.

    Raises:
        InputError: a file is not there.
    """
    table = _read(layout.impact_table(model), f"score --model {model}")
    measures = _read(layout.measures(model), f"measure --model {model}") if with_measures else None
    return measured_layers(table, measures)


def _read(path: Path, command: str) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Make it: headimpact {command}") from None
