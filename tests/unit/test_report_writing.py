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


def write(outputs: Outputs, folder: Path, images: Path) -> list[str]:
    return writing.write(outputs, tables.tables(outputs), folder, samples(images), 0.05)


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


def test_where_nothing_was_run_the_report_says_how_to_begin_and_a_report_that_is_there_stays(
    outputs: Outputs, tmp_path: Path
) -> None:
    nothing = collect([], [], tmp_path)
    for report in (replace(nothing, tournament=outputs.tournament), nothing):
        folder = tmp_path / str(report.tournament is None)
        write(report, folder, tmp_path)
        assert "headimpact advise tells what to begin with" in (folder / writing.MARKDOWN).read_text()
    with pytest.raises(InputError, match=r"no model has been run.* is left as it is"):
        write(nothing, folder, tmp_path)


def test_what_a_report_cannot_make_again_stays(tmp_path: Path) -> None:
    """Pictures of a model whose outputs are not here, and the words of the report that had it."""
    folder = tmp_path / layout.REPORTS
    write_evaluation(tmp_path, "original", "gone")
    write(collect([], [], tmp_path), folder, tmp_path)
    (folder / "figure4_gone.png").write_bytes(b"picture")
    (folder / "gallery_gone.html").write_bytes(b"gallery")
    before = (folder / writing.MARKDOWN).read_bytes()
    (tmp_path / layout.EVALUATIONS / "gone").rename(tmp_path / "elsewhere")
    write_evaluation(tmp_path, "original")
    outputs = collect([], [], tmp_path)
    kept = write(outputs, folder, tmp_path)
    assert kept == ["figure4_gone.png", "gallery_gone.html", "earlier.md", "earlier.html"]
    assert (folder / "earlier.md").read_bytes() == before
    assert (folder / "figure4_gone.png").read_bytes() == b"picture"
    assert "gone" not in (folder / "table1.csv").read_text()
    # The next one loses nothing, so that nothing is kept a second time.
    assert write(outputs, folder, tmp_path) == ["earlier.html", "earlier.md", "figure4_gone.png", "gallery_gone.html"]
