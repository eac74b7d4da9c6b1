"""What is said of answers follows from their numbers."""

from dataclasses import replace

import numpy as np
import pytest

from headimpact.report.outputs import Outputs
from headimpact.report.page import Items, Table
from headimpact.report.sections import answers
from headimpact.report.sections.answers import Answered
from headimpact.statistics import Difference

FIGURES = [
    *("accuracy_24_orders", "accuracy_1_order", "ans_prob_24_orders", "ans_prob_1_order", "order_dependent"),
    *("label_A", "label_B", "label_C", "label_D", "caption_f1_best", "caption_f1", "question_f1_best"),
    *("cutout_f1", "cutout_rouge_l", "cutout_exact_match", "reference_log_prob"),
]


def answered(values: dict[str, float], moved: dict[str, float] | None = None) -> Answered:
    """Figures of 0.25 ± 0.01 but for ``values``; ``moved``: differences ± 0.1 against the original, else none."""
    estimates = {name: {"value": values.get(name, 0.25), "se": 0.01, "n": 30} for name in FIGURES}
    sizes = {} if moved is None else {name: moved.get(name, 0.0) for name in FIGURES}
    differences = {name: Difference(size, 0.05, size - 0.1, size + 0.1, 0.01, 30, 10) for name, size in sizes.items()}
    return Answered(estimates, differences)


FOUND = {
    ("tiny", "original"): answered({"accuracy_24_orders": 0.8, "accuracy_1_order": 0.9, "order_dependent": 0.3}),
    ("tiny", "top-4"): answered(
        {"label_D": 0.28}, {"accuracy_24_orders": -0.4, "accuracy_1_order": -0.05, "cutout_f1": 0.2}
    ),
    ("tiny", "full"): answered({"label_D": 0.265}, {}),
}


def sentences(blocks: list) -> list[str]:
    (items,) = [block for block in blocks if isinstance(block, Items)]
    return list(items.items)


def test_the_original_is_described_by_its_figures():
    text = sentences(answers.in_orders(FOUND, "tiny"))[0]
    for figure in ("0.800", "0.900", "0.300"):
        assert figure in text


def test_a_label_is_favoured_beyond_two_and_a_half_standard_errors_alone():
    original, top, full, _ = sentences(answers.in_orders(FOUND, "tiny"))
    assert "label D is favoured with 0.280" in top
    assert "no label is favoured" in original
    assert "no label is favoured" in full


def test_what_the_single_order_would_have_hidden_is_named():
    claims = sentences(answers.in_orders(FOUND, "tiny"))[3]
    assert "lower under top-4; no change can be claimed under full" in claims
    assert "otherwise of top-4" in claims


def test_words_are_claimed_by_the_intervals():
    (text,) = sentences(answers.in_words(FOUND, ["gallery_tiny.html"], "tiny"))
    assert "original 0.250, top-4 0.250, full 0.250" in text
    assert "higher under top-4; no change can be claimed under full" in text


def test_tables_hold_every_setup_with_its_difference():
    tables = [block for block in answers.in_orders(FOUND, "tiny") if isinstance(block, Table)]
    assert [len(table.rows) for table in tables] == [3, 3]
    assert tables[0].rows[0][2].text == "0.800 ± 0.010"
    assert tables[0].rows[0][2].note == ""
    assert tables[0].rows[1][2].note == "-0.400 (-0.500 to -0.300)"
    assert [table.columns[:2] for table in tables] == [["model", "setup"]] * 2
    assert tables[1].columns[2:] == ["label A", "label B", "label C", "label D"]


def test_an_original_alone_is_compared_with_nothing():
    alone = {("tiny", "original"): FOUND["tiny", "original"]}
    assert len(sentences(answers.in_orders(alone, "tiny"))) == 1
    assert "against the original" not in sentences(answers.in_words(alone, [], "tiny"))[0]


def test_differences_are_computed_from_the_answers_of_both(outputs: Outputs):
    figures = answers.figures(outputs)
    difference = figures["tiny", "top-4"].differences["accuracy_24_orders"]
    assert difference.value == pytest.approx(-0.75)
    assert figures["tiny", "original"].differences == {}
    assert figures["tiny", "full"].differences["accuracy_24_orders"].value == 0


@pytest.mark.parametrize("absent", ["orders", "generated"])
def test_without_the_answers_of_the_original_no_difference_is_known(outputs: Outputs, absent: str):
    tables = {pair: table for pair, table in getattr(outputs, absent).items() if pair[1] != "original"}
    figures = answers.figures(replace(outputs, **{absent: tables}))
    assert figures["tiny", "top-4"].differences == {}
    assert figures["tiny", "top-4"].estimates["accuracy_24_orders"]["value"] == 0.25


def test_answers_about_other_objects_have_no_difference(outputs: Outputs):
    moved = outputs.orders["tiny", "top-4"].assign(object_id=np.arange(6))
    figures = answers.figures(replace(outputs, orders={**outputs.orders, ("tiny", "top-4"): moved}))
    assert figures["tiny", "top-4"].differences == {}
    assert figures["tiny", "full"].differences != {}


def test_a_figure_that_old_answers_lack_is_missing(outputs: Outputs):
    old = {pair: {"metrics": {"cutout_f1": {"value": 0.5, "se": 0.1}}} for pair in outputs.answers}
    figures = answers.figures(replace(outputs, answers=old))
    table, *_ = [block for block in answers.in_orders(figures, "tiny") if isinstance(block, Table)]
    assert {cell.text for cell in table.rows[0][2:]} == {"missing"}
