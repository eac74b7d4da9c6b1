"""Every section of the report as text: one snapshot each, so that a change of words is looked at once.

What the words rest on is held by the tests of the sections. To write the snapshots anew, and then look at the
differences:

    pytest tests/test_report_snapshots.py --renew
"""

import difflib
from pathlib import Path

import pytest

from headimpact.lifecycle import layout
from headimpact.report import tables
from headimpact.report.document import document
from headimpact.report.outputs import Outputs
from headimpact.report.page import Document, to_markdown

SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.fixture(scope="module")
def sections(outputs: Outputs, outputs_root: Path) -> dict[str, str]:
    """By the name of its snapshot, every section as Markdown."""
    folder = outputs_root / layout.REPORTS
    report = document(outputs, tables.tables(outputs), folder, 0.05)
    return {
        f"{section.anchor}.md": to_markdown(Document(report.title, [section]), folder) for section in report.sections
    }


def test_every_section_is_as_in_its_snapshot(sections: dict[str, str], request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--renew"):
        for path in SNAPSHOTS.glob("*.md"):
            path.unlink()
        SNAPSHOTS.mkdir(exist_ok=True)
        for name, text in sections.items():
            (SNAPSHOTS / name).write_text(text, encoding="utf-8")
    kept = {path.name: path.read_text(encoding="utf-8") for path in SNAPSHOTS.glob("*.md")}
    changes = [
        line
        for name in sorted({*kept, *sections})
        for line in difflib.unified_diff(
            kept.get(name, "").splitlines(),
            sections.get(name, "").splitlines(),
            f"kept/{name}",
            f"now/{name}",
            lineterm="",
        )
    ]
    if changes:
        advice = [
            "The report is not as in tests/snapshots. If that is meant, renew them and look at the differences:",
            "    pytest tests/test_report_snapshots.py --renew",
        ]
        pytest.fail("\n".join([*advice, *changes]), pytrace=False)
