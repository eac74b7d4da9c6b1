"""The tournament's section, from small hand-made files."""

from dataclasses import replace

import pandas as pd
import pytest

from headimpact.report.outputs import Outputs, TournamentFiles
from headimpact.report.page import Heading, Items, Picture, Table, Text
from headimpact.report.sections import tournament as section


@pytest.fixture(scope="module")
def files(outputs: Outputs) -> TournamentFiles:
    assert outputs.tournament is not None
    return outputs.tournament


def rows(table: Table) -> list[list[str]]:
    return [[f"{cell.text} | {cell.note}" if cell.note else cell.text for cell in row] for row in table.rows]


def tables(files: TournamentFiles) -> list[Table]:
    return [block for block in section.tournament(files) if isinstance(block, Table)]


def test_without_a_tournament_it_says_how_to_hold_one() -> None:
    (text,) = section.tournament(None)
    assert isinstance(text, Text)
    assert "headimpact tournament" in text.text


def test_verdicts_come_before_figure_and_tables(files: TournamentFiles) -> None:
    blocks = [block for block in section.tournament(files) if not isinstance(block, Text)]
    assert blocks[:2] == [Heading("tiny"), Items(["top-4 <b>wins</b>."])]
    kinds = [type(block) for block in blocks[2:]]
    assert kinds == [Heading, Picture, Heading, Table, Heading, Table, Heading, Table]


def test_the_picture_is_the_tournament_s_own(files: TournamentFiles) -> None:
    (picture,) = [block for block in section.tournament(files) if isinstance(block, Picture)]
    assert picture.path == files.figure
    assert picture.caption.startswith("test perplexity against accuracy and AnsProb")


def test_every_rule_has_its_layers_parameters_and_changes(files: TournamentFiles) -> None:
    table = tables(files)[0]
    change = "-0.4000 | -0.4200 to -0.3800"
    assert table.columns[-3:] == ["perplexity", "accuracy", "AnsProb"]
    assert rows(table)[0] == ["tiny", "top", "4", "0 3", "8", "18,432", "3", change, change, change]
    assert {row[1]: row[3] for row in rows(table)} == {
        "top": "0 3",
        "excess": "0 3",
        "last": "7",
        "draw": "2 sets | 1 5; 2 8",
    }
    assert table.numeric[5:] == [True] * 5


def test_comparisons_mark_what_can_be_claimed_and_rules_with_the_same_layers(files: TournamentFiles) -> None:
    table = tables(files)[1]
    assert rows(table) == [
        ["tiny", "4", "excess = top", *["the same layers"] * 3],
        ["tiny", "4", "last", *["+0.3000 | +0.2000 to +0.4000"] * 3],
        ["tiny", "4", "draw", *["+0.2000 | -0.1000 to +0.5000"] * 3],
    ]
    assert [[cell.strong for cell in row[3:]] for row in table.rows] == [[False] * 3, [True] * 3, [False] * 3]


def test_images_needed_or_that_only_runs_help(files: TournamentFiles) -> None:
    table = tables(files)[2]
    assert table.columns[3:] == ["to see 0.05 perplexity", "to see 0.05 accuracy", "to see 0.05 AnsProb"]
    assert rows(table) == [
        ["tiny", "4", "last", *["3,542 | 0.125 is seen now"] * 3],
        ["tiny", "4", "draw", *["more runs | 0.125 is seen now"] * 3],
    ]


def test_rivals_that_took_the_same_layers_have_one_row(files: TournamentFiles) -> None:
    other = files.comparisons[files.comparisons["rival"] == "last"].assign(twins="knockout")
    both = pd.concat([other, other.assign(rival="knockout", twins="last")])
    assert [row[2] for row in rows(tables(replace(files, comparisons=both))[1])] == ["knockout = last"]


def test_a_metric_that_the_tournament_lacks_is_left_out(files: TournamentFiles) -> None:
    kept = {name: getattr(files, name).query("metric != 'ans_prob'") for name in ("changes", "comparisons")}
    assert [table.columns[-2:] for table in tables(replace(files, **kept))] == [
        ["perplexity", "accuracy"],
        ["perplexity: better by", "accuracy: better by"],
        ["to see 0.05 perplexity", "to see 0.05 accuracy"],
    ]


def test_the_summary_says_what_can_be_claimed_of_top(files: TournamentFiles) -> None:
    heading, text, items = section.against_rivals(files)
    assert isinstance(heading, Heading)
    assert isinstance(text, Text)
    assert "less perplexity, more accuracy and more AnsProb" in text.text
    assert isinstance(items, Items)
    (line,) = items.items
    assert line.startswith("tiny, top-4: perplexity: better than last, 1 undecided; ")
