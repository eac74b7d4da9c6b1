"""The report's arrangement: which sections it has, in which order, and what each is made from."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from headimpact.report import paper
from headimpact.report.outputs import Outputs
from headimpact.report.page import Document, Section
from headimpact.report.prose import advice as advice_prose
from headimpact.report.prose import forgetting as forgetting_prose
from headimpact.report.prose import results as prose
from headimpact.report.sections import (
    advice,
    answers,
    examination,
    forgetting,
    impact,
    results,
    runs,
    summary,
    tournament,
)

_TITLE = "Head Impact: report"
FIGURES = ("figure4", "figure5", "stability")
"""The figures of each model, by the names of their files without the model."""


def document(
    outputs: Outputs,
    made: Mapping[str, pd.DataFrame],
    folder: Path,
    bound: float,
    pastes: advice.Pastes = MappingProxyType({}),
) -> Document:
    """The whole report, as Markdown and HTML have it.

    Args:
        outputs: what the steps have written.
        made: what :func:`headimpact.report.tables.tables` made of it.
        folder: where the models' figures are.
        bound: the fall of accuracy that is still accepted (0..1).
        pastes: by model, the recommended setup as text to paste elsewhere.
    """
    first = Section(advice_prose.TITLE, advice.advice(outputs, bound, pastes))
    if not outputs.models:
        rest = [("Tournament", tournament.tournament(outputs.tournament)), ("Missing", runs.missing(outputs))]
        return Document(_TITLE, [first, *(Section(title, blocks) for title, blocks in rest)])
    printed = paper.read()
    answered = answers.figures(outputs)
    figure4, figure5, stability = (folder / name for name in FIGURES)
    galleries = list(map(gallery_name, generating_models(outputs)))
    model = outputs.models[0]
    return Document(
        _TITLE,
        [
            first,
            Section("Summary", summary.summary(outputs, made["table4"])),
            *(
                Section(prose.TITLES[name], results.beside_paper(outputs, name, table, printed))
                for name, table in made.items()
            ),
            Section("Did the top layers move more?", summary.movement(outputs, made["table4"])),
            Section("Tournament", tournament.tournament(outputs.tournament)),
            *([Section(forgetting_prose.TITLE, forgetting.forgetting(outputs, folder))] if outputs.scales else []),
            Section("How much the rankings agree", impact.rankings(outputs)),
            Section("Questions in every order of their options", answers.in_orders(answered, model)),
            Section("Answers in the models' own words", answers.in_words(answered, galleries, model)),
            Section("Head Impact under test", examination.examination(outputs, stability)),
            Section("Where the paper's tables contradict themselves", results.contradictions_found(printed)),
            Section("Figure 4. Head Impact of every head", impact.pictures(outputs, figure4)),
            Section("Figure 5. Mean Head Impact by layer and by head", impact.pictures(outputs, figure5)),
            Section("MLflow runs", runs.runs(outputs)),
            Section("Missing", runs.missing(outputs)),
        ],
    )


def generating_models(outputs: Outputs) -> list[str]:
    """Models of which answers were generated, and which have a gallery."""
    return list(dict.fromkeys(model for model, _ in outputs.generated))


def gallery_name(model: str) -> str:
    """The page of a model's answers, beside the report."""
    return f"gallery_{model}.html"
