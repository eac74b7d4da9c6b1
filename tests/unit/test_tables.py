"""Tables 1 to 5 as data: what stands in the CSV files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_outputs import BASE, CHANGES, SETUPS, objects

from headimpact import statistics
from headimpact.evaluation.metrics import COMPARED
from headimpact.report import tables
from headimpact.report.outputs import Outputs

TRAINED = list(SETUPS[1:])
ENDINGS = ("difference", "low", "high", "p_value")


@pytest.fixture(scope="module")
def table4(outputs: Outputs) -> pd.DataFrame:
    return tables.table4(outputs).set_index("setup")


def test_table1_gives_the_parameters_of_the_base(outputs: Outputs) -> None:
    (row,) = tables.table1(outputs).to_dict("records")
    assert row == {"model": "tiny", "source": "bases/tiny", "parameters": BASE, "layers": 3, "heads": 2}


def test_the_source_of_a_model_without_an_adapter_is_that_of_its_identity(outputs: Outputs) -> None:
    untrained = replace(outputs, headers={}, identities={"tiny": {"source": "hub/tiny"}})
    assert tables.table1(untrained)["source"].tolist() == ["hub/tiny"]
    assert tables.table1(replace(untrained, identities={}))["source"].isna().all()


def test_table2_has_a_row_for_layers_and_one_for_heads(outputs: Outputs) -> None:
    assert tables.table2(outputs).values.tolist() == [
        ["tiny", "layers", 2, 12.5, 0.00002],
        ["tiny", "heads", 1, 12.5, 0.00002],
    ]


def test_table3_lists_the_layers_of_setups_that_train(outputs: Outputs) -> None:
    table = tables.table3(outputs)
    assert table["setup"].tolist() == TRAINED
    assert set(table["layers"]) == {"6 8 9 11"}


def test_table4_has_the_results_as_they_were_evaluated(outputs: Outputs, table4: pd.DataFrame) -> None:
    for setup in SETUPS:
        for name in COMPARED:
            estimate = outputs.results["tiny", setup]["metrics"][name]
            row = table4.loc[setup, [name, f"{name}_se", f"{name}_n"]]
            assert row.tolist() == [estimate["value"], estimate["se"], estimate["n"]]


@pytest.mark.parametrize(
    ("metric", "compare", "column"),
    [
        ("accuracy", statistics.paired_difference, "correct"),
        ("ans_prob", statistics.paired_difference, "ans_prob"),
        ("perplexity", statistics.paired_perplexity_difference, "nll"),
    ],
)
def test_table4_computes_the_differences_from_the_objects(
    table4: pd.DataFrame, metric: str, compare: Callable[..., statistics.Difference], column: str
) -> None:
    """To the last bit what the statistics give for the objects of both."""
    before = objects(CHANGES["original"])
    for setup in TRAINED:
        after = objects(CHANGES[setup])
        known = compare(after[column].to_numpy(), before[column].to_numpy(), before["image_id"].to_numpy())
        row = table4.loc[setup, [f"{metric}_{ending}" for ending in ENDINGS]]
        assert row.tolist() == [known.value, known.low, known.high, known.p_value]
    assert table4.loc["original", [f"{metric}_{ending}" for ending in ENDINGS]].isna().all()


def test_table4_marks_the_largest_difference_of_a_model(table4: pd.DataFrame) -> None:
    assert table4.index[table4["accuracy_largest"]].tolist() == ["top-4"]
    assert table4.index[table4["perplexity_largest"]].tolist() == ["top-4"]


def test_the_largest_difference_is_sought_within_a_model(outputs: Outputs) -> None:
    other = {("other", setup): table for (_, setup), table in outputs.objects.items()}
    other["other", "full"] = objects(CHANGES["top-4"]).assign(nll=lambda table: table["nll"] + 2)
    both = replace(
        outputs,
        models=("tiny", "other"),
        pairs=(*outputs.pairs, *other),
        objects={**outputs.objects, **other},
    )
    marked = tables.table4(both).query("perplexity_largest")
    assert marked[["model", "setup"]].to_numpy().tolist() == [["tiny", "top-4"], ["other", "full"]]


def test_table4_marks_nothing_where_nothing_moved(outputs: Outputs) -> None:
    still = replace(outputs, objects=dict.fromkeys(outputs.objects, objects(CHANGES["original"])))
    table = tables.table4(still)
    assert not table[[f"{metric}_largest" for metric in COMPARED]].to_numpy().any()
    assert (table["accuracy_difference"].iloc[1:] == 0).all()


def test_without_the_original_no_difference_is_known(outputs: Outputs) -> None:
    others = {pair: table for pair, table in outputs.objects.items() if pair[1] != "original"}
    table = tables.table4(replace(outputs, objects=others))
    assert table["perplexity"].notna().all()
    assert table["perplexity_difference"].isna().all()


def test_objects_of_another_test_part_are_not_compared(outputs: Outputs) -> None:
    moved = outputs.objects["tiny", "top-4"].assign(object_id=lambda table: table["object_id"] + 1)
    changed = replace(outputs, objects={**outputs.objects, ("tiny", "top-4"): moved})
    known = tables.table4(changed).set_index("setup")["accuracy_difference"].notna()
    assert known.index[known].tolist() == ["bottom-4", "random-4", "full"]


def test_a_metric_that_the_objects_lack_has_no_difference_and_the_others_have(outputs: Outputs) -> None:
    old = outputs.objects["tiny", "top-4"].drop(columns="ans_prob")
    row = (
        tables.table4(replace(outputs, objects={**outputs.objects, ("tiny", "top-4"): old}))
        .set_index("setup")
        .loc["top-4"]
    )
    assert np.isnan(row["ans_prob_difference"])
    assert not np.isnan(row["accuracy_difference"])


def test_table5_counts_parameters(outputs: Outputs) -> None:
    table = tables.table5(outputs)
    assert table["setup"].tolist() == TRAINED
    assert table.iloc[0, 2:].tolist() == [1010, 10, pytest.approx(0.990099, abs=1e-6)]


def test_the_columns_are_those_of_the_committed_tables(outputs: Outputs, project_root: Path) -> None:
    for name, table in tables.tables(outputs).items():
        assert list(table) == list(pd.read_csv(project_root / f"reports/{name}.csv")), name


def test_csv_reads_back_as_numbers(table4: pd.DataFrame, tmp_path: Path) -> None:
    table4.to_csv(tmp_path / "table4.csv")
    back = pd.read_csv(tmp_path / "table4.csv", index_col="setup")
    pd.testing.assert_frame_equal(back, table4, check_dtype=False)


def test_tables_of_nothing_have_their_columns(outputs: Outputs) -> None:
    nothing = replace(outputs, models=(), pairs=())
    for name, table in tables.tables(outputs).items():
        empty = tables.tables(nothing)[name]
        assert list(empty) == list(table)
        assert len(empty) == 0
