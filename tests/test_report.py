"""The report, from small hand-made outputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headimpact import layout, report
from headimpact.errors import InputError

SETUPS = ["original", "top-4", "bottom-4", "random-4", "full"]
BASE = 1000


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "se": 0.01, "n": 30}


def difference(value: float, half: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half, "p_value": 0.01}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_score(root: Path, model: str) -> None:
    test = {"statistic": 12.5, "df": 2, "p_value": 0.00002}
    summary = {"layers": 3, "heads": 2, "kruskal_wallis": {"layers": test, "heads": test | {"df": 1}}}
    write_json(root / layout.impact_summary(model), {"model": model} | summary)
    pd.DataFrame(
        {
            "layer": np.repeat(np.arange(3), 2),
            "head": np.tile(np.arange(2), 3),
            "hi": [0.1, 0.3, 0.3, 0.5, 0.5, 0.7],
            "chance": 0.1,
        }
    ).to_csv(root / layout.impact_table(model), index=False)


def write_setup(root: Path, model: str, setup: str, changes: dict[str, dict[str, float]] | None = None) -> None:
    """Results of one setup: ``changes`` are the paired differences against the original."""
    trained = setup != "original"
    extra = 10 if trained else 0
    results = {
        "model": model,
        "setup": setup,
        "parameters": {"total": BASE + extra, "trainable": extra, "percent": 100 * extra / (BASE + extra)},
        "metrics": {name: estimate(0.9) for name in report.METRICS},
    }
    if trained:
        results["against_original"] = changes or {name: difference(0.0) for name in report.METRICS}
        write_json(root / layout.selection(model, setup), {"layers": [6, 8, 9, 11]})
        write_json(root / layout.adapter(model, setup) / "header.json", {"source": f"bases/{model}"})
    write_json(root / layout.results(model, setup), results)


def changes(value: float, half: float = 0.02) -> dict[str, dict[str, float]]:
    return {name: difference(value, half) for name in report.METRICS}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One model with every setup: top-4 moved by -0.4, full by +0.3, random-4 by 0.1, bottom-4 not at all."""
    write_score(tmp_path, "tiny")
    for setup, value in zip(SETUPS[1:], (-0.4, 0.0, 0.1, 0.3), strict=True):
        write_setup(tmp_path, "tiny", setup, changes(value))
    write_setup(tmp_path, "tiny", "original")
    return tmp_path


def test_table1_gives_the_parameters_of_the_base(root: Path) -> None:
    table = report.table1(report.collect(["tiny"], SETUPS, root))
    assert table.to_dict("records") == [
        {"model": "tiny", "source": "bases/tiny", "parameters": BASE, "layers": 3, "heads": 2}
    ]


def test_table2_has_a_row_for_layers_and_one_for_heads(root: Path) -> None:
    table = report.table2(report.collect(["tiny"], SETUPS, root))
    assert table.values.tolist() == [
        ["tiny", "layers", 2, 12.5, 0.00002],
        ["tiny", "heads", 1, 12.5, 0.00002],
    ]


def test_table3_lists_the_layers_of_setups_that_train(root: Path) -> None:
    table = report.table3(report.collect(["tiny"], SETUPS, root))
    assert table["setup"].tolist() == SETUPS[1:]
    assert set(table["layers"]) == {"6 8 9 11"}


def test_table4_holds_values_and_differences_and_marks_the_largest(root: Path) -> None:
    table = report.table4(report.collect(["tiny"], SETUPS, root)).set_index("setup")
    assert table.loc["original", ["accuracy", "accuracy_se", "accuracy_n"]].tolist() == [0.9, 0.01, 30]
    assert np.isnan(table.loc["original", "accuracy_difference"])
    top = table.loc["top-4", [f"accuracy_{name}" for name in ("difference", "low", "high", "p_value")]]
    np.testing.assert_allclose(top.tolist(), [-0.4, -0.42, -0.38, 0.01])
    assert table["accuracy_largest"].tolist() == [False, True, False, False, False]


def test_table4_marks_nothing_where_nothing_moved(tmp_path: Path) -> None:
    for setup in SETUPS:
        write_setup(tmp_path, "tiny", setup)
    table = report.table4(report.collect(["tiny"], SETUPS, tmp_path))
    assert not table[[f"{metric}_largest" for metric in report.METRICS]].to_numpy().any()


def test_the_largest_difference_is_sought_within_a_model(root: Path) -> None:
    for setup in SETUPS:
        write_setup(root, "other", setup, changes(0.9 if setup == "full" else 0.0))
    table = report.table4(report.collect(["tiny", "other"], SETUPS, root))
    marked = table[table["perplexity_largest"]]
    assert marked[["model", "setup"]].to_numpy().tolist() == [["tiny", "top-4"], ["other", "full"]]


def test_table5_counts_parameters(root: Path) -> None:
    table = report.table5(report.collect(["tiny"], SETUPS, root))
    assert table["setup"].tolist() == SETUPS[1:]
    assert table.iloc[0, 2:].tolist() == [1010, 10, pytest.approx(0.990099, abs=1e-6)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.3, (0.2, 0.1, 0.3)),
        (-0.3, -0.1, (0.2, 0.1, 0.3)),
        (-0.3, 0.1, (0.1, 0.0, 0.3)),
        (-0.1, 0.3, (0.1, 0.0, 0.3)),
    ],
)
def test_movement_folds_the_interval_at_zero(low: float, high: float, expected: tuple[float, float, float]) -> None:
    found = report.movement((low + high) / 2, low, high)
    assert (found.size, found.low, found.high) == pytest.approx(expected)


def verdict(tmp_path: Path, top: float, bottom: float, rand: float, half: float = 0.02) -> str:
    """The sentence on accuracy."""
    for setup, value in zip(SETUPS[1:4], (top, bottom, rand), strict=True):
        write_setup(tmp_path, "tiny", setup, changes(value, half))
    sentences = report.verdicts(report.table4(report.collect(["tiny"], SETUPS[:4], tmp_path)))
    assert len(sentences) == len(report.METRICS)
    return sentences[0]


def test_verdict_yes(tmp_path: Path) -> None:
    assert verdict(tmp_path, -0.4, 0.1, 0.2) == (
        "tiny, accuracy: yes. top-4 moved more than bottom-4 and random-4. "
        "Absolute change against the original: "
        "top-4 0.400 (0.380 to 0.420), bottom-4 0.100 (0.080 to 0.120), random-4 0.200 (0.180 to 0.220)."
    )


def test_verdict_no(tmp_path: Path) -> None:
    said = verdict(tmp_path, 0.1, -0.4, 0.4)
    assert said.startswith("tiny, accuracy: no. top-4 moved less than bottom-4 and random-4. ")


def test_verdict_no_when_one_of_the_two_moved_more(tmp_path: Path) -> None:
    said = verdict(tmp_path, 0.2, 0.1, 0.4)
    assert said.startswith("tiny, accuracy: no. top-4 moved more than bottom-4, moved less than random-4. ")


def test_verdict_claims_nothing_from_overlapping_intervals(tmp_path: Path) -> None:
    said = verdict(tmp_path, 0.2, 0.1, 0.19)
    assert said.startswith(
        "tiny, accuracy: it cannot be claimed. top-4 moved more than bottom-4, cannot be told from random-4 "
        "(the intervals overlap). "
    )


def test_verdict_claims_nothing_when_the_same_differences_are_uncertain(tmp_path: Path) -> None:
    said = verdict(tmp_path, -0.4, 0.1, 0.2, half=0.5)
    assert "it cannot be claimed. top-4 cannot be told from bottom-4 and random-4" in said


def test_verdict_without_a_control_is_not_known(tmp_path: Path) -> None:
    write_setup(tmp_path, "tiny", "top-2", changes(0.4))
    write_setup(tmp_path, "tiny", "bottom-2", changes(0.1))
    table = report.table4(report.collect(["tiny"], ["original", "top-2", "bottom-2", "random-2"], tmp_path))
    assert report.verdicts(table)[0] == (
        "tiny, accuracy: not known. There is no difference against the original for random-2."
    )


def test_write_makes_every_file_and_twice_the_same(root: Path) -> None:
    outputs = report.write(["tiny"], SETUPS, root)
    assert outputs.missing == ()
    folder = root / layout.REPORTS
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    tables = {f"table{number}.{kind}" for number in range(1, 6) for kind in ("csv", "md")}
    assert set(first) == tables | {"report.md", "figure4_tiny.png", "figure5_tiny.png"}
    report.write(["tiny"], SETUPS, root)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_report_shows_tables_verdicts_and_figures(root: Path) -> None:
    report.write(["tiny"], SETUPS, root)
    text = (root / layout.REPORTS / "report.md").read_text()
    assert "| tiny | bases/tiny | 1000 | 3 | 2 |" in text
    assert "| tiny | accuracy ↑ | 0.900 ± 0.010 | **0.900 ± 0.010**<br>-0.400 (-0.420 to -0.380) | " in text
    assert "- tiny, accuracy: yes. top-4 moved more than bottom-4 and random-4." in text
    assert "![tiny](figure5_tiny.png)" in text
    assert text.endswith("## Missing\n\nNothing.\n")


def test_csv_reads_back_as_numbers(root: Path) -> None:
    report.write(["tiny"], SETUPS, root)
    table = pd.read_csv(root / layout.REPORTS / "table4.csv")
    pd.testing.assert_frame_equal(table, report.table4(report.collect(["tiny"], SETUPS, root)), check_dtype=False)


def test_missing_cells_are_named(root: Path) -> None:
    (root / layout.results("tiny", "full")).unlink()
    outputs = report.write(["tiny", "never-run"], SETUPS, root)
    assert outputs.models == ("tiny",)
    assert layout.results("tiny", "full") in outputs.missing
    text = (root / layout.REPORTS / "report.md").read_text()
    assert "| tiny | full | missing | missing | missing |" in text
    assert "- outputs/finetune/tiny/full/results.json\n" in text
    assert "- outputs/impact/never-run/summary.json\n" in text
    assert "| never-run |" not in text


def test_only_scored_models_are_reported_with_missing_results(tmp_path: Path) -> None:
    write_score(tmp_path, "tiny")
    report.write(["tiny"], SETUPS, tmp_path)
    text = (tmp_path / layout.REPORTS / "report.md").read_text()
    assert "| tiny | missing | missing | 3 | 2 |" in text
    assert "- tiny, accuracy: not known." in text


def test_nothing_to_report_is_an_error_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to report of tiny: run dvc repro first"):
        report.write(["tiny"], SETUPS, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_output_leaves_the_old_report(root: Path) -> None:
    report.write(["tiny"], SETUPS, root)
    old = (root / layout.REPORTS / "report.md").read_bytes()
    (root / layout.results("tiny", "top-4")).write_text("{")
    with pytest.raises(InputError, match=r"top-4/results\.json is not valid JSON"):
        report.write(["tiny"], SETUPS, root)
    assert (root / layout.REPORTS / "report.md").read_bytes() == old


def test_a_setup_of_named_layers_is_found_in_its_own_folder(root: Path) -> None:
    write_setup(root, "tiny", "layers:1,2", changes(0.2))
    table = report.table4(report.collect(["tiny"], ["layers:1,2"], root))
    assert table["accuracy_difference"].tolist() == [0.2]
