"""The paper's printed tables: what they say, and the contradictions that they hold."""

import pandas as pd
import pytest
from scipy import stats

from headimpact.report import paper
from headimpact.report.paper import beside, contradictions

CONTROLS = [
    ("PaliGemma2", "bottom-4"),
    ("PaliGemma2", "random-4"),
    ("Qwen2-VL", "bottom-4"),
    ("Qwen2-VL", "random-4"),
    ("SmolVLM", "random-4"),
]


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    return paper.read()


def put(table: pd.DataFrame, model: str, setup: str, **values: str) -> None:
    """Correct cells of table 4 in place."""
    for column, value in values.items():
        table.loc[(table["model"] == model) & (table["setup"] == setup), column] = value


def test_values_are_as_printed(tables: dict[str, pd.DataFrame]) -> None:
    assert list(tables) == ["table1", "table2", "table3", "table4", "table5"]
    assert "0.30" in tables["table2"]["p_value"].tolist()
    full = tables["table4"].iloc[4].to_dict()
    assert (full["setup"], paper.cell(full, "accuracy"), paper.cell(full, "perplexity")) == (
        "full",
        "0.90",
        "9.46 ± 0.04",
    )


@pytest.mark.parametrize("df", [1, 5, 7, 11, 23, 31])
@pytest.mark.parametrize("share", [0.7, 1.0, 3.0])
def test_degrees_of_freedom_follow_from_statistic_and_p_value(df: int, share: float) -> None:
    p_value = float(f"{stats.chi2.sf(share * df, df):.2e}")
    assert contradictions.implied_df(share * df, p_value) == df


def test_table2_has_its_columns_permuted(tables: dict[str, pd.DataFrame]) -> None:
    assert contradictions.table2_columns(tables).values.tolist() == [
        ["PaliGemma2", 27, 11, "Qwen2-VL"],
        ["Qwen2-VL", 23, 31, "SmolVLM"],
        ["SmolVLM", 25, 7, "PaliGemma2"],
    ]
    check = contradictions.checks(tables)[0]
    assert check.found
    assert "permuted: PaliGemma2 holds those of Qwen2-VL, Qwen2-VL holds those of SmolVLM, SmolVLM holds" in check.words


def test_a_corrected_table2_is_not_permuted(tables: dict[str, pd.DataFrame]) -> None:
    right = {"PaliGemma2": "Qwen2-VL", "Qwen2-VL": "SmolVLM", "SmolVLM": "PaliGemma2"}
    tables["table2"]["column_as_printed"] = tables["table2"]["column_as_printed"].map(right)
    check = contradictions.checks(tables)[0]
    assert not check.found
    assert "By them every column is that of its model." in check.words


def test_a_column_of_no_model_is_told(tables: dict[str, pd.DataFrame]) -> None:
    tables["table1"].loc[tables["table1"]["model"] == "SmolVLM", "heads"] = "16"
    check = contradictions.checks(tables)[0]
    assert "Qwen2-VL holds those of none" in check.words


def test_five_controls_equal_the_original_in_every_digit(tables: dict[str, pd.DataFrame]) -> None:
    equal = contradictions.equal_to_original(tables)
    found = equal[["model", "setup", "metric"]].itertuples(index=False, name=None)
    assert list(found) == [(*control, metric) for control in CONTROLS for metric in paper.METRICS]
    check = contradictions.checks(tables)[1]
    assert check.found
    assert check.words.startswith("15 of the 36 cells of fine-tuned models equal the original in every printed digit. ")
    assert "In 5 of the 12 setups all of them do: PaliGemma2 bottom-4, " in check.words


def test_controls_that_moved_are_not_equal_to_the_original(tables: dict[str, pd.DataFrame]) -> None:
    for model, setup in CONTROLS:
        put(tables["table4"], model, setup, accuracy="0.80", ans_prob="0.80", perplexity="9.00")
    check = contradictions.checks(tables)[1]
    assert (check.found, len(check.table)) == (False, 0)
    assert check.words == "No cell of a fine-tuned model equals that of its original in every digit."


def test_a_standard_error_that_differs_is_a_digit_that_differs(tables: dict[str, pd.DataFrame]) -> None:
    put(tables["table4"], "SmolVLM", "random-4", perplexity_se="0.11")
    equal = contradictions.equal_to_original(tables)
    assert equal[equal["model"] == "SmolVLM"]["metric"].tolist() == ["accuracy", "ans_prob"]
    assert "In 4 of the 12 setups all of them do" in contradictions.checks(tables)[1].words


def test_full_moves_less_than_top_4_everywhere_and_less_than_one_bottom_4(tables: dict[str, pd.DataFrame]) -> None:
    less = contradictions.full_moves_less(tables)
    assert less.groupby("setup").size().to_dict() == {"top-4": 9, "bottom-4": 3}
    assert less.iloc[0].tolist() == ["PaliGemma2", "accuracy", "top-4", "0.68", "0.04"]
    assert set(less[less["setup"] == "bottom-4"]["model"]) == {"SmolVLM"}
    check = contradictions.checks(tables)[2]
    assert check.found
    assert "moved less than top-4 in 9 of 9 cells and bottom-4 in 3 of 9 cells." in check.words


def test_full_that_moves_most_is_no_contradiction(tables: dict[str, pd.DataFrame]) -> None:
    for model in tables["table1"]["model"]:
        put(tables["table4"], model, "full", accuracy="0.10", ans_prob="0.10", perplexity="2.00")
    check = contradictions.checks(tables)[2]
    assert (check.found, len(check.table)) == (False, 0)
    assert check.words == "Full never moved less than a setup that trains some of its layers."


def test_equal_movement_is_not_less(tables: dict[str, pd.DataFrame]) -> None:
    put(tables["table4"], "Qwen2-VL", "full", accuracy="0.98")  # 0.03 up, as top-4 is 0.03 down
    less = contradictions.full_moves_less(tables)
    assert len(less[(less["model"] == "Qwen2-VL") & (less["metric"] == "accuracy")]) == 0


def test_shares_of_table5_are_those_of_its_counts(tables: dict[str, pd.DataFrame]) -> None:
    check = contradictions.checks(tables)[3]
    assert not check.found
    assert check.table["from the counts %"].tolist() == ["0.0116", "0.0096", "0.0175"]


def test_a_share_that_is_not_that_of_its_counts_is_found(tables: dict[str, pd.DataFrame]) -> None:
    tables["table5"].loc[1, "percent"] = "0.0097"
    check = contradictions.checks(tables)[3]
    assert check.found
    assert check.words == "The printed shares of Qwen2-VL are not those of the printed counts."


def test_the_same_model_is_told_by_its_checkpoint(tables: dict[str, pd.DataFrame]) -> None:
    assert beside.same_model("HuggingFaceTB/SmolVLM-Instruct", tables) == "SmolVLM"
    assert beside.same_model("models/bases/tiny-smolvlm", tables) is None
    assert beside.same_model(None, tables) is None


def test_the_same_family_is_told_by_the_name(tables: dict[str, pd.DataFrame]) -> None:
    names = ["tiny-paligemma2", "tiny-qwen2-vl", "smolvlm", "other"]
    assert [beside.same_family(name, tables) for name in names] == ["PaliGemma2", "Qwen2-VL", "SmolVLM", None]


def test_rows_of_table1_give_the_parameters_of_the_base(tables: dict[str, pd.DataFrame]) -> None:
    parameters = [
        beside.rows("table1", name, tables)[0]["parameters"] for name in ("PaliGemma2", "Qwen2-VL", "SmolVLM")
    ]
    assert parameters == ["3,033,127,152", "2,208,985,600", "2,246,272,880"]


def test_rows_of_table2_are_those_of_the_model_by_degrees_of_freedom(tables: dict[str, pd.DataFrame]) -> None:
    layers, heads = beside.rows("table2", "Qwen2-VL", tables)
    assert layers == {
        "groups": "layers",
        "df": "27",
        "statistic": "92.93",
        "p_value": "3.62e-9",
        "printed under": "PaliGemma2",
    }
    assert (heads["df"], heads["p_value"]) == ("11", "0.30")


def test_rows_of_the_other_tables(tables: dict[str, pd.DataFrame]) -> None:
    assert beside.rows("table3", "SmolVLM", tables)[0] == {"setup": "top-4", "layers": "0 15 16 18"}
    _, _, perplexity = beside.rows("table4", "SmolVLM", tables)
    assert (perplexity["metric"], perplexity["top-4"]) == ("perplexity ↓", "15.39 ± 0.10")
    assert beside.rows("table5", "SmolVLM", tables) == [
        {"setup": "four layers", "total": "2,246,666,096", "trainable": "393,216", "percent": "0.0175"}
    ]
