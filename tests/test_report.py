"""The report, from small hand-made outputs."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_tournament_section import write as write_tournament

from headimpact.data import coco
from headimpact.data.scene_dataset import write_scenes
from headimpact.errors import InputError
from headimpact.files import digest_file
from headimpact.impact import stability, variations
from headimpact.lifecycle import layout
from headimpact.lifecycle.outputs import collect
from headimpact.report import report

SETUPS = ["original", "top-4", "bottom-4", "random-4", "full"]
BASE = 1000


def write(models: Sequence[str], setups: Sequence[str], root: Path) -> report.Outputs:
    """What the step report does in the project ``root``."""
    outputs = collect(models, setups, root)
    dataset = root / layout.DATASET
    report.write(outputs, root / layout.REPORTS, coco.read_part(dataset, "test") if dataset.exists() else [])
    return outputs


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
            "excess": [0.0, 0.2, 0.2, 0.4, 0.4, 0.6],
            "auroc": [0.9, 0.9, 0.6, 0.6, 0.5, 0.5],
            "mass": 1.0,
        }
    ).to_csv(root / layout.impact_table(model), index=False)
    write_examination(root, model)
    measured = {"layer": range(3), "gradient": [9.0, 5.0, 1.0], "knockout": [0.1, 0.0, 0.2]}
    measured |= {"knockout_se": 0.01, "share": [0.1, 0.2, 0.3], "localisation": 0.5}
    path = root / layout.measures(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(measured).to_csv(path, index=False)


def write_examination(root: Path, model: str) -> None:
    """Made scores: the definition ranks the layers 2, 1, 0; the threshold turns them round."""
    draw = np.random.default_rng(0)
    iou = (np.array([0.1, 0.3, 0.5])[:, None] + draw.normal(0, 0.01, (40, 3, 2))).astype(np.float32)
    images = np.repeat(np.arange(20), 2)
    chance, flat = np.full_like(iou, 0.1), np.full(40, 0.2)
    found = {way.name: variations.Scores(iou, chance, flat, flat) for way in variations.variations(0.5)}
    found["threshold: median"] = variations.Scores(iou[:, ::-1], chance, flat, flat)
    folder = root / layout.examination(model)
    folder.mkdir(parents=True)
    variations.table(found, images).to_csv(folder / "variations.csv", index=False)
    stability.curve(iou, images, 0).to_csv(folder / "stability.csv", index=False)
    test = {"statistic": 12.5, "df": 2, "p_value": 0.00002}
    facts = {"layers": 3, "heads": 2, "examined_images": 20, "examined_objects": 40}
    facts["variance"] = asdict(stability.variance_split(iou, images))
    write_json(folder / "variance.json", facts | {"kruskal_wallis": {"layers": test, "heads": test | {"df": 1}}})


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


def write_answers(root: Path, model: str, setup: str) -> None:
    """What the step answer wrote of a setup, about all test images."""
    figures = [f"{name}_{orders}" for name in ("accuracy", "ans_prob") for orders in ("24_orders", "1_order")]
    figures += ["order_dependent", *(f"label_{label}" for label in "ABCD"), "reference_log_prob"]
    figures += [f"{kind}_{score}" for kind in ("caption", "cutout") for score in ("f1", "rouge_l", "exact_match")]
    figures += ["caption_f1_best", "question_f1_best"]
    results: dict[str, Any] = {"metrics": {name: estimate(0.25) for name in figures}}
    if setup != "original":
        results["against_original"] = {name: difference(0.0) for name in figures}
    write_json(root / layout.answer_results(model, setup), results)
    rows = [
        {"image_id": sample.id, "object_id": obj.id, "phrase": obj.phrase, "kind": kind, "prompt": f"{kind}?"}
        | {"answer": f"said by {setup}", "f1": 0.5, "exact_match": 0.0}
        for sample in coco.read_part(root / layout.DATASET, "test")
        for obj in sample.objects
        for kind in ("caption", "question", "cutout")
    ]
    pd.DataFrame(rows).to_parquet(root / layout.generated(model, setup))


def changes(value: float, half: float = 0.02) -> dict[str, dict[str, float]]:
    return {name: difference(value, half) for name in report.METRICS}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One model with every setup: top-4 moved by -0.4, full by +0.3, random-4 by 0.1, bottom-4 not at all."""
    write_score(tmp_path, "tiny")
    for setup, value in zip(SETUPS[1:], (-0.4, 0.0, 0.1, 0.3), strict=True):
        write_setup(tmp_path, "tiny", setup, changes(value))
    write_setup(tmp_path, "tiny", "original")
    write_scenes(tmp_path / layout.DATASET, {"impact": 1, "train": 1, "val": 1, "test": 2}, seed=0)
    for setup in SETUPS:
        write_answers(tmp_path, "tiny", setup)
    return tmp_path


def test_table1_gives_the_parameters_of_the_base(root: Path) -> None:
    table = report.table1(collect(["tiny"], SETUPS, root))
    assert table.to_dict("records") == [
        {"model": "tiny", "source": "bases/tiny", "parameters": BASE, "layers": 3, "heads": 2}
    ]


def test_table2_has_a_row_for_layers_and_one_for_heads(root: Path) -> None:
    table = report.table2(collect(["tiny"], SETUPS, root))
    assert table.values.tolist() == [
        ["tiny", "layers", 2, 12.5, 0.00002],
        ["tiny", "heads", 1, 12.5, 0.00002],
    ]


def test_table3_lists_the_layers_of_setups_that_train(root: Path) -> None:
    table = report.table3(collect(["tiny"], SETUPS, root))
    assert table["setup"].tolist() == SETUPS[1:]
    assert set(table["layers"]) == {"6 8 9 11"}


def test_table4_holds_values_and_differences_and_marks_the_largest(root: Path) -> None:
    table = report.table4(collect(["tiny"], SETUPS, root)).set_index("setup")
    assert table.loc["original", ["accuracy", "accuracy_se", "accuracy_n"]].tolist() == [0.9, 0.01, 30]
    assert np.isnan(table.loc["original", "accuracy_difference"])
    top = table.loc["top-4", [f"accuracy_{name}" for name in ("difference", "low", "high", "p_value")]]
    np.testing.assert_allclose(top.tolist(), [-0.4, -0.42, -0.38, 0.01])
    assert table["accuracy_largest"].tolist() == [False, True, False, False, False]


def test_table4_marks_nothing_where_nothing_moved(tmp_path: Path) -> None:
    for setup in SETUPS:
        write_setup(tmp_path, "tiny", setup)
    table = report.table4(collect(["tiny"], SETUPS, tmp_path))
    assert not table[[f"{metric}_largest" for metric in report.METRICS]].to_numpy().any()


def test_the_largest_difference_is_sought_within_a_model(root: Path) -> None:
    for setup in SETUPS:
        write_setup(root, "other", setup, changes(0.9 if setup == "full" else 0.0))
    table = report.table4(collect(["tiny", "other"], SETUPS, root))
    marked = table[table["perplexity_largest"]]
    assert marked[["model", "setup"]].to_numpy().tolist() == [["tiny", "top-4"], ["other", "full"]]


def test_table5_counts_parameters(root: Path) -> None:
    table = report.table5(collect(["tiny"], SETUPS, root))
    assert table["setup"].tolist() == SETUPS[1:]
    assert table.iloc[0, 2:].tolist() == [1010, 10, pytest.approx(0.990099, abs=1e-6)]


def test_write_makes_every_file_and_twice_the_same(root: Path) -> None:
    outputs = write(["tiny"], SETUPS, root)
    assert outputs.missing == ()
    folder = root / layout.REPORTS
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    tables = {f"table{number}.{kind}" for number in range(1, 6) for kind in ("csv", "md")}
    pages = {"report.md", "report.html", "gallery_tiny.html"}
    pictures = {f"{name}_tiny.png" for name in ("figure4", "figure5", "stability")}
    assert set(first) == tables | pages | pictures
    write(["tiny"], SETUPS, root)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_report_shows_tables_verdicts_and_figures(root: Path) -> None:
    write(["tiny"], SETUPS, root)
    text = (root / layout.REPORTS / "report.md").read_text()
    assert "| tiny | bases/tiny | 1,000 | 3 | 2 |" in text
    assert "| tiny | accuracy ↑ | 0.900 ± 0.010 | **0.900 ± 0.010**<br>-0.400 (-0.420 to -0.380) | " in text
    assert "- tiny, accuracy: yes. top-4 moved more than bottom-4 and random-4." in text
    assert "![tiny](figure5_tiny.png)" in text
    assert text.endswith("## Missing\n\nNothing.\n")


def test_answers_are_reported_and_shown_beside_each_other(root: Path) -> None:
    write(["tiny"], SETUPS, root)
    text = (root / layout.REPORTS / "report.md").read_text()
    assert "- tiny, top-4: right in 0.250 of the answers over all orders and in 0.250 in the single one;" in text
    assert "The answers themselves stand in gallery_tiny.html." in text
    page = (root / layout.REPORTS / "gallery_tiny.html").read_text()
    for setup in SETUPS:
        assert f"said by {setup}" in page
    assert page.count("data:image/jpeg") == 2


def test_a_report_without_answers_says_so(root: Path) -> None:
    shutil.rmtree(root / layout.answers("tiny", "full").parent)
    outputs = write(["tiny"], SETUPS, root)
    assert layout.generated("tiny", "full") in outputs.missing
    text = (root / layout.REPORTS / "report.md").read_text()
    assert text.count("Not measured: run headimpact answer.") == 2
    assert not list((root / layout.REPORTS).glob("gallery*"))


def test_csv_reads_back_as_numbers(root: Path) -> None:
    write(["tiny"], SETUPS, root)
    table = pd.read_csv(root / layout.REPORTS / "table4.csv")
    pd.testing.assert_frame_equal(table, report.table4(collect(["tiny"], SETUPS, root)), check_dtype=False)


def test_missing_cells_are_named(root: Path) -> None:
    (root / layout.results("tiny", "full")).unlink()
    outputs = write(["tiny", "never-run"], SETUPS, root)
    assert outputs.models == ("tiny",)
    assert layout.results("tiny", "full") in outputs.missing
    text = (root / layout.REPORTS / "report.md").read_text()
    assert "| tiny | full | missing | missing | missing |" in text
    assert "- outputs/finetune/tiny/full/results.json\n" in text
    assert "- outputs/impact/never-run/summary.json\n" in text
    assert "| never-run |" not in text


def test_only_scored_models_are_reported_with_missing_results(tmp_path: Path) -> None:
    write_score(tmp_path, "tiny")
    write(["tiny"], SETUPS, tmp_path)
    text = (tmp_path / layout.REPORTS / "report.md").read_text()
    assert "| tiny | missing | missing | 3 | 2 |" in text
    assert "- tiny, accuracy: not known." in text


def test_nothing_to_report_is_an_error_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model has been run"):
        write(["tiny"], SETUPS, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_output_leaves_the_old_report(root: Path) -> None:
    write(["tiny"], SETUPS, root)
    old = (root / layout.REPORTS / "report.md").read_bytes()
    (root / layout.results("tiny", "top-4")).write_text("{")
    with pytest.raises(InputError, match=r"top-4/results\.json is not valid JSON"):
        write(["tiny"], SETUPS, root)
    assert (root / layout.REPORTS / "report.md").read_bytes() == old


def test_a_setup_of_named_layers_is_found_in_its_own_folder(root: Path) -> None:
    write_setup(root, "tiny", "layers:1,2", changes(0.2))
    table = report.table4(collect(["tiny"], ["layers:1,2"], root))
    assert table["accuracy_difference"].tolist() == [0.2]


def test_the_summary_comes_first_and_follows_the_verdicts(root: Path) -> None:
    write(["tiny"], SETUPS, root)
    text = (root / layout.REPORTS / "report.md").read_text()
    summary = text[text.index("## Summary") : text.index("## Table 1")]
    assert (
        "Of 3 comparisons (a model and a metric each), in 3 the top layers moved the metric more than both" in summary
    )
    assert "| tiny<br>top-4 | **yes** | **yes** | **yes** |" in summary
    assert "- perplexity ↓ (original: 0.900): better in top-4 (0.900); worse in random-4 (0.900) and full" in summary
    assert "- Did top-4 move it more than its controls? accuracy ↑: yes; AnsProb ↑: yes; perplexity ↓: yes." in summary


def test_the_summary_without_top_layers_says_so(root: Path) -> None:
    write(["tiny"], ["original", "full"], root)
    text = (root / layout.REPORTS / "report.md").read_text()
    assert "Not answered: no setup top-K was run." in text


def test_the_page_has_what_the_markdown_has(root: Path) -> None:
    write(["tiny"], SETUPS, root)
    page = (root / layout.REPORTS / "report.html").read_text()
    sections = re.findall("^## (.*)$", (root / layout.REPORTS / "report.md").read_text(), re.MULTILINE)
    assert [unescape(title) for title in re.findall("<h2>(.*)</h2>", page)] == sections
    assert page.count("data:image/png;base64,") == 3
    assert "<strong>0.900 ± 0.010</strong> <small>-0.400 (-0.420 to -0.380)</small>" in page


def paper_model(root: Path, source: str) -> str:
    """The report of a model named my-smolvlm that was loaded from ``source``."""
    write_score(root, "my-smolvlm")
    write_setup(root, "my-smolvlm", "original")
    write_setup(root, "my-smolvlm", "top-4", changes(0.4))
    write_json(root / layout.adapter("my-smolvlm", "top-4") / "header.json", {"source": source})
    write(["my-smolvlm"], ["original", "top-4"], root)
    return (root / layout.REPORTS / "report.md").read_text()


def test_the_papers_rows_stand_beside_ours_for_its_own_models(tmp_path: Path) -> None:
    text = paper_model(tmp_path, "HuggingFaceTB/SmolVLM-Instruct")
    assert "other models, no comparison" not in text
    assert "| my-smolvlm | paper | HuggingFaceTB/SmolVLM-Instruct | 2,246,272,880 | 24 | 32 |" in text
    assert "| my-smolvlm | this run | layers | 2 | 12.5 | 2e-05 |  |" in text
    assert "| my-smolvlm | paper | layers | 23 | 103.56 | 3.40e-12 | Qwen2-VL |" in text
    assert "| my-smolvlm | paper | top-4 | 0 15 16 18 |" in text
    assert "| my-smolvlm | paper | perplexity ↓ | 17.20 ± 0.10 | 15.39 ± 0.10 | 16.04 ± 0.08 |" in text
    assert "| my-smolvlm | paper | four layers | 2,246,666,096 | 393,216 | 0.0175 |" in text


def test_the_papers_rows_stand_apart_for_other_models(tmp_path: Path) -> None:
    text = paper_model(tmp_path, "somewhere/my-smolvlm")
    assert "### The paper's table 4: other models, no comparison" in text
    assert (
        "- my-smolvlm was loaded from somewhere/my-smolvlm; the paper's SmolVLM is HuggingFaceTB/SmolVLM-Instruct."
        in text
    )
    assert "| SmolVLM | perplexity ↓ | 17.20 ± 0.10 | 15.39 ± 0.10 |" in text
    assert "| my-smolvlm | paper |" not in text
    assert "| PaliGemma2 | perplexity ↓" not in text


def test_a_model_whose_source_is_not_known_is_another_model(tmp_path: Path) -> None:
    write_score(tmp_path, "smolvlm")
    write(["smolvlm"], SETUPS, tmp_path)
    text = (tmp_path / layout.REPORTS / "report.md").read_text()
    assert "- smolvlm is of a source that is not known (no adapter was trained); the paper's SmolVLM is" in text


def test_the_papers_contradictions_are_told(root: Path) -> None:
    write(["tiny"], SETUPS, root)
    text = (root / layout.REPORTS / "report.md").read_text()
    assert "Found. 15 of the 36 cells of fine-tuned models equal the original in every printed digit." in text
    assert "| PaliGemma2 | 27 | 11 | Qwen2-VL |" in text
    assert "Not found. The printed shares are those of the printed counts." in text


def test_runs_are_searched_by_their_numbers_and_hold_no_id(root: Path) -> None:
    write_json(
        root / layout.impact_summary("tiny"), {"layers": 3, "heads": 2, "table_digest": "abc", "dataset": "scenes"}
    )
    write(["tiny"], SETUPS, root)
    text = (root / layout.REPORTS / "report.md").read_text()
    assert "- score tiny: ` attributes.status = 'FINISHED' and tags.step = 'score' and tags.model = 'tiny'" in text
    assert "tags.table_digest = 'abc' `" in text
    assert "tags.setup = 'top-4' and metrics.`test/perplexity` = 0.9 ``" in text
    assert "tags.step = 'answer' and tags.model = 'tiny' and tags.setup = 'top-4' and metrics.`test/accuracy_24" in text
    assert "tags.step = 'examine' and tags.model = 'tiny' and metrics.`examine/mean_hi` = " in text
    assert "Measured here on the dataset scenes; the paper measured on one of its own" in text


def test_a_hostile_source_stays_text(root: Path) -> None:
    hostile = "</td></table><script>alert(1)</script>|**x**"
    for setup in SETUPS[1:]:
        write_json(root / layout.adapter("tiny", setup) / "header.json", {"source": hostile})
    write(["tiny"], SETUPS, root)
    page = (root / layout.REPORTS / "report.html").read_text()
    assert page.count("<script>") == 1
    assert "&lt;/td&gt;&lt;/table&gt;&lt;script&gt;alert(1)" in page
    assert "<script>" not in (root / layout.REPORTS / "report.md").read_text()


def test_how_much_the_rankings_agree(root: Path) -> None:
    """HI ranks the layers 2, 1, 0; with three layers every rule takes all of them."""
    write(["tiny"], SETUPS, root)
    text = (root / layout.REPORTS / "report.md").read_text()
    section = text[text.index("## How much the rankings agree") :]
    section = section[: section.index("\n## ")]
    rows = dict(
        line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ") and "-" * 3 not in line
    )
    ranks = {rule: cell.split("<br>")[0] for rule, cell in rows.items() if rule != "rule"}
    assert ranks == {
        "excess": "+1.00",
        "auroc": "-1.00",
        "mass": "no ranking",
        "share": "+1.00",
        "gradient": "-1.00",
        "knockout": "+0.50",
        "localisation": "no ranking",
        "first": "-1.00",
        "middle": "+0.00",
        "last": "+1.00",
        "uniform": "no ranking",
    }
    assert all(cell.endswith("3 of 3 layers") for rule, cell in rows.items() if rule != "rule")


def test_rules_that_were_not_measured_are_left_out_of_the_agreement(root: Path) -> None:
    (root / layout.measures("tiny")).unlink()
    found = write(["tiny"], SETUPS, root)
    assert layout.measures("tiny") in found.missing
    text = (root / layout.REPORTS / "report.md").read_text()
    assert "| excess |" in text
    assert "| knockout |" not in text


def test_the_tournament_has_a_section_where_there_was_one(root: Path) -> None:
    write(["tiny"], SETUPS, root)
    folder = root / layout.REPORTS
    text = (folder / "report.md").read_text()
    assert "## Tournament\n\nNo tournament has been run." in text
    assert not (folder / "tournament.png").exists()
    write_tournament(root)
    write(["tiny"], SETUPS, root)
    text = (folder / "report.md").read_text()
    assert text.index("## Tournament") < text.index("top-4 &lt;b&gt;wins") < text.index("](tournament.png)")
    assert "### Against every other rule" in text[: text.index("## Table 1")]
    assert "- tiny, top-4: perplexity: better than last, 1 undecided; " in text
    digest = digest_file(root / layout.tournament_table("cells"))
    assert f"tags.step = 'tournament run' and tags.model = 'tiny' and tags.cells_digest = '{digest}'" in text
    assert (folder / "tournament.png").read_bytes() == (root / layout.tournament_figure()).read_bytes()


def section(root: Path, title: str) -> str:
    text = (root / layout.REPORTS / "report.md").read_text()
    text = text[text.index(f"## {title}") :]
    return text[: text.index("\n## ")]


def test_head_impact_under_test(root: Path) -> None:
    write(["tiny"], SETUPS, root)
    said = section(root, "Head Impact under test")
    assert "40 objects of 20 images. 3 layers of 2 heads." in said
    (definition,) = [line for line in said.splitlines() if line.startswith("| definition |")]
    assert definition.startswith("| definition | 0.300 |  | 0.50")
    assert definition.endswith("| 4 | 4 | +1.00 | +1.00 | 3<br>layers 2 1 0 |")
    (median,) = [line for line in said.splitlines() if line.startswith("| threshold: median |")]
    assert re.search(r"\| [+-]0\.000<br>[+-]0\.000 to [+-]0\.000 \|", median)
    assert "| -1.00 | 3<br>layers 0 1 2 |" in median
    assert "![tiny: top layers that two sets of images have in common](stability_tiny.png)" in said
    assert (root / layout.REPORTS / "stability_tiny.png").is_file()
    assert "| tiny | 1 |" in said or "| tiny | 0.99" in said
    assert "12.5<br>df 2, p = 2e-05" in said


def test_a_model_that_was_not_examined(root: Path) -> None:
    (root / layout.examination("tiny") / "variance.json").unlink()
    found = write(["tiny"], SETUPS, root)
    assert found.missing == (layout.examination("tiny") / "variance.json",)
    assert "No model was examined." in section(root, "Head Impact under test")
