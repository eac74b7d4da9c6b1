"""The report as a whole: what comes first, who won, and what is said where something is not there."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from report_outputs import SETUPS, write_adapter, write_evaluation, write_score

from headimpact.lifecycle import layout
from headimpact.lifecycle.outputs import collect
from headimpact.report import paper, tables
from headimpact.report.document import document
from headimpact.report.outputs import Missing, Outputs
from headimpact.report.page import Block, Document, Runs, Section, Table, to_markdown
from headimpact.report.sections import impact, results, runs, summary, tournament

FOLDER = Path("reports")


def arrange(outputs: Outputs) -> Document:
    return document(outputs, tables.tables(outputs), FOLDER, 0.05)


@pytest.fixture(scope="module")
def report(outputs: Outputs) -> Document:
    return arrange(outputs)


def section(report: Document, start: str) -> Section:
    (found,) = [section for section in report.sections if section.title.startswith(start)]
    return found


def text(report: Document, start: str = "") -> str:
    """A section as Markdown, or all."""
    chosen = Document(report.title, [section(report, start)]) if start else report
    return to_markdown(chosen, FOLDER)


# --- who won, and by how much


def test_what_to_use_comes_first_then_the_summary(report: Document) -> None:
    assert [section.title for section in report.sections[:2]] == ["Which setup to use", "Summary"]
    said = text(report, "Which setup to use")
    assert "Use the original, or less of an adapter: each of 3 setups" in said
    assert "Next: headimpact soften --model tiny --setup top-4" in said


def test_the_summary_follows_the_verdicts(report: Document) -> None:
    said = text(report, "Summary")
    assert "in 3 the top layers moved the metric more than both" in said
    (glance,) = [block for block in section(report, "Summary").blocks if isinstance(block, Table)]
    assert [[cell.text for cell in row] for row in glance.rows] == [["tiny", "yes", "yes", "yes"]]
    assert "- perplexity ↓ (original: 4.587): better in top-4 (3.073) and random-4 (4.157); worse in full" in said
    assert "Did top-4 move it more than its controls? accuracy ↑: yes; AnsProb ↑: yes; perplexity ↓: yes." in said
    assert "### Against every other rule" in said


def test_every_verdict_has_its_numbers(report: Document) -> None:
    lines = [line for line in text(report, "Did the top layers").splitlines() if line.startswith("- ")]
    assert [line.split(":")[0] for line in lines] == ["- tiny, accuracy", "- tiny, AnsProb", "- tiny, perplexity"]
    assert all(" yes. " in line and "bottom-4 0.0" in line for line in lines)
    assert "top-4 0.500 (0.317 to 0.683)" in lines[0]


def test_a_better_control_is_told(outputs: Outputs) -> None:
    swapped = {"top-4": "random-4", "random-4": "top-4"}
    objects = {(model, swapped.get(setup, setup)): table for (model, setup), table in outputs.objects.items()}
    swapped_outputs = replace(outputs, objects=objects)
    answer = words(summary.summary(swapped_outputs, tables.table4(swapped_outputs)))
    assert "in 3 they moved it less than one of them" in answer


# --- where it comes from


def test_runs_are_searched_by_their_numbers_and_hold_no_id(report: Document, outputs: Outputs) -> None:
    (searched,) = [block for block in section(report, "MLflow runs").blocks if isinstance(block, Runs)]
    searches = {run.name: run.search for run in searched.runs}
    perplexity = outputs.results["tiny", "top-4"]["metrics"]["perplexity"]["value"]
    assert len(searches) == 2 + 2 * len(SETUPS) + 1
    assert all("attributes.status = 'FINISHED'" in search and "'tiny'" in search for search in searches.values())
    assert "tags.step = 'score'" in searches["score tiny"]
    assert "tags.table_digest = 'abc'" in searches["score tiny"]
    assert f"metrics.`examine/mean_hi` = {outputs.variations['tiny']['mean_hi'][0]}" in searches["examine tiny"]
    assert f"tags.setup = 'top-4' and metrics.`test/perplexity` = {perplexity}" in searches["evaluate tiny top-4"]
    assert "tags.step" not in searches["evaluate tiny top-4"]  # it can be the run that trained
    assert "tags.step = 'answer'" in searches["answer tiny full"]
    assert outputs.tournament is not None
    assert f"tags.cells_digest = '{outputs.tournament.cells_digest}'" in searches["tournament, all of tiny"]


def test_the_tournament_s_figure_is_pointed_to_where_it_is(outputs: Outputs, outputs_root: Path) -> None:
    folder = outputs_root / layout.REPORTS
    blocks = [*tournament.tournament(outputs.tournament), *impact.pictures(outputs, folder / "figure4")]
    markdown = to_markdown(Document("", [Section("", blocks)]), folder)
    assert "](../outputs/tournament/tournament.png)" in markdown
    assert "](figure4_tiny.png)" in markdown


def test_a_hostile_source_stays_text(outputs: Outputs) -> None:
    hostile = {"source": "</td></table><script>alert(1)</script>|**x**"}
    changed = replace(outputs, headers=dict.fromkeys(outputs.headers, hostile))
    shown = words(results.beside_paper(changed, "table1", tables.table1(changed), paper.read()))
    assert "alert(1)" in shown
    assert "<script>" not in shown


# --- what is not there


def words(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown."""
    return to_markdown(Document("", [Section("", blocks)]), FOLDER)


def commands(report: Document, start: str) -> list[str]:
    return re.findall(r"headimpact [a-z]+", text(report, start))


def test_missing_files_are_listed_by_the_command_that_makes_them(outputs: Outputs) -> None:
    gaps = (
        Missing(Path("a.json"), "not made yet", "headimpact x"),
        Missing(Path("b.json"), "not made yet", "headimpact x"),
        Missing(Path("c.json"), "too old", "headimpact y"),
    )
    assert words(runs.missing(replace(outputs, missing=gaps))).splitlines()[4:] == [
        "- a.json and b.json: not made yet. Run headimpact x.",
        "- c.json: too old. Run headimpact y.",
    ]


def test_a_report_of_everything_misses_nothing(report: Document) -> None:
    assert text(report, "Missing").endswith("## Missing\n\nNothing.\n")


def test_only_score_was_run(tmp_path: Path) -> None:
    """Every section that has no data says in a sentence which command makes it."""
    write_score(tmp_path)
    report = arrange(collect(["tiny"], SETUPS, tmp_path))
    assert "| tiny | missing | missing | 3 | 2 |" in text(report, "Table 1")
    assert commands(report, "Summary") == ["headimpact finetune", "headimpact advise"]
    for start, command in {
        "Table 3": "select",
        "Table 4": "evaluate",
        "Table 5": "advise",
        "Did the top": "finetune",
        "Tournament": "tournament",
        "Questions in": "answer",
        "Answers in": "answer",
        "Head Impact under": "examine",
    }.items():
        assert f"headimpact {command}" in commands(report, start), start
    for start in ("How much", "Figure 4", "Figure 5", "MLflow runs", "Table 2"):
        assert commands(report, start) == [], start


def test_only_the_original_was_evaluated(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "original")
    report = arrange(collect([], [], tmp_path))
    assert "| tiny | perplexity ↓ | 4.587 ± " in text(report, "Table 4")
    assert "nothing was trained" in text(report, "Summary")
    assert "headimpact advise" in commands(report, "Table 5")
    for start in ("Table 2", "How much", "Figure 4", "Figure 5"):
        assert commands(report, start) == ["headimpact score"], start


def test_one_setup_of_a_model_of_one_s_own(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "full", model="mine")
    write_adapter(tmp_path, "full", model="mine", source="somewhere/mine")
    report = arrange(collect(["tiny"], SETUPS, tmp_path))
    assert "| mine | somewhere/mine | 1,000 |" in text(report, "Table 1")
    assert "| mine | full | 6 8 9 11 |" in text(report, "Table 3")
    table4 = text(report, "Table 4")
    assert "| mine | accuracy ↑ | missing | 0.917 ± " in table4
    assert "tiny" not in table4
    assert "not known in full" in text(report, "Summary")
    assert "headimpact evaluate --model mine --setup original" in text(report, "Missing")
    assert "headimpact score --model tiny" in text(report, "Missing")


def test_a_top_without_its_controls_is_not_judged(outputs: Outputs) -> None:
    kept = ("original", "top-4")
    alone = replace(
        outputs,
        pairs=tuple(pair for pair in outputs.pairs if pair[1] in kept),
        objects={pair: table for pair, table in outputs.objects.items() if pair[1] in kept},
    )
    table = tables.table4(alone)
    assert "in 3 a result is missing" in words(summary.summary(alone, table))
    assert "no difference against the original for bottom-4 and random-4" in words(summary.movement(alone, table))


def test_without_top_layers_nothing_is_judged(outputs: Outputs) -> None:
    other = replace(outputs, pairs=(("tiny", "original"), ("tiny", "full")))
    table = tables.table4(other)
    for blocks in (summary.summary(other, table), summary.movement(other, table)):
        assert "Not answered: no setup top-K was evaluated." in words(blocks)


def test_results_without_a_metric_leave_a_gap(outputs: Outputs) -> None:
    pair = ("tiny", "original")
    old = dict(outputs.results[pair]) | {"metrics": {"perplexity": outputs.results[pair]["metrics"]["perplexity"]}}
    changed = replace(outputs, results={**outputs.results, pair: old})
    shown = words(results.beside_paper(changed, "table4", tables.table4(changed), paper.read()))
    assert "| tiny | accuracy ↑ | missing | **0.417" in shown
