"""The command advise, and what the steps propose: from the files of a project."""

import shutil
from pathlib import Path

import pytest
import report_outputs
from report_outputs import Change, objects, write_evaluation
from typer.testing import CliRunner, Result

from headimpact.adapters import cost
from headimpact.errors import InputError
from headimpact.files import write_json
from headimpact.lifecycle import command_line, layout, params, pipeline, proposal, tracking, versions
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.pasting import paste
from headimpact.report.prose import advice as prose
from headimpact.tiny import bases

MODEL = "tiny-smolvlm"


@pytest.fixture(scope="module")
def without_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an embedded base that holds no weights."""
    folder = tmp_path_factory.mktemp("base") / MODEL
    bases.save(bases.build(MODEL, 0), folder)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def config(project_root: Path, without_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The values of a project in which nothing was run."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(project_root / name, tmp_path)
    shutil.copytree(without_weights, tmp_path / layout.base(MODEL))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(tracking.RUN, raising=False)
    monkeypatch.setattr(cost, "measure_rate", lambda device, dtype: 1e9)
    return params.load(Path("params.yaml"))


def evaluate(**changes: Change) -> None:
    for name, change in (("original", report_outputs.CHANGES["original"]), *changes.items()):
        write_evaluation(Path(), name.replace("_", "-"), MODEL, objects(change))


def advise(*options: str) -> Result:
    return CliRunner().invoke(command_line.app, ["advise", *options], terminal_width=120)


def test_the_command_tells_what_to_use_what_is_missing_and_the_choice_as_text(config: Config) -> None:
    evaluate(top_4=Change(-0.4, 0.0, 0), bottom_4=Change(-0.1, 0.0, 0))
    result = advise("--model", MODEL)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.replace("│", " ").split())
    assert "Use top-4: of 2 setups that were measured it gains most" in said
    assert "cost of full-4 trainable 18,432 of 1,851,168" in said
    # The layers of top-4 follow from the HI table, which is not there.
    assert "not known: outputs/impact/tiny-smolvlm/impact.csv does not exist" in said
    assert "beaten by" in said
    assert "Trace" not in said


def test_with_nothing_measured_it_begins_with_the_default(config: Config) -> None:
    result = advise()
    assert result.exit_code == 0, result.output
    assert "headimpact finetune --model tiny-smolvlm --setup full-4" in " ".join(
        result.output.replace("│", " ").split()
    )
    assert r'target_modules=r"model\.text_model\.layers\.(0|1|2|' in result.output


def test_the_bound_decides_what_forgets(config: Config) -> None:
    evaluate(top_4=Change(-0.4, 0.0, 6), bottom_4=Change(-0.1, 0.0, 0))
    assert proposal.advice_of(config, MODEL).decision.status["top-4"] == "forgets"
    higher = params.load(Path("params.yaml"), {"forgetting.bound": "0.2"})
    assert proposal.advice_of(higher, MODEL).decision.status["top-4"] == "unbeaten"


# ---- what steps propose


def test_steps_propose_what_the_evidence_supports(config: Config) -> None:
    assert proposal.finetune_command(config, "new") == "headimpact finetune --model new --setup full-4"
    evaluate(top_4=Change(-0.4, 0.0, 0), bottom_4=Change(-0.1, 0.0, 0))
    assert proposal.finetune_command(config, MODEL) == f"headimpact finetune --model {MODEL} --setup top-4"
    evaluate(soft_top_4=Change(-0.5, 0.0, 0))
    assert proposal.advice_of(config, MODEL).decision.setup == "soft-top-4"
    assert proposal.finetune_command(config, MODEL) == f"headimpact finetune --model {MODEL} --setup top-4"
    shutil.rmtree(layout.evaluation(MODEL, "soft-top-4"))
    name = versions.registered_name(MODEL)
    assert proposal.next_command(config, MODEL).startswith(f"mlflow models serve -m models:/{name}@top-4 ")


def test_a_damaged_file_fails_no_step_that_is_done(config: Config) -> None:
    evaluate(top_4=Change(-0.4, 0.0, 0))
    layout.results(MODEL, "top-4").write_text("{")
    assert proposal.next_command(config, MODEL) == f"headimpact finetune --model {MODEL} --setup full-4"
    assert advise().exit_code == 1


def test_the_embedded_tournament_is_for_all_layers(config: Config, project_root: Path) -> None:
    """What README.md says, of a model without evidence of its own."""
    assert proposal.advice_of(config, "another", project_root).decision.setup == "full-4"


def test_commands_that_are_told_exist() -> None:
    for words in (prose.FINETUNE, prose.EVALUATE, prose.SOFTEN, prose.LOOK):
        assert words.split()[1] in {**command_line.STEPS, **command_line.COMMANDS}
    assert prose.SERVE.format(model=MODEL, alias="a").startswith(
        f"mlflow models serve -m models:/{versions.registered_name(MODEL)}@a"
    )


# ---- the choice as text


def test_the_layers_are_the_adapter_s_or_the_tournament_s(config: Config) -> None:
    write_json(layout.tournament_selections(MODEL), {"top-2": {"layers": [3, 5]}})
    assert r"layers\.(3|5)\." in paste(config, MODEL, "top-2", fetch=False)[0].text
    assert r"layers\.(1|2)\." in paste(config, MODEL, "layers:1,2", fetch=False)[0].text
    made = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["a.layers.7.self_attn.q_proj"]}
    write_json(layout.adapter(MODEL, "top-2") / "adapter_config.json", made | {"rank_pattern": {}, "alpha_pattern": {}})
    assert r"a\.layers\.(7)\." in paste(config, MODEL, "top-2", fetch=False)[0].text
    for setup, why in (("heads:top-4", "single rows"), ("original", "no adapter"), ("bottom-2", "does not exist")):
        with pytest.raises(InputError, match=why):
            paste(config, MODEL, setup, fetch=False)
    elsewhere = replace_source(config, "owner/name")
    with pytest.raises(InputError, match="on the hub"):
        paste(elsewhere, MODEL, "full", fetch=False)


def replace_source(config: Config, source: str) -> Config:
    models = dict(config.models)
    models[MODEL] = models[MODEL].model_copy(update={"source": source})
    return config.model_copy(update={"models": models})


def test_folders_that_reports_read_are_made(config: Config) -> None:
    pipeline.make_folders()
    assert all(path.is_dir() for path in (layout.ANSWERS, layout.EXAMINATIONS, layout.MEASURES, layout.FINETUNED))
