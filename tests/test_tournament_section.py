"""The tournament's section, from small hand-made files."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from headimpact.errors import InputError
from headimpact.lifecycle import layout
from headimpact.lifecycle.outputs import read_tournament
from headimpact.report import figures
from headimpact.report import tournament_section as section
from headimpact.report.page import Document, Heading, Items, Picture, Section, Table, Text, to_html, to_markdown
from headimpact.tournament import figure

METRICS = ("perplexity", "accuracy", "ans_prob")


def write(root: Path) -> None:
    """One model, K = 4: top, excess with top's layers, last (worse in perplexity), two draws."""
    root.joinpath(layout.tournament()).mkdir(parents=True)
    changes = [
        ("tiny", rule, 4, metric, value, 0.01, value - 0.02, value + 0.02, runs, 200)
        for rule, value, runs in (("top", -0.4, 3), ("excess", -0.4, 3), ("last", -0.1, 3), ("draw", -0.2, 2))
        for metric in METRICS
    ]
    columns = ["model", "rule", "k", "metric", "value", "se", "low", "high", "runs", "images"]
    table = pd.DataFrame(changes, columns=columns)
    table.to_csv(root / layout.tournament_table("changes"), index=False)
    figures.save(figure.draw(table), root / layout.tournament_figure())
    comparisons = [
        ("tiny", "top", rival, 4, metric, better, low, high, twins, winner, 0.125, 0.05, needed)
        for rival, better, low, high, twins, winner, needed in (
            ("excess", 0.0, 0.0, 0.0, "top", None, float("inf")),
            ("last", 0.3, 0.2, 0.4, None, "top", 3542.0),
            ("draw", 0.2, -0.1, 0.5, None, None, float("inf")),
        )
        for metric in METRICS
    ]
    columns = ["model", "rule", "rival", "k", "metric", "advantage", "low", "high", "twins", "winner"]
    pd.DataFrame(comparisons, columns=[*columns, "visible", "difference", "images_needed"]).to_csv(
        root / layout.tournament_table("comparisons"), index=False
    )
    layers = {"top": ["0,3"] * 3, "excess": ["0,3"] * 3, "last": ["7"] * 3, "draw": ["1,5", "2,8"]}
    cells = [
        ("tiny", rule, 4, seed, 0, taken, 8, 18432)
        for rule, all_taken in layers.items()
        for seed, taken in enumerate(all_taken)
    ]
    columns = ["model", "rule", "k", "seed", "draw", "layers", "rank", "trainable"]
    pd.DataFrame(cells, columns=columns).to_csv(root / layout.tournament_table("cells"), index=False)
    (root / layout.tournament_verdicts()).write_text(json.dumps({"tiny": ["top-4 <b>wins</b>."]}))


@pytest.fixture
def found(tmp_path: Path) -> section.Found:
    write(tmp_path)
    read = read_tournament(tmp_path)
    assert read is not None
    return read


def rows(table: Table) -> list[list[str]]:
    return [[f"{cell.text} | {cell.note}" if cell.note else cell.text for cell in row] for row in table.rows]


def tables(found: section.Found) -> list[Table]:
    return [block for block in section.blocks(found, found.figure) if isinstance(block, Table)]


def test_without_a_tournament_it_says_how_to_run_one(tmp_path: Path) -> None:
    assert read_tournament(tmp_path) is None
    (told,) = section.blocks(None, tmp_path / "tournament.png")
    assert isinstance(told, Text)
    assert "mlflow run . -e tournament" in told.text


def test_a_tournament_that_lacks_a_file_is_none(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / layout.tournament_figure()).unlink()
    assert read_tournament(tmp_path) is None


def test_broken_verdicts_are_told(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / layout.tournament_verdicts()).write_text("{")
    with pytest.raises(InputError, match=r"verdicts\.json is not valid JSON"):
        read_tournament(tmp_path)


def test_verdicts_come_before_figure_and_tables(found: section.Found) -> None:
    blocks = [block for block in section.blocks(found, found.figure) if not isinstance(block, Text)]
    assert blocks[:2] == [Heading("tiny"), Items(["top-4 <b>wins</b>."])]
    kinds = [type(block) for block in blocks[2:]]
    assert kinds == [Heading, Picture, Heading, Table, Heading, Table, Heading, Table]


def test_every_rule_has_its_layers_parameters_and_changes(found: section.Found) -> None:
    change = "-0.4000 | -0.4200 to -0.3800"
    assert rows(tables(found)[0])[0] == ["tiny", "top", "4", "0 3", "8", "18,432", "3", change, change, change]
    by_rule = {row[1]: row[3] for row in rows(tables(found)[0])}
    assert by_rule == {"top": "0 3", "excess": "0 3", "last": "7", "draw": "2 sets | 1 5; 2 8"}
    assert tables(found)[0].numeric[5:] == [True] * 5


def test_comparisons_mark_what_can_be_claimed_and_rules_with_the_same_layers(found: section.Found) -> None:
    table = tables(found)[1]
    assert rows(table) == [
        ["tiny", "4", "excess = top", *["the same layers"] * 3],
        ["tiny", "4", "last", *["+0.3000 | +0.2000 to +0.4000"] * 3],
        ["tiny", "4", "draw", *["+0.2000 | -0.1000 to +0.5000"] * 3],
    ]
    assert [[cell.strong for cell in row[3:]] for row in table.rows] == [[False] * 3, [True] * 3, [False] * 3]


def test_images_needed_or_that_only_runs_help(found: section.Found) -> None:
    table = tables(found)[2]
    assert table.columns[3:] == ["to see 0.05 perplexity", "to see 0.05 accuracy", "to see 0.05 AnsProb"]
    assert rows(table) == [
        ["tiny", "4", "last", *["3,542 | 0.125 is seen now"] * 3],
        ["tiny", "4", "draw", *["more runs | 0.125 is seen now"] * 3],
    ]


def test_rivals_that_took_the_same_layers_have_one_row(found: section.Found) -> None:
    other = found.comparisons[found.comparisons["rival"] == "last"].assign(twins="knockout")
    both = pd.concat([other, other.assign(rival="knockout", twins="last")])
    merged = replace(found, comparisons=both)
    assert [row[2] for row in rows(tables(merged)[1])] == ["knockout = last"]


def test_the_section_is_escaped_and_holds_its_picture(found: section.Found) -> None:
    document = Document("Report", [Section("Tournament", section.blocks(found, found.figure))])
    page = to_html(document)
    assert "top-4 &lt;b&gt;wins&lt;/b&gt;." in page
    assert '<img class="wide" src="data:image/png;base64,' in page
    assert "](tournament.png)" in to_markdown(document)
