"""The summary, which answers first; and whether the top layers moved more than their controls."""

from collections.abc import Sequence

import pandas as pd

from headimpact.report.cells import Row, listing, table_of
from headimpact.report.findings import Verdict, changes, verdicts
from headimpact.report.outputs import Outputs
from headimpact.report.page import Block, Cell, Heading, Items, Table, Text
from headimpact.report.prose import summary as prose
from headimpact.report.sections import tournament
from headimpact.text import listed


def summary(outputs: Outputs, table4: pd.DataFrame) -> list[Block]:
    """The question, the answer counted and at a glance, and what training did to each model."""
    judged = _judged(outputs, table4)
    answer: list[Block] = [Text(_counted(judged)), _at_a_glance(judged)] if judged else [_no_top(outputs)]
    blocks: list[Block] = [Text(prose.QUESTION), *answer]
    sentences = changes(table4)
    for model in outputs.models:
        blocks += [Heading(model), _model(outputs, model, sentences.get(model, []), judged)]
    if outputs.tournament and not outputs.tournament.elsewhere:
        blocks += tournament.against_rivals(outputs.tournament)
    return [*blocks, Heading("How to read this"), Text(prose.METHOD)]


def movement(outputs: Outputs, table4: pd.DataFrame) -> list[Block]:
    """Did the top layers move more than their controls? A sentence a model and metric, with the numbers."""
    judged = _judged(outputs, table4)
    return [Text(prose.MOVEMENT), listing(judged, "")] if judged else [_no_top(outputs)]


def _judged(outputs: Outputs, table4: pd.DataFrame) -> list[Verdict]:
    """The verdicts on the top layers that were evaluated."""
    return [verdict for verdict in verdicts(table4) if (verdict.model, verdict.top) in outputs.results]


def _no_top(outputs: Outputs) -> Text:
    return Text(prose.NO_TOP.format(model=outputs.models[0]))


def _model(outputs: Outputs, model: str, sentences: Sequence[str], judged: Sequence[Verdict]) -> Block:
    """What training did to one model, and whether its top layers moved it more."""
    if all(name != model for name, _ in outputs.results):
        return Text(prose.NOT_EVALUATED.format(model=model))
    by_top: dict[str, list[str]] = {}
    for verdict in judged:
        if verdict.model == model:
            by_top.setdefault(verdict.top, []).append(f"{verdict.metric.arrow}: {verdict.answer}")
    asked = [prose.ASKED_OF_CONTROLS.format(top=top, answers="; ".join(answers)) for top, answers in by_top.items()]
    return Items([*sentences, *asked])


def _counted(judged: Sequence[Verdict]) -> str:
    answers = [verdict.answer for verdict in judged]
    counts = [f"in {answers.count(answer)} {words}" for answer, words in prose.COUNTS.items() if answer in answers]
    return prose.COUNTED.format(comparisons=len(judged), counts=listed(counts))


def _at_a_glance(judged: Sequence[Verdict]) -> Table:
    rows: dict[tuple[str, str], Row] = {}
    for verdict in judged:
        row = rows.setdefault((verdict.model, verdict.top), {"model": Cell(verdict.model, verdict.top)})
        row[verdict.metric.arrow] = Cell(verdict.answer, strong=verdict.answer == "yes")
    return table_of(list(rows.values()))
