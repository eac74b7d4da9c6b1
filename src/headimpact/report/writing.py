"""The report's folder: tables, figures, galleries, and the report as Markdown and as one page. All or nothing."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from headimpact.data.samples import Sample
from headimpact.errors import InputError
from headimpact.files import atomic_folder
from headimpact.report import figures, gallery
from headimpact.report.cells import table_of
from headimpact.report.document import FIGURES, document, gallery_name, generating_models
from headimpact.report.outputs import Outputs
from headimpact.report.page import table_markdown, to_html, to_markdown
from headimpact.report.sections import results
from headimpact.report.sections.impact import picture_path

PAGE = "report.html"
MARKDOWN = "report.md"


def write(outputs: Outputs, made: Mapping[str, pd.DataFrame], folder: Path, tests: Sequence[Sample]) -> None:
    """Write the report.

    Args:
        outputs: what there is to report; models that were never run are only listed as missing.
        made: what :func:`headimpact.report.tables.tables` made of it.
        folder: where to, replaced if it exists.
        tests: the samples of the test part, for the galleries.

    Raises:
        InputError: no model has been run.
    """
    if not outputs.models:
        raise InputError("There is nothing to report: no model has been run. Run headimpact score first.")
    with atomic_folder(folder) as aside:
        for name, table in made.items():
            table.to_csv(aside / f"{name}.csv", index=False)
            shown = table_of(results.rows(name, table))
            (aside / f"{name}.md").write_text(table_markdown(shown), encoding="utf-8")
        _draw(outputs, aside)
        for name, page in galleries(outputs, tests).items():
            (aside / name).write_text(page, encoding="utf-8")
        report = document(outputs, made, aside)
        (aside / MARKDOWN).write_text(to_markdown(report, aside), encoding="utf-8")
        (aside / PAGE).write_text(to_html(report), encoding="utf-8")


def _draw(outputs: Outputs, folder: Path) -> None:
    """The figures of each model. That of the tournament is its own, and is not copied."""
    drawn: tuple[tuple[Callable[[pd.DataFrame, str], Figure], Mapping[str, pd.DataFrame]], ...] = (
        (figures.heatmap, outputs.impacts),
        (figures.profiles, outputs.impacts),
        (figures.stability, outputs.stability),
    )
    for name, (draw, by_model) in zip(FIGURES, drawn, strict=True):
        for model, table in by_model.items():
            figures.save(draw(table, model), picture_path(folder / name, model))


def galleries(outputs: Outputs, tests: Sequence[Sample]) -> dict[str, str]:
    """A page a model: what all its setups say, beside each other, by the page's name.

    Args:
        outputs: what the steps have written.
        tests: the samples of the test part; shown are those that every setup was asked about.
    """
    pages = {}
    for model in generating_models(outputs):
        generated = {setup: table for (name, setup), table in outputs.generated.items() if name == model}
        everywhere = set.intersection(*(set(table["image_id"]) for table in generated.values()))
        samples = [sample for sample in tests if sample.id in everywhere]
        pages[gallery_name(model)] = gallery.html(f"What {model} says", samples, generated)
    return pages
