"""Head Impact under test: by other definitions, on other images, and split into layers and heads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from headimpact.impact.variations import TOP_LAYERS
from headimpact.report import examined
from headimpact.report.cells import Row, records, table_of, value_cell
from headimpact.report.outputs import Outputs
from headimpact.report.page import Block, Cell, Heading, Items, Picture, Text
from headimpact.report.prose import examination as prose
from headimpact.report.sections.impact import picture_path


def examination(outputs: Outputs, figure: Path) -> list[Block]:
    """Every examined model: sentences, the variations, its stability, and where the variance lies.

    Args:
        outputs: what the steps have written.
        figure: the path of the figure of stability without the model, as in ``reports/stability``.
    """
    models = [model for model in outputs.variations if model in outputs.stability and model in outputs.variances]
    if not models:
        return [Text(prose.NOT_EXAMINED.format(model=outputs.models[0]))]
    blocks: list[Block] = [Text(prose.VARIATIONS)]
    for model in models:
        table, curve, facts = outputs.variations[model], outputs.stability[model], outputs.variances[model]
        counts = {"objects": facts["examined_objects"], "images": facts["examined_images"]}
        blocks += [
            Heading(model),
            Text(prose.COUNTED.format(**counts, layers=facts["layers"], heads=facts["heads"])),
            Items(examined.sentences(table, curve, facts)),
            table_of([_variation(row) for row in records(table)]),
            Picture(picture_path(figure, model), prose.STABILITY.format(model=model)),
        ]
    variances = [_variance(model, outputs.variances[model]) for model in models]
    return [*blocks, Heading("Layers and heads"), Text(prose.VARIANCE), table_of(variances)]


def _variation(row: Mapping[str, Any]) -> Row:
    def number(name: str, form: str = ".3f") -> str:
        return "" if pd.isna(row[name]) else format(row[name], form)

    interval = "" if pd.isna(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
    return {
        "variation": Cell(str(row["variation"])),
        "mean HI": Cell(number("mean_hi")),
        "difference": Cell(number("difference", "+.3f"), interval),
        "best head": Cell(number("best_hi"), f"layer {row['best_layer']} head {row['best_head']}"),
        "chance": Cell(number("chance")),
        "centre blob": Cell(number("blob")),
        "all ones": Cell(number("ones")),
        "heads above chance": Cell(number("above_chance", "d")),
        "heads above the blob": Cell(number("above_blob", "d")),
        "rank of heads": Cell(number("spearman_heads", "+.2f")),
        "rank of layers": Cell(number("spearman_layers", "+.2f")),
        f"top {TOP_LAYERS} the same": Cell(f"{row['overlap']}", f"layers {row['top']}"),
    }


def _variance(model: str, facts: Mapping[str, Any]) -> Row:
    split, tests = facts["variance"], facts["kruskal_wallis"]
    kruskal = {
        f"Kruskal-Wallis, {groups}": Cell(f"{test['statistic']:.4g}", f"df {test['df']}, p = {test['p_value']:.2g}")
        for groups, test in tests.items()
    }
    return {
        "model": Cell(model),
        "between layers": value_cell(split["share"]),
        "95 %": Cell("" if split["low"] is None else f"{split['low']:.2f} to {split['high']:.2f}"),
        "variance of layers": value_cell(split["layers"]),
        "of heads within layers": value_cell(split["heads"]),
        "left by images": value_cell(split["images"]),
        "eta squared": Cell(value_cell(split["eta_squared"]).text, f"by chance {split['eta_squared_by_chance']:.3f}"),
    } | kruskal
