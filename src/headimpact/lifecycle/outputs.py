"""What the steps have written, read for those who show it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from headimpact.files import digest_file, read_json
from headimpact.lifecycle import layout
from headimpact.report.report import Outputs
from headimpact.report.tournament_section import Found


def collect(models: Sequence[str], setups: Sequence[str], root: Path = Path()) -> Outputs:
    """Read what exists of ``models`` x ``setups``. A model that has no file at all is left out of the tables.

    Raises:
        InputError: a file is there but broken.
    """
    cells = [(model, setup) for model in models for setup in setups]
    trained = [cell for cell in cells if cell[1] != "original"]
    paths = {
        "summaries": {model: layout.impact_summary(model) for model in models},
        "impacts": {model: layout.impact_table(model) for model in models},
        "measures": {model: layout.measures(model) for model in models},
        "variations": {model: layout.examination(model) / "variations.csv" for model in models},
        "stability": {model: layout.examination(model) / "stability.csv" for model in models},
        "variances": {model: layout.examination(model) / "variance.json" for model in models},
        "selections": {cell: layout.selection(*cell) for cell in trained},
        "results": {cell: layout.results(*cell) for cell in cells},
        "headers": {cell: layout.adapter(*cell) / "header.json" for cell in trained},
        "answers": {cell: layout.answer_results(*cell) for cell in cells},
        "generated": {cell: layout.generated(*cell) for cell in cells},
    }
    read: dict[str, dict[Any, Any]] = {
        kind: {key: _read(root / path) for key, path in files.items() if (root / path).is_file()}
        for kind, files in paths.items()
    }
    missing = [path for kind, files in paths.items() for key, path in files.items() if key not in read[kind]]
    run = {key if isinstance(key, str) else key[0] for found in read.values() for key in found}
    return Outputs(
        models=tuple(model for model in models if model in run),
        setups=tuple(setups),
        tournament=read_tournament(root),
        missing=tuple(missing),
        **read,
    )


def _read(path: Path) -> Any:
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".json": read_json}
    return readers[path.suffix](path)


def read_tournament(root: Path = Path()) -> Found | None:
    """The files of the tournament, None where one of them is absent.

    Raises:
        InputError: the verdicts are not JSON.
    """
    tables = {name: root / layout.tournament_table(name) for name in ("changes", "comparisons", "cells")}
    verdicts, figure = root / layout.tournament_verdicts(), root / layout.tournament_figure()
    if not all(path.is_file() for path in (*tables.values(), verdicts, figure)):
        return None
    read_tables = {
        name: pd.read_csv(path, dtype={"layers": str, "rank": str, "twins": str}) for name, path in tables.items()
    }
    read_tables["comparisons"] = read_tables["comparisons"].fillna({"twins": ""})
    digest = digest_file(tables["cells"])
    return Found(**read_tables, cells_digest=digest, verdicts=read_json(verdicts), figure=figure)
