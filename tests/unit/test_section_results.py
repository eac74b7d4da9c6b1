"""Tables 1 to 5 as they are shown, and the paper's beside them."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from headimpact.report import paper, tables
from headimpact.report.outputs import Outputs
from headimpact.report.page import Block, Heading, Items, Table, Text
from headimpact.report.sections import results


def named(outputs: Outputs, model: str, source: str | None) -> Outputs:
    """The outputs as those of another model."""

    def of(by_key: Mapping) -> dict:
        return {(model, key[1]) if isinstance(key, tuple) else model: value for key, value in by_key.items()}

    mappings = {name: of(value) for name, value in vars(outputs).items() if isinstance(value, Mapping)}
    mappings |= {"headers": {pair: {"source": source} for pair in of(outputs.headers)} if source else {}}
    pairs = tuple((model, setup) for _, setup in outputs.pairs)
    return replace(outputs, models=(model,), pairs=pairs, **(mappings | {"identities": {}}))


def blocks(outputs: Outputs, name: str) -> list[Block]:
    return results.beside_paper(outputs, name, tables.tables(outputs)[name], paper.read())


def lines(blocks: list[Block]) -> list[str]:
    """The rows of all tables, as in ``a | b``."""
    return [" | ".join(cell.text for cell in row) for block in blocks if isinstance(block, Table) for row in block.rows]


@pytest.fixture(scope="module")
def papers_own(outputs: Outputs) -> Outputs:
    return named(outputs, "my-smolvlm", "HuggingFaceTB/SmolVLM-Instruct")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("table1", "my-smolvlm | paper | HuggingFaceTB/SmolVLM-Instruct | 2,246,272,880 | 24 | 32"),
        ("table2", "my-smolvlm | this run | layers | 2 | 12.5 | 2e-05 | "),
        ("table2", "my-smolvlm | paper | layers | 23 | 103.56 | 3.40e-12 | Qwen2-VL"),
        ("table3", "my-smolvlm | paper | top-4 | 0 15 16 18"),
        (
            "table4",
            "my-smolvlm | paper | perplexity ↓ | "
            "17.20 ± 0.10 | 15.39 ± 0.10 | 16.04 ± 0.08 | 17.20 ± 0.10 | 16.77 ± 0.10",
        ),
        ("table5", "my-smolvlm | paper | four layers | 2,246,666,096 | 393,216 | 0.0175"),
    ],
)
def test_the_papers_rows_stand_beside_ours_for_its_own_models(papers_own: Outputs, name: str, expected: str) -> None:
    shown = blocks(papers_own, name)
    assert expected in lines(shown)
    assert not any(isinstance(block, Heading) for block in shown)


def test_the_papers_rows_stand_apart_for_other_models(outputs: Outputs) -> None:
    other = named(outputs, "my-smolvlm", "somewhere/my-smolvlm")
    shown = blocks(other, "table4")
    assert any(isinstance(block, Heading) and "no comparison" in block.text for block in shown)
    assert any(line.startswith("SmolVLM | perplexity ↓ | 17.20 ± 0.10 | 15.39") for line in lines(shown))
    assert not any("paper" in line or line.startswith("PaliGemma2") for line in lines(shown))
    (items,) = [block for block in blocks(other, "table1") if isinstance(block, Items)]
    (sentence,) = items.items
    assert "somewhere/my-smolvlm" in sentence
    assert "HuggingFaceTB/SmolVLM-Instruct" in sentence


def test_a_model_whose_source_is_not_known_is_another_model(outputs: Outputs) -> None:
    (items,) = [block for block in blocks(named(outputs, "smolvlm", None), "table1") if isinstance(block, Items)]
    assert "source that is not known" in items.items[0]


def test_the_dataset_is_named(outputs: Outputs) -> None:
    text = blocks(outputs, "table1")[-1]
    assert isinstance(text, Text)
    assert "on the dataset scenes" in text.text


def test_table4_is_laid_out_as_in_the_paper(outputs: Outputs) -> None:
    rows = results.rows("table4", tables.table4(outputs))
    assert [row["metric"].text for row in rows] == ["accuracy ↑", "AnsProb ↑", "perplexity ↓"]
    top = rows[0]["top-4"]
    assert top.strong
    assert top.text.startswith("0.417 ± ")
    assert top.note.startswith("-0.500 (-0.6")
    assert rows[0]["original"].note == ""


def test_a_setup_that_another_model_has_is_no_gap(outputs: Outputs) -> None:
    """Missing is said of what should be there alone."""
    lone = {("mine", "original"): outputs.results["tiny", "original"]}
    both = replace(
        outputs,
        models=("tiny", "mine"),
        pairs=(*outputs.pairs, ("mine", "original")),
        results={pair: value for pair, value in outputs.results.items() if pair[1] != "full"} | lone,
    )
    (table,) = [block for block in blocks(both, "table4") if isinstance(block, Table)]
    full = list(table.columns).index("full")
    assert [row[full].text for row in table.rows] == ["missing"] * 3 + [""] * 3


def test_the_papers_contradictions_are_told() -> None:
    found = results.contradictions_found(paper.read())
    verdicts = [block.text.partition(".")[0] for block in found if isinstance(block, Text)][1:]
    assert verdicts == ["Found", "Found", "Found", "Not found"]
    assert "PaliGemma2 | 27 | 11 | Qwen2-VL" in lines(found)
