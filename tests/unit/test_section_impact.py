"""How much the rankings agree, and Head Impact under test."""

from dataclasses import replace
from pathlib import Path

from headimpact.report.outputs import Outputs
from headimpact.report.page import Picture, Table, Text
from headimpact.report.sections import examination, impact


def ranks(outputs: Outputs) -> dict[str, str]:
    (table,) = [block for block in impact.rankings(outputs) if isinstance(block, Table)]
    assert all(row[1].note == "3 of 3 layers" for row in table.rows)
    return {row[0].text: row[1].text for row in table.rows}


def test_how_much_the_rankings_agree(outputs: Outputs) -> None:
    """HI ranks the layers 2, 1, 0; with three layers every rule takes all of them."""
    assert ranks(outputs) == {
        "excess": "+1.00",
        "auroc": "-1.00",
        "mass": "no ranking",
        "share": "+1.00",
        "gradient": "-1.00",
        "knockout": "+0.50",
        "localisation": "no ranking",
        "kappa": "+0.50",
        "first": "-1.00",
        "middle": "+0.00",
        "last": "+1.00",
        "uniform": "no ranking",
    }


def test_rules_that_were_not_measured_are_left_out(outputs: Outputs) -> None:
    assert set(ranks(replace(outputs, measures={}))) == {
        "excess",
        "auroc",
        "mass",
        "first",
        "middle",
        "last",
        "uniform",
    }


def test_every_variation_stands_beside_the_definition(outputs: Outputs) -> None:
    blocks = examination.examination(outputs, Path("reports/stability"))
    variations, variances = [block for block in blocks if isinstance(block, Table)]
    by_name = {row[0].text: dict(zip(variations.columns, row, strict=True)) for row in variations.rows}
    definition, median = by_name["definition"], by_name["threshold: median"]
    assert definition["mean HI"].text == "0.300"
    assert definition["difference"].text == ""
    assert (definition["rank of layers"].text, definition["top 4 the same"].note) == ("+1.00", "layers 2 1 0")
    assert (median["rank of layers"].text, median["top 4 the same"].note) == ("-1.00", "layers 0 1 2")
    assert median["difference"].text in ("+0.000", "-0.000")
    assert float(variances.rows[0][1].text) > 0.99  # of the variance lies between layers
    assert "40 objects of 20 images. 3 layers of 2 heads." in [b.text for b in blocks if isinstance(b, Text)]
    assert [block.path for block in blocks if isinstance(block, Picture)] == [Path("reports/stability_tiny.png")]


def test_a_model_that_was_examined_in_part_is_not_shown(outputs: Outputs) -> None:
    (text,) = examination.examination(replace(outputs, variances={}), Path("stability"))
    assert isinstance(text, Text)
    assert "headimpact examine --model tiny" in text.text
