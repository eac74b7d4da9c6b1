"""Softened adapters in the report."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from report_outputs import MODEL

from headimpact.report import tables
from headimpact.report.document import document
from headimpact.report.outputs import Outputs
from headimpact.report.page import Items, Picture
from headimpact.report.prose import forgetting as prose
from headimpact.report.sections.forgetting import FIGURE, forgetting, panels

SOFT = (MODEL, "soft-top-4")


def softened(outputs: Outputs, scale: float) -> Outputs:
    """The same with top-4 softened."""
    scales, header = pd.DataFrame({"scale": [0.0, 1.0]}), {"scale": scale, "bound": 0.05, "setup": SOFT[1]}
    return replace(outputs, scales={SOFT: scales}, headers={SOFT: header})


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(0.6, "scaled to 0.6, so that"), (0.0, "at no scale above 0 can it be claimed that accuracy stays within")],
)
def test_the_scale_of_every_softened_adapter_is_told(outputs: Outputs, scale: float, expected: str) -> None:
    found = softened(outputs, scale)
    _, items, picture = forgetting(found, Path("reports"))
    assert isinstance(items, Items)
    assert isinstance(picture, Picture)
    (line,) = items.items
    assert line.startswith(f"{MODEL}, top-4: {expected}")
    assert picture.path == Path("reports") / FIGURE
    (panel,) = panels(found).values()
    assert (panel.bound, panel.chosen) == (0.05, scale)


def test_the_section_is_there_where_something_was_softened(outputs: Outputs) -> None:
    report = document(softened(outputs, 0.6), tables.tables(outputs), Path(), 0.05)
    assert prose.TITLE in [section.title for section in report.sections]
