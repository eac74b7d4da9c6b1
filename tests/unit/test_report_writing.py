"""The folder of the report: every file, the same twice, whole or not at all."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from report_outputs import SETUPS, samples, write_evaluation

from headimpact.errors import InputError
from headimpact.lifecycle import layout
from headimpact.lifecycle.outputs import collect
from headimpact.report import tables, writing
from headimpact.report.outputs import Outputs


def write(outputs: Outputs, folder: Path, images: Path) -> None:
    writing.write(outputs, tables.tables(outputs), folder, samples(images))


@pytest.fixture(scope="module")
def folder(outputs: Outputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of everything; it is drawn once."""
    root = tmp_path_factory.mktemp("report")
    write(outputs, root / layout.REPORTS, root)
    return root / layout.REPORTS


def test_every_file_is_written(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    csv = {f"table{number}.{kind}" for number in range(1, 6) for kind in ("csv", "md")}
    pages = {"report.md", "report.html", "gallery_tiny.html"}
    assert names == csv | pages | {f"{name}_tiny.png" for name in ("figure4", "figure5", "stability")}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))


def test_the_tournament_s_figure_stays_where_it_is(folder: Path) -> None:
    markdown = (folder / writing.MARKDOWN).read_text()
    (address,) = re.findall(r"\((\.\./.*tournament\.png)\)", markdown)
    assert (folder / address).resolve().is_file()


def test_the_page_has_what_the_markdown_has(folder: Path) -> None:
    page, markdown = (folder / writing.PAGE).read_text(), (folder / writing.MARKDOWN).read_text()
    titles = re.findall("^## (.*)$", markdown, re.MULTILINE)
    assert [unescape(title) for title in re.findall("<h2>(.*)</h2>", page)] == titles
    assert page.count("data:image/png;base64,") == 4  # with the tournament's
    assert "top-4 &lt;b&gt;wins&lt;/b&gt;." in page


def test_the_gallery_shows_the_setups_beside_each_other(folder: Path) -> None:
    page = (folder / "gallery_tiny.html").read_text()
    assert all(f"said by {setup}" in page for setup in SETUPS)
    assert page.count("data:image/jpeg") == 3


def test_a_gallery_has_the_images_that_all_setups_were_asked_about(outputs: Outputs, tmp_path: Path) -> None:
    fewer = outputs.generated["tiny", "full"].query("image_id != 2")
    pages = writing.galleries(
        replace(outputs, generated={**outputs.generated, ("tiny", "full"): fewer}), samples(tmp_path)
    )
    assert re.findall("<h2>(Image .*)</h2>", pages["gallery_tiny.html"]) == ["Image 1", "Image 3"]


def test_twice_the_same_bytes(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "original")
    outputs = collect([], [], tmp_path)
    for name in ("a", "b"):
        write(outputs, tmp_path / name, tmp_path)
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert first == second


def test_nothing_to_report_is_an_error_and_leaves_no_folder(outputs: Outputs, tmp_path: Path) -> None:
    nothing = replace(outputs, models=(), pairs=())
    with pytest.raises(InputError, match="no model has been run"):
        writing.write(nothing, tables.tables(nothing), tmp_path / "reports", [])
    assert list(tmp_path.iterdir()) == []
