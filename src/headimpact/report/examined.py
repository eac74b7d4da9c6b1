"""What examine says about Head Impact itself, in words that follow from its numbers."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from headimpact.impact.stability import DISJOINT, ENOUGH, TOPS, enough
from headimpact.impact.variations import TOP_LAYERS
from headimpact.report.cells import records
from headimpact.report.prose import examination as prose

Row = Mapping[str, Any]


def sentences(table: pd.DataFrame, curve: pd.DataFrame, facts: Mapping[str, Any]) -> list[str]:
    """A sentence a question, in order: baselines, sinks, threshold, token mask, query rows, images, layers and heads.

    Args:
        table: the variations, the definition first (``variations.table``).
        curve: agreement of two sets of images (``stability.curve``).
        facts: the variance split and the Kruskal-Wallis tests (variance.json).
    """
    rows = {str(row["variation"]): row for row in records(table)}
    definition = next(iter(rows.values()))
    kinds = {kind: {name: row for name, row in rows.items() if name.startswith(kind)} for kind in prose.KINDS}
    heads, usual = facts["layers"] * facts["heads"], _usual(curve)
    return [
        baselines(definition, heads),
        *(sinks(name, row, heads) for name, row in kinds["sinks"].items()),
        *(depends(what, kinds[kind], usual) for kind, what in prose.KINDS.items() if kind != "sinks" and kinds[kind]),
        *images(curve),
        split(facts["variance"]),
        kruskal(facts["kruskal_wallis"]),
    ]


def baselines(definition: Row, heads: int) -> str:
    """How many heads look at the object, and not at the middle of the image."""
    side = "above" if definition["mean_hi"] > definition["blob"] else "not above"
    return prose.BASELINES.format(**definition, heads=heads, side=side)


def sinks(name: str, row: Row, heads: int) -> str:
    """Whether the most attended tokens held HI down, in the mean or in single heads."""
    if pd.isna(row["difference"]):
        effect = prose.SINKS_UNKNOWN
    elif row["low"] > 0:
        effect = prose.SINKS_RISE.format(interval=_interval(row))
    elif row["high"] < 0:
        effect = prose.SINKS_FALL.format(interval=_interval(row, -1))
    else:
        effect = prose.SINKS_NO_EFFECT.format(interval=_interval(row))
    return prose.SINKS.format(
        name=_capital(name),
        effect=effect,
        left_out=prose.LEFT_OUT.format(share=row["left_out"]) if row["left_out"] else "",
        raised=row["above_definition"],
        heads=heads,
        same=_same(row),
    )


def depends(what: str, rows: Mapping[str, Row], usual: float) -> str:
    """Whether the top layers depend on one thing more than on the images, which leave ``usual`` of them."""
    overlaps = "; ".join(f"{name.partition(': ')[2]} {_same(row)}" for name, row in rows.items())
    if all(row["overlap"] == _count(row) for row in rows.values()):
        verdict = prose.SAME
    elif min(row["overlap"] for row in rows.values()) >= usual:
        verdict = prose.AS_IMAGES_DO
    else:
        verdict = prose.OTHERS
    return prose.DEPENDS.format(top=TOP_LAYERS, verdict=verdict.format(what=what, usual=usual), overlaps=overlaps)


def images(curve: pd.DataFrame) -> list[str]:
    """How many images are enough for every K."""
    lines = []
    for k in TOPS:
        rows = _disjoint(curve, k)
        if rows.empty:
            continue
        last, n = rows.iloc[-1], enough(curve, k)
        most = int(last["n"])
        reached = prose.NOT_ENOUGH.format(n=most) if n is None else prose.ENOUGH.format(n=n)
        numbers = {"overlap": last["overlap"], "expected": last["expected"]}
        lines.append(prose.IMAGES.format(k=k, reached=reached, enough=ENOUGH, most=most, **numbers))
    return lines


def images_enough(curve: pd.DataFrame) -> list[tuple[str, str]]:
    """The same as rows of a summary."""
    rows = []
    for k in TOPS:
        sizes = _disjoint(curve, k)["n"]
        if len(sizes):
            n = enough(curve, k)
            rows.append((f"images enough for top-{k}", f"more than {sizes.max()}" if n is None else f"{n}"))
    return rows


def split(variance: Mapping[str, Any]) -> str:
    """Where the variance between heads lies."""
    share = variance["share"]
    if share is None:
        return prose.NO_VARIANCE
    verdict = prose.MOST_LEFT if share < 0.5 else prose.MOST_TAKEN
    return prose.SPLIT.format(share=share, low=variance["low"], high=variance["high"], verdict=verdict)


def kruskal(tests: Mapping[str, Mapping[str, Any]]) -> str:
    """The paper's own test, and what it cannot say."""
    return prose.KRUSKAL.format(layers=tests["layers"]["p_value"], heads=tests["heads"]["p_value"])


def _disjoint(curve: pd.DataFrame, k: int) -> pd.DataFrame:
    """The points of two sets without any image in common, from the smallest sets to the largest."""
    return curve[(curve["way"] == DISJOINT) & (curve["k"] == k)].sort_values("n")


def _usual(curve: pd.DataFrame) -> float:
    """What 97.5 % of the pairs of the largest disjoint sets have in common at least; nothing known: all layers."""
    rows = _disjoint(curve, TOP_LAYERS)
    return float(rows["low"].iloc[-1]) if len(rows) else float(TOP_LAYERS)


def _interval(row: Row, sign: int = 1) -> str:
    ends = sorted([sign * row["low"], sign * row["high"]])
    return f"{sign * row['difference']:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"


def _count(row: Row) -> int:
    return len(str(row["top"]).split())


def _same(row: Row) -> str:
    return f"{int(row['overlap'])} of {_count(row)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
