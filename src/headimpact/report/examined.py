"""What examine found about Head Impact itself, in words that follow from its numbers."""

from collections.abc import Mapping
from typing import Any, cast

import pandas as pd

from headimpact.impact.stability import DISJOINT, ENOUGH, TOPS, enough
from headimpact.impact.variations import TOP_LAYERS

Row = Mapping[str, Any]


def sentences(table: pd.DataFrame, curve: pd.DataFrame, facts: Mapping[str, Any]) -> list[str]:
    """A sentence a question, in order: baselines, sinks, threshold, token mask, query rows, images, layers and heads.

    Args:
        table: the variations, the definition first (``variations.table``).
        curve: agreement of two sets of images (``stability.curve``).
        facts: the variance split and the Kruskal-Wallis tests (variance.json).
    """
    rows = {str(row["variation"]): row for row in cast(list[dict[str, Any]], table.to_dict("records"))}
    definition = next(iter(rows.values()))
    kinds = {kind: {name: row for name, row in rows.items() if name.startswith(kind)} for kind in _KINDS}
    heads, usual = facts["layers"] * facts["heads"], _usual(curve)
    return [
        baselines(definition, heads),
        *(sinks(name, row, heads) for name, row in kinds["sinks"].items()),
        *(depends(what, kinds[kind], usual) for kind, what in _KINDS.items() if kind != "sinks" and kinds[kind]),
        *images(curve),
        split(facts["variance"]),
        kruskal(facts["kruskal_wallis"]),
    ]


_KINDS = {"sinks": "attention sinks", "threshold": "the threshold", "mask": "the token mask", "rows": "the query rows"}


def baselines(definition: Row, heads: int) -> str:
    """How many heads look at the object, and not at the middle of the image."""
    mean, blob = definition["mean_hi"], definition["blob"]
    side = "above" if mean > blob else "not above"
    return (
        f"{definition['above_chance']} of {heads} heads are above their chance level and {definition['above_blob']} "
        f"above a blob in the image's centre (HI {blob:.3f}), with an error of 5 % over all heads together. The best "
        f"head reaches {definition['best_hi']:.3f}; the mean over all heads, {mean:.3f}, is {side} the blob."
    )


def sinks(name: str, row: Row, heads: int) -> str:
    """Whether the most attended tokens held HI down, in the mean or in single heads."""
    if pd.isna(row["difference"]):
        told = "nothing can be said about the mean HI"
    elif row["low"] > 0:
        told = f"the mean HI rises by {_interval(row)}: sinks held it down"
    elif row["high"] < 0:
        told = f"the mean HI falls by {_interval(row, -1)}: in the mean no sink held it down"
    else:
        told = f"the mean HI changes by {_interval(row)}: no effect can be claimed"
    kept = "" if not row["left_out"] else f" ({row['left_out']:.1%} of the scores had no token of the object left)"
    raised = f"{row['above_definition']} of {heads} heads rise significantly"
    return f"{_capital(name)}: {told}{kept}. {_capital(raised)}; {_same(row)} of the top layers stay."


def depends(what: str, rows: Mapping[str, Row], usual: float) -> str:
    """Whether the top layers depend on one thing more than on the images, which leave ``usual`` of them."""
    told = "; ".join(f"{name.partition(': ')[2]} {_same(row)}" for name, row in rows.items())
    least = min(row["overlap"] for row in rows.values())
    if all(row["overlap"] == _count(row) for row in rows.values()):
        verdict = f"do not depend on {what}"
    elif least >= usual:
        verdict = f"change with {what}, but by no more than with the images (two sets share from {usual:.3g} on)"
    else:
        verdict = f"depend on {what}"
    return f"The top {TOP_LAYERS} layers {verdict}. The same as by the definition: {told}."


def images(curve: pd.DataFrame) -> list[str]:
    """How many images are enough for every K."""
    told = []
    for k in TOPS:
        rows = curve[(curve["way"] == DISJOINT) & (curve["k"] == k)].sort_values("n")
        if rows.empty:
            continue
        last, n = rows.iloc[-1], enough(curve, k)
        reached = f"{n} images are enough" if n is not None else f"{int(last['n'])} images are not enough"
        told.append(
            f"For the top {k}, {reached} for two sets of images without any in common to agree on {ENOUGH:.0%} of the "
            f"layers in the mean; with {int(last['n'])} each they share {last['overlap']:.2f} of {k} "
            f"(by chance {last['expected']:.2f})."
        )
    return told


def images_enough(curve: pd.DataFrame) -> list[tuple[str, str]]:
    """The same as rows of a summary."""
    told = []
    for k in TOPS:
        rows = curve[(curve["way"] == DISJOINT) & (curve["k"] == k)]
        if len(rows):
            n = enough(curve, k)
            told.append((f"images enough for top-{k}", f"more than {rows['n'].max()}" if n is None else f"{n}"))
    return told


def split(variance: Mapping[str, Any]) -> str:
    """Where the variance between heads lies."""
    share = variance["share"]
    if share is None:
        return "Heads differ by no more than the choice of images brings about: there is no variance to split."
    told = f"{share:.0%} ({variance['low']:.0%} to {variance['high']:.0%}) of the variance between heads lies between"
    less = (
        "A choice of whole layers leaves most of it aside."
        if share < 0.5
        else "A choice of whole layers takes most of it in."
    )
    return f"{told} layers, the rest between heads of the same layer. {less}"


def kruskal(tests: Mapping[str, Mapping[str, Any]]) -> str:
    """The paper's own test, and what it cannot say."""
    return (
        f"The paper's test across layers has p = {tests['layers']['p_value']:.2g}. Its test across head indices has "
        f"p = {tests['heads']['p_value']:.2g}, which says nothing: head 0 of one layer and head 0 of another share but "
        "their number, and any order of a layer's heads is the same model."
    )


def _usual(curve: pd.DataFrame) -> float:
    """What 97.5 % of the pairs of the largest disjoint sets have in common at least; nothing known: all layers."""
    rows = curve[(curve["way"] == DISJOINT) & (curve["k"] == TOP_LAYERS)]
    return float(rows.sort_values("n")["low"].iloc[-1]) if len(rows) else float(TOP_LAYERS)


def _interval(row: Row, sign: int = 1) -> str:
    ends = sorted([sign * row["low"], sign * row["high"]])
    return f"{sign * row['difference']:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"


def _count(row: Row) -> int:
    return len(str(row["top"]).split())


def _same(row: Row) -> str:
    return f"{int(row['overlap'])} of {_count(row)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
