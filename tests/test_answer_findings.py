"""What is said of answers follows from their numbers."""

from typing import Any

from headimpact.report import answer_findings
from headimpact.report.page import Items, Table, Text

FIGURES = [
    *("accuracy_24_orders", "accuracy_1_order", "ans_prob_24_orders", "ans_prob_1_order", "order_dependent"),
    *("label_A", "label_B", "label_C", "label_D", "caption_f1_best", "caption_f1", "question_f1_best"),
    *("cutout_f1", "cutout_rouge_l", "cutout_exact_match", "reference_log_prob"),
]


def cell(values: dict[str, float], moved: dict[str, float] | None = None) -> dict[str, Any]:
    """Figures of 0.25 ± 0.01 but for ``values``; ``moved``: differences ± 0.1 against the original, else none."""
    metrics = {name: {"value": values.get(name, 0.25), "se": 0.01, "n": 30} for name in FIGURES}
    if moved is None:
        return {"metrics": metrics}
    changes = {name: {"value": moved.get(name, 0.0)} for name in FIGURES}
    for change in changes.values():
        change |= {"low": change["value"] - 0.1, "high": change["value"] + 0.1}
    return {"metrics": metrics, "against_original": changes}


RESULTS = {
    ("tiny", "original"): cell({"accuracy_24_orders": 0.8, "accuracy_1_order": 0.9, "order_dependent": 0.3}),
    ("tiny", "top-4"): cell(
        {"label_D": 0.28}, {"accuracy_24_orders": -0.4, "accuracy_1_order": -0.05, "cutout_f1": 0.2}
    ),
    ("tiny", "full"): cell({"label_D": 0.265}, {}),
}


def sentences(blocks: list[Any]) -> list[str]:
    (items,) = [block for block in blocks if isinstance(block, Items)]
    return list(items.items)


def test_orders_in_words():
    said = sentences(answer_findings.in_orders(RESULTS))
    assert said[0] == (
        "tiny, original: right in 0.800 of the answers over all orders and in 0.900 in the single one; the order "
        "decides the choice for 0.300 of the objects, and no label is favoured beyond 2.5 standard errors."
    )
    assert said[1].endswith("and label D is favoured with 0.280 of the probability.")
    assert said[2].endswith("no label is favoured beyond 2.5 standard errors.")
    assert said[3] == (
        "tiny, accuracy over all orders against the original: lower under top-4; no change can be claimed under full. "
        "The single order would have claimed otherwise of top-4."
    )


def test_words_in_words():
    (said,) = sentences(answer_findings.in_words(RESULTS, ["gallery_tiny.html"]))
    assert said == (
        "tiny: F1 of the caption with the nearest phrase: original 0.250, top-4 0.250, full 0.250. Of single objects "
        "(cut-outs), F1 against the original: higher under top-4; no change can be claimed under full."
    )


def test_tables_hold_every_setup_with_its_difference():
    tables = [block for block in answer_findings.in_orders(RESULTS) if isinstance(block, Table)]
    assert [len(table.rows) for table in tables] == [3, 3]
    assert tables[0].rows[0][2].text == "0.800 ± 0.010"
    assert tables[0].rows[0][2].note == ""
    assert tables[0].rows[1][2].note == "-0.400 (-0.500 to -0.300)"
    assert [table.columns[:2] for table in tables] == [["model", "setup"]] * 2


def test_without_answers_the_command_is_named():
    for blocks in (answer_findings.in_orders({}), answer_findings.in_words({}, [])):
        assert blocks == [Text("Not measured: run headimpact answer.")]


def test_an_original_alone_is_compared_with_nothing():
    alone = {("tiny", "original"): RESULTS["tiny", "original"]}
    assert len(sentences(answer_findings.in_orders(alone))) == 1
    assert "against the original" not in sentences(answer_findings.in_words(alone, []))[0]
