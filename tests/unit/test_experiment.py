"""What MLflow's pages show of the runs."""

import itertools
import json

import pytest

from headimpact.lifecycle import experiment

MODELS = ("tiny-paligemma2", "tiny-qwen2-vl", "tiny-smolvlm")
SETUPS = ("original", "top-4", "bottom-4", "random-4", "full-4")
HEADER = {"base": "tiny-smolvlm", "source": "models/bases/tiny-smolvlm", "revision": None, "setup": "layers:6,8"}


def history(*perplexities: float) -> list[dict[str, object]]:
    measured = [{"step": n, "metric": "val/perplexity", "value": value} for n, value in enumerate(perplexities)]
    return [*measured, {"step": 1, "metric": "train/loss", "value": 0.1}]


def test_names_that_are_cut_still_tell_the_runs_apart() -> None:
    cells = itertools.product(("select", "finetune", "answer"), MODELS, SETUPS)
    names = [experiment.run_name(step, model, setup) for step, model, setup in cells]
    assert len({name[:20] for name in names}) == len(names)
    assert experiment.run_name("finetune", "tiny-smolvlm", "top-4") == "top-4 tiny-smolvlm"
    assert experiment.run_name("evaluate", "tiny-smolvlm", "original") == "original tiny-smolvlm"
    assert experiment.run_name("score", "tiny-smolvlm", None) == "score tiny-smolvlm"
    assert experiment.run_name("data", None, None) == "data"


def test_a_logged_model_is_named_by_model_and_setup() -> None:
    assert experiment.model_name("tiny-smolvlm", "layers:6,8") == "tiny-smolvlm-layers-6-8"
    assert experiment.model_name("qwen2.5-vl", "top-4") == "qwen2-5-vl-top-4"


def test_the_experiment_is_of_training_and_has_a_view_with_metrics_as_columns() -> None:
    tags = experiment.tags("5")
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert "#/experiments/5/runs?viewStateShareKey=adapters" in tags["mlflow.note.content"]
    view = json.loads(tags["mlflow.sharedViewState.adapters"])
    assert view["name"] == "Adapters"
    columns = json.loads(view["state"])["selectedColumns"]
    assert {"metrics.`test/accuracy`", "metrics.`test/accuracy_difference`"} <= set(columns)


def test_why_a_run_failed_stands_above_its_note_until_it_succeeds() -> None:
    note = experiment.failure_note(ValueError("The mask\nis empty."), "Layers from a run.")
    assert note == "**Failed:** The mask is empty.\n\nLayers from a run."
    assert experiment.failure_note(SystemExit(), note) == "**Failed:** SystemExit\n\nLayers from a run."
    assert experiment.without_failure(note) == "Layers from a run."
    assert experiment.without_failure("**Failed:** no") == ""


@pytest.mark.parametrize(
    ("perplexities", "worse"), [((4.5, 3.0, 3.5), False), ((4.5, 4.5, 128.0), True), ((4.5,), False), ((), False)]
)
def test_an_adapter_is_held_to_the_original_on_the_validation_part(
    perplexities: tuple[float, ...], worse: bool
) -> None:
    assert (experiment.worse_than_original(history(*perplexities)) is not None) == worse


def test_an_adapter_made_with_other_values_has_no_alias() -> None:
    assert experiment.why_no_alias(HEADER, history(4.5, 3.0)) is None
    why = experiment.why_no_alias(HEADER | {"overrides": {"train.lr": 0.01}}, history(4.5, 3.0))
    assert why == "made with other values than params.yaml has (train.lr 0.01)"
    assert experiment.why_no_alias(HEADER, history(4.5, 3.0), "warm-sole") == "made in the experiment warm-sole of DVC"
    why = experiment.why_no_alias(HEADER, history(4.5, 128.0))
    assert why == "no better than the original on the validation part (perplexity 4.500, adapter 128.000)"


def test_the_command_that_moves_an_alias() -> None:
    assert "set_registered_model_alias('head-impact-tiny', 'layers-6-8', 3)" in experiment.move_alias(
        "head-impact-tiny", "layers:6,8", 3
    )


def test_a_registered_model_says_what_it_is() -> None:
    note = experiment.registered_note("smolvlm", HEADER | {"source": "owner/name", "revision": "abc"})
    assert "`owner/name`, revision `abc`" in note
    assert "models:/head-impact-smolvlm@layers-6-8" in note
