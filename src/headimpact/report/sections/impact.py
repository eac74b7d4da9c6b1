"""Head Impact: figures 4 and 5, and how much its ranking of the layers agrees with the other rules'."""

from pathlib import Path

import pandas as pd

from headimpact.impact.head_impact import head_grid
from headimpact.report.cells import Row, table_of
from headimpact.report.outputs import Outputs
from headimpact.report.page import Block, Cell, Picture, Text
from headimpact.report.prose import impact as prose
from headimpact.selection.agreement import agreement
from headimpact.selection.selection import HI_COLUMNS, MEASURES, POSITIONS, RULES

K = 4
"""How many top layers are compared."""


def pictures(outputs: Outputs, figure: Path) -> list[Block]:
    """One figure of every scored model; ``figure`` is its path without the model, as in ``reports/figure4``."""
    if not outputs.impacts:
        return [_not_scored(outputs)]
    return [Picture(picture_path(figure, model), model) for model in outputs.impacts]


def picture_path(figure: Path, model: str) -> Path:
    """Where a model's own figure is."""
    return figure.with_name(f"{figure.name}_{model}.png")


def rankings(outputs: Outputs) -> list[Block]:
    """Top-K by HI beside every other rule."""
    rows: dict[str, Row] = {}
    for model, impact in outputs.impacts.items():
        measured = {column: head_grid(impact, column) for column in HI_COLUMNS}
        if (table := outputs.measures.get(model)) is not None:
            measured |= {name: table[name].to_numpy() for name in MEASURES if name in table}
        k = min(K, len(measured["hi"]))
        others = [rule for rule in RULES if rule in measured or rule in POSITIONS]
        pairs = agreement([f"top-{k}", *(f"{rule}-{k}" for rule in others)], measured, seed=0)
        for rule, pair in zip(others, pairs[pairs["a"] == f"top-{k}"].to_dict("records"), strict=True):
            rank = "no ranking" if pd.isna(pair["spearman"]) else f"{pair['spearman']:+.2f}"
            rows.setdefault(rule, {"rule": Cell(rule)})[model] = Cell(rank, f"{pair['overlap']} of {k} layers")
    if not rows:
        return [_not_scored(outputs)]
    return [Text(prose.AGREEMENT.format(k=K)), table_of(list(rows.values()))]


def _not_scored(outputs: Outputs) -> Text:
    return Text(prose.NOT_SCORED.format(model=outputs.models[0]))
