"""The report's folder: tables, figures, galleries, and the report as Markdown and as one page. All or nothing."""

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType

import pandas as pd
from matplotlib.figure import Figure

from headimpact.data.samples import Sample
from headimpact.errors import InputError
from headimpact.files import atomic_folder
from headimpact.report import figures, gallery, scales_figure
from headimpact.report.cells import table_of
from headimpact.report.document import FIGURES, document, gallery_name, generating_models
from headimpact.report.outputs import Outputs
from headimpact.report.page import table_markdown, to_markdown
from headimpact.report.page.as_html import to_html
from headimpact.report.sections import forgetting, results
from headimpact.report.sections.advice import Pastes
from headimpact.report.sections.impact import picture_path

PAGE = "report.html"
MARKDOWN = "report.md"


def write(
    outputs: Outputs,
    made: Mapping[str, pd.DataFrame],
    folder: Path,
    tests: Sequence[Sample],
    bound: float,
    pastes: Pastes = MappingProxyType({}),
) -> list[str]:
    """Write the report; gives the names of the files that stay from an earlier one, since this one cannot make them.

    An earlier report of models that there are no outputs of any more is kept as ``earlier.md`` (``earlier-2.md``, ...).

    Args:
        outputs: what there is to report; models that were never run are only listed as missing.
        made: what :func:`headimpact.report.tables.tables` made of it.
        folder: where to.
        tests: the samples of the test part, for the galleries.
        bound: the fall of accuracy that is still accepted (0..1).
        pastes: by model, the recommended setup as text to paste elsewhere.

    Raises:
        InputError: no model has been run, and there is a report, which would be lost.
    """
    if not outputs.models and (folder / MARKDOWN).exists():
        raise InputError(
            f"There is nothing to report: no model has been run. {folder / MARKDOWN} is left as it is. To begin: "
            "headimpact advise"
        )
    with atomic_folder(folder) as aside:
        for name, table in made.items():
            table.to_csv(aside / f"{name}.csv", index=False)
            shown = table_of(results.rows(name, table))
            (aside / f"{name}.md").write_text(table_markdown(shown), encoding="utf-8")
        _draw(outputs, aside)
        for name, page in galleries(outputs, tests).items():
            (aside / name).write_text(page, encoding="utf-8")
        report = document(outputs, made, aside, bound, pastes)
        (aside / MARKDOWN).write_text(to_markdown(report, aside), encoding="utf-8")
        (aside / PAGE).write_text(to_html(report), encoding="utf-8")
        return _keep(folder, aside, outputs.models)


def _keep(folder: Path, aside: Path, models: Collection[str]) -> list[str]:
    """Take over what an earlier report has and this one does not make; gives the names."""
    if not folder.is_dir():
        return []
    known = _models(folder)
    kept = sorted(path.name for path in folder.iterdir() if not (aside / path.name).exists())
    for name in kept:
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copy2
        copy(folder / name, aside / name)
    if not known <= set(models) and (folder / MARKDOWN).is_file():
        taken = {path.stem for path in aside.iterdir()}
        stem = next(stem for stem in chain(["earlier"], map("earlier-{}".format, count(2))) if stem not in taken)
        for name in (MARKDOWN, PAGE):
            if (folder / name).is_file():
                kept.append(f"{stem}{Path(name).suffix}")
                shutil.copy2(folder / name, aside / kept[-1])
    return kept


def _models(folder: Path) -> set[str]:
    """The models that a report has."""
    try:
        return set(pd.read_csv(folder / "table1.csv")["model"].astype(str))
    except (OSError, ValueError, KeyError):  # none, or not of ours
        return set()


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
    if outputs.scales:
        figures.save(scales_figure.draw(forgetting.panels(outputs)), folder / forgetting.FIGURE)


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
