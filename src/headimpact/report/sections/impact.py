"""Head Impact: figures 4 and 5, and how much its ranking of the layers agrees with the other rules'."""

from pathlib import Path

import pandas as pd

from headimpact.report.cells import Row, table_of
from headimpact.report.outputs import Outputs
from headimpact.report.page import Block, Cell, Picture, Text
from headimpact.report.prose import impact as prose
from headimpact.selection.agreement import with_champion
from headimpact.selection.measured import attending, measured_layers
from headimpact.selection.rules import BY_POSITION, RULES
from headimpact.text import listed

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
        measured = measured_layers(impact, outputs.measures.get(model))
        k = min(K, len(attending(measured)))
        for pair in with_champion(measured, k).to_dict("records"):
            rank = "no ranking" if pd.isna(pair["spearman"]) else f"{pair['spearman']:+.2f}"
            row = rows.setdefault(pair["rule"], {"rule": Cell(pair["rule"])})
            row[model] = Cell(rank, f"{pair['overlap']} of {k} layers")
    if not rows:
        return [_not_scored(outputs)]
    measured_rules = listed([rule.name for rule in RULES.values() if rule.needs_measures])
    positions = listed([rule.name for rule in RULES.values() if rule.group == BY_POSITION])
    about = prose.AGREEMENT.format(k=K, measured=measured_rules, positions=positions)
    return [Text(about), table_of(list(rows.values()))]


def _not_scored(outputs: Outputs) -> Text:
    return Text(prose.NOT_SCORED.format(model=outputs.models[0]))
