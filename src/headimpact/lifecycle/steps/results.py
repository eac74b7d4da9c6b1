"""What steps write and show alike."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from headimpact.evaluation.questions import NOT_MEASURED, QUESTIONS, Asked
from headimpact.files import atomic_file
from headimpact.lifecycle.summary import Summary
from headimpact.processes import Processes
from headimpact.statistics import Difference, Estimate

MOST_ROWS = 1 << 20
"""Rows of a group in a parquet file."""


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table that other steps depend on as CSV, whole or not at all, its numbers to six significant digits.

    More would differ between processors, in whose floating point sums the last digits differ, and say nothing.
    """
    with atomic_file(path) as aside:
        table.to_csv(aside, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")


def write_frames(path: Path, frames: Iterator[pd.DataFrame]) -> None:
    """Write tables of the same columns, one at least, as one parquet file: what ``to_parquet`` writes of them together
    where they have ``MOST_ROWS``, without all of them in memory."""
    import pyarrow as pa
    from pyarrow import parquet

    tables = (pa.Table.from_pandas(frame, preserve_index=False) for frame in frames)
    first = next(tables)
    with parquet.ParquetWriter(path, first.schema, compression="snappy") as writer:
        for table in chain([first], tables):
            writer.write_table(table, MOST_ROWS)


def share_done(step: str, processes: Processes) -> Summary:
    """What a process that is not the first has to say: nothing is printed of it."""
    return Summary(step, [("process", f"{processes.rank + 1} of {processes.count}: its share is done")])


def figures(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    """Estimates as results.json has them."""
    return {name: {"value": e.value, "se": e.se, "n": e.n} for name, e in estimates.items()}


def flat(results: Mapping[str, Any]) -> dict[str, float]:
    """Every metric of results.json with its standard error, and the trained parameters, by names of one level."""
    figures = {
        f"{name}{suffix}": estimate[key]
        for name, estimate in results["metrics"].items()
        for suffix, key in (("", "value"), ("_se", "se"))
    }
    return figures | {"trainable": results["parameters"]["trainable"]}


def rows(
    labels: Mapping[str, str], results: Mapping[str, Any], differences: Mapping[str, Difference]
) -> list[tuple[str, str]]:
    """Rows of a summary: every figure that has a label, and its difference against the original if that is known; and
    what questions there were, where not every object had one of four options."""
    shown = [("questions", results[QUESTIONS]["told"])] if QUESTIONS in results else []
    for name, label in labels.items():
        if (figure := results["metrics"].get(name)) is None:
            shown.append((label, NOT_MEASURED))
            continue
        text = f"{figure['value']:.3f} ± {figure['se']:.3f} (n {figure['n']})"
        if difference := differences.get(name):
            text += f"; against the original {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        shown.append((label, text))
    return shown


def questions(asked: Asked) -> dict[str, Any]:
    """What results.json says of the questions: nothing where every object has one of four options."""
    return {} if asked.usual else {QUESTIONS: asked.to_dict()}


def missing(setup: str, differences: Mapping[str, Difference]) -> Sequence[tuple[str, str]]:
    """What a summary says where the original is not there to compare with."""
    return [] if differences or setup == "original" else [("comparison", "there is no original to compare with yet")]
