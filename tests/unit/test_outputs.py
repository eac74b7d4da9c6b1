"""What the report reads: the grid, whatever else is there, and what is said of files that are not."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from report_outputs import (
    CHANGES,
    MODEL,
    SETUPS,
    objects,
    write_adapter,
    write_answers,
    write_evaluation,
    write_json,
    write_score,
    write_table,
    write_tournament,
)

from headimpact.errors import InputError
from headimpact.lifecycle import layout
from headimpact.lifecycle.outputs import collect, evaluations, read_tournament
from headimpact.report import tables
from headimpact.report.evidence import evidence
from headimpact.report.outputs import Missing, Outputs


def missing(outputs: Outputs, path: Path) -> Missing:
    (absent,) = [absent for absent in outputs.missing if absent.path == path]
    return absent


def test_everything_that_is_there_is_read(outputs: Outputs) -> None:
    assert outputs.models == (MODEL,)
    assert outputs.setups == SETUPS
    assert outputs.missing == ()
    assert outputs.trained == tuple((MODEL, setup) for setup in SETUPS[1:])


def test_nothing_is_an_empty_report(tmp_path: Path) -> None:
    found = collect(["never"], SETUPS, tmp_path)
    assert (found.models, found.pairs) == ((), ())
    assert found.missing == (Missing(layout.impact_summary("never"), "not made yet", "headimpact score --model never"),)


def test_an_identity_alone_is_no_model_to_report(tmp_path: Path) -> None:
    write_json(tmp_path / layout.identity("tiny"), {"source": "somewhere"})
    assert collect(["tiny"], SETUPS, tmp_path).models == ()


def test_what_is_missing_of_a_softened_setup_is_made_from_the_trained_one(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "soft-top-4", table=objects(CHANGES["top-4"]))
    commands = {absent.path: absent.command for absent in collect([MODEL], [], tmp_path).missing}
    assert commands[layout.selection(MODEL, "top-4")] == "headimpact select --model tiny --setup top-4"
    header = layout.adapter(MODEL, "soft-top-4") / "header.json"
    soften = "headimpact soften --model tiny --setup top-4"
    assert (commands[header], commands[layout.scales(MODEL, "top-4")]) == (soften, soften)


def test_every_missing_file_has_the_command_that_makes_it(tmp_path: Path) -> None:
    write_score(tmp_path)
    found = collect([MODEL, "never"], ["original", "top-4"], tmp_path)
    commands = {absent.path: absent.command for absent in found.missing}
    assert layout.impact_summary(MODEL) not in commands
    assert commands[layout.measures(MODEL)] == "headimpact measure --model tiny"
    assert commands[layout.examination(MODEL) / "variance.json"] == "headimpact examine --model tiny"
    assert commands[layout.selection(MODEL, "top-4")] == "headimpact select --model tiny --setup top-4"
    assert commands[layout.adapter(MODEL, "top-4") / "header.json"] == "headimpact finetune --model tiny --setup top-4"
    assert commands[layout.results(MODEL, "original")] == "headimpact evaluate --model tiny --setup original"
    assert commands[layout.generated(MODEL, "top-4")] == "headimpact answer --model tiny --setup top-4"
    assert layout.selection(MODEL, "original") not in commands
    assert commands[layout.impact_summary("never")] == "headimpact score --model never"
    assert not any("never" in command and "score" not in command for command in commands.values())


def test_models_and_setups_on_disk_are_found_beside_those_of_the_grid(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "top-4")
    write_evaluation(tmp_path, "layers:1,2", table=objects(CHANGES["full"]))
    write_evaluation(tmp_path, "full", model="mine")
    write_score(tmp_path, model="scored")
    found = collect([MODEL, "never"], ["original", "top-4"], tmp_path)
    assert found.models == (MODEL, "scored", "mine")
    assert found.pairs == (
        (MODEL, "original"),
        (MODEL, "top-4"),
        (MODEL, "layers:1,2"),
        ("mine", "original"),
        ("mine", "full"),
    )
    assert found.results[MODEL, "layers:1,2"]["setup"] == "layers:1,2"
    assert missing(found, layout.results("mine", "original")).command.endswith("--model mine --setup original")


def test_what_is_not_yet_whole_is_not_found(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "top-4")
    shutil.copytree(
        tmp_path / layout.evaluation(MODEL, "top-4"), tmp_path / layout.EVALUATIONS / MODEL / ".top-8.1.tmp"
    )
    (tmp_path / layout.IMPACT / ".mine.1.tmp").mkdir(parents=True)
    found = collect([], [], tmp_path)
    assert (found.models, found.setups) == ((MODEL,), ("original", "top-4"))


def test_a_folder_that_is_not_named_after_its_setup_is_refused(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "top-4")
    (tmp_path / layout.evaluation(MODEL, "top-4")).rename(tmp_path / layout.EVALUATIONS / MODEL / "copy")
    with pytest.raises(InputError, match=r"copy/results\.json is of the setup top-4, which is not that of its folder"):
        collect([], [], tmp_path)


@pytest.mark.parametrize("metric", ["accuracy", "token_nll"])
def test_results_of_before_a_metric_are_to_be_evaluated_again(tmp_path: Path, metric: str) -> None:
    for setup in ("original", "top-4"):
        write_evaluation(tmp_path, setup)
    path = tmp_path / layout.results(MODEL, "top-4")
    found = collect([MODEL], ["original", "top-4"], tmp_path)
    results = dict(found.results[MODEL, "top-4"])
    results["metrics"] = {name: value for name, value in results["metrics"].items() if name != metric}
    write_json(path, results)
    found = collect([MODEL], ["original", "top-4"], tmp_path)
    assert missing(found, layout.results(MODEL, "top-4")) == Missing(
        layout.results(MODEL, "top-4"),
        f"evaluated before there was {metric}; evaluate again",
        "headimpact evaluate --model tiny --setup top-4",
    )
    assert tables.table4(found).set_index("setup").loc["top-4", "perplexity"] > 0


def test_objects_of_before_a_metric_are_to_be_evaluated_again(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "top-4")
    write_table(tmp_path / layout.evaluated_objects(MODEL, "top-4"), objects(CHANGES["top-4"]).drop(columns="ans_prob"))
    found = collect([MODEL], ["top-4"], tmp_path)
    assert missing(found, layout.results(MODEL, "top-4")).why == "evaluated before there was ans_prob; evaluate again"


def test_what_is_about_other_objects_than_the_original_is_told(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "original")
    write_evaluation(tmp_path, "top-4", table=objects(CHANGES["top-4"]).assign(object_id=range(60)))
    write_answers(tmp_path, "original")
    write_answers(tmp_path, "top-4", images=(1, 2))
    found = collect([MODEL], ["original", "top-4"], tmp_path)
    for path in (layout.evaluated_objects(MODEL, "top-4"), layout.order_answers(MODEL, "top-4")):
        assert "other test objects than the original" in missing(found, path).why


def test_a_tournament_of_before_a_metric_is_told(tmp_path: Path) -> None:
    write_score(tmp_path)
    write_tournament(tmp_path)
    path = tmp_path / layout.tournament_table("changes")
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "ans_prob" not in line))
    found = collect([MODEL], [], tmp_path)
    assert missing(found, layout.tournament_table("changes")).command == "headimpact tournament"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (layout.results(MODEL, "top-4"), r"results\.json is not valid JSON"),
        (layout.evaluated_objects(MODEL, "top-4"), r"not a whole table.*\n*.*headimpact evaluate --model tiny --setup"),
        (layout.impact_table(MODEL), r"not a whole table.*headimpact score --model tiny"),
        (layout.adapter(MODEL, "top-4") / "header.json", r"header\.json is not valid JSON.*headimpact finetune"),
    ],
)
def test_a_broken_file_is_named_with_the_command_that_makes_it(tmp_path: Path, path: Path, message: str) -> None:
    write_score(tmp_path)
    write_evaluation(tmp_path, "top-4")
    write_adapter(tmp_path, "top-4")
    (tmp_path / path).write_bytes(b"" if path.suffix == ".csv" else b"{")
    with pytest.raises(InputError, match=message):
        collect([MODEL], ["top-4"], tmp_path)


def test_a_tournament_that_lacks_a_file_is_none(tmp_path: Path) -> None:
    assert read_tournament(tmp_path) is None
    write_tournament(tmp_path)
    assert read_tournament(tmp_path) is not None
    (tmp_path / layout.tournament_figure()).unlink()
    assert read_tournament(tmp_path) is None


def test_broken_verdicts_are_told(tmp_path: Path) -> None:
    write_tournament(tmp_path)
    (tmp_path / layout.tournament_verdicts()).write_text("{")
    with pytest.raises(InputError, match=r"verdicts\.json is not valid JSON"):
        read_tournament(tmp_path)


def test_tables_of_another_version_are_told(tmp_path: Path) -> None:
    write_tournament(tmp_path)
    path = tmp_path / layout.tournament_table("changes")
    path.write_text(path.read_text().replace("metric", "measure", 1))
    with pytest.raises(InputError, match=r"changes\.csv was written by another version.*headimpact tournament"):
        read_tournament(tmp_path)


@pytest.mark.parametrize(("ids", "elsewhere"), [((1, 2, 3), False), ((1, 2), True), (None, False)])
def test_a_tournament_on_other_data_is_known_by_its_objects(
    tmp_path: Path, ids: tuple[int, ...] | None, elsewhere: bool
) -> None:
    write_tournament(tmp_path)
    runs = pd.DataFrame({"object_id": [1, 3, 3], "nll": 0.5, "layers": ["", "", "1"]})
    write_table(tmp_path / layout.tournament_runs(MODEL), runs)
    if ids:
        annotations = {"annotations": [{"id": number} for number in ids]}
        write_json(tmp_path / layout.DATASET / "annotations/test.json", annotations)
    found = collect([], [], tmp_path)
    assert found.tournament
    assert found.tournament.elsewhere == elsewhere
    assert [absent.why.startswith("held on another test part") for absent in found.missing] == [True] * elsewhere
    assert evidence(MODEL, {}, {}, found.tournament).source == ("nothing" if elsewhere else "tournament")


def use_dataset(root: Path, phrase: str) -> None:
    """A dataset whose test part has the objects of the made-up evaluations, all of one phrase."""
    annotations = [{"id": number, "phrase": phrase} for number in objects(CHANGES["original"])["object_id"].tolist()]
    write_json(root / layout.DATASET / "annotations/test.json", {"annotations": annotations})
    write_json(root / layout.DATASET / "manifest.json", {})


@pytest.mark.parametrize("phrase", ["a cat", "a dog"])
def test_what_is_of_another_dataset_is_left_out_and_told(tmp_path: Path, phrase: str) -> None:
    use_dataset(tmp_path, phrase)
    for setup in ("original", "top-4"):
        write_evaluation(tmp_path, setup, table=objects(CHANGES[setup]).assign(phrase="a cat"))
    found, same = collect([MODEL], [], tmp_path), phrase == "a cat"
    assert (list(found.results) == []) != same
    assert [bool(content) for content in evaluations(MODEL, tmp_path)] == [same, same]
    if not same:
        assert missing(found, layout.impact_summary(MODEL)).why == "not made yet"


def test_head_impact_of_another_dataset_is_left_out_and_told(tmp_path: Path) -> None:
    use_dataset(tmp_path, "a cat")
    write_score(tmp_path)
    summary = tmp_path / layout.impact_summary(MODEL)
    write_json(summary, json.loads(summary.read_text()) | {"dataset_digest": "another"})
    found = collect([MODEL], [], tmp_path)
    assert (found.models, dict(found.impacts)) == ((), {})
    assert missing(found, layout.impact_summary(MODEL)).why.startswith("made of another dataset")


def test_a_dataset_that_is_not_made_yet_has_no_evidence(tmp_path: Path) -> None:
    write_tournament(tmp_path)
    write_evaluation(tmp_path, "top-4", table=objects(CHANGES["top-4"]))
    (tmp_path / "dvc.lock").write_text("stages: {data: {params: {params.yaml: {dataset: scenes}}}}")
    for dataset, counts in (("scenes", True), ("my/photos", False)):
        tournament = read_tournament(tmp_path, dataset)
        assert tournament
        assert tournament.elsewhere != counts
        assert bool(evaluations(MODEL, tmp_path, dataset)[0]) == counts
    with pytest.raises(
        InputError, match=r"my/photos has not been made: what is in the project is of scenes\. Make it:"
    ):
        collect([MODEL], [], tmp_path, "my/photos")


@pytest.mark.parametrize("digest", ["m1", "m2"])
def test_a_tournament_on_other_data_is_known_by_what_dvc_recorded(tmp_path: Path, digest: str) -> None:
    write_tournament(tmp_path)
    stages = {
        "data": {"outs": [{"path": "data/dataset", "md5": "m1"}]},
        "tournament": {"deps": [{"path": "models/identities", "md5": "x"}, {"path": "data/dataset", "md5": digest}]},
    }
    (tmp_path / "dvc.lock").write_text(json.dumps({"stages": stages}))
    tournament = read_tournament(tmp_path)
    assert tournament
    assert tournament.elsewhere == (digest == "m2")
