"""Jobs: their stages in dvc.yaml or jobs/dvc.yaml, and what they are made from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from headimpact.errors import InputError
from headimpact.lifecycle import code, jobs, layout, params, pipeline, written
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.registry import STEPS
from headimpact.lifecycle.summary import Summary

MODEL, OTHER = "tiny-smolvlm", "smolvlm"
TOP, LAYERS, KNOCKOUT = Job(MODEL, "top-4"), Job(MODEL, "layers:1,2"), Job(MODEL, "knockout-4")
SOFT = Job(MODEL, "soft-top-4")


@pytest.fixture
def config(project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A grid of one model and two setups; the working directory is empty."""
    monkeypatch.chdir(tmp_path)
    grid = {"grid.models": f"[{MODEL}]", "grid.setups": "[original, top-4]", "pretrain.models": f"[{MODEL}]"}
    return params.load(project_root / "params.yaml", grid | {"tournament.models": f"[{MODEL}, {OTHER}]"})


def stages() -> dict[str, Any]:
    return yaml.safe_load(layout.JOBS.read_text())["stages"]


@pytest.mark.parametrize(
    ("step", "job", "inside", "name"),
    [
        ("data", Job(OTHER, "full"), True, "data"),
        ("report", LAYERS, True, "report"),
        ("score", TOP, True, "score@tiny-smolvlm"),
        ("score", LAYERS, True, "score@tiny-smolvlm"),
        ("score", Job(OTHER, "top-4"), False, "jobs/dvc.yaml:score-smolvlm"),
        ("pretrain", TOP, True, "pretrain@tiny-smolvlm"),
        ("pretrain", Job("tiny-qwen2-vl", "top-4"), False, "jobs/dvc.yaml:pretrain-tiny-qwen2-vl"),
        ("select", TOP, True, "select@tiny-smolvlm-top-4"),
        ("select", LAYERS, False, "jobs/dvc.yaml:select-tiny-smolvlm-layers-1-2"),
        ("answer", Job(OTHER, "top-4"), False, "jobs/dvc.yaml:answer-smolvlm-top-4"),
        ("soften", TOP, False, "jobs/dvc.yaml:soften-tiny-smolvlm-top-4"),
        ("evaluate", SOFT, False, "jobs/dvc.yaml:evaluate-tiny-smolvlm-soft-top-4"),
    ],
)
def test_where_a_job_has_its_stage(config: Config, step: str, job: Job, inside: bool, name: str) -> None:
    assert jobs.in_grid(STEPS[step], config, job) == inside
    assert jobs.stage_name((step, job), config) == name


def test_what_is_pretrained_is_a_list_of_its_own(config: Config) -> None:
    job = Job("tiny-qwen2-vl", "top-4")
    both = config.model_copy(
        update={"pretrain": config.pretrain.model_copy(update={"models": (MODEL, "tiny-qwen2-vl")})}
    )
    assert jobs.in_grid(STEPS["pretrain"], both, job)
    assert not jobs.in_grid(STEPS["score"], both, job)


def test_what_comes_directly_before_a_job(config: Config) -> None:
    original = Job(MODEL, "original")
    assert jobs.upstream(("data", TOP), config) == [("download", TOP), ("segment", TOP)]
    assert jobs.upstream(("pretrain", TOP), config) == []
    assert jobs.upstream(("identify", Job(OTHER, "full")), config) == [("pretrain", Job(MODEL, "full"))]
    assert jobs.upstream(("select", TOP), config) == [("score", TOP)]
    assert jobs.upstream(("select", KNOCKOUT), config) == [("score", KNOCKOUT), ("measure", KNOCKOUT)]
    assert jobs.upstream(("evaluate", TOP), config) == [
        ("data", TOP),
        ("identify", TOP),
        ("finetune", TOP),
        ("evaluate", original),
    ]
    assert jobs.upstream(("evaluate", original), config) == [
        ("data", original),
        ("identify", original),
        ("finetune", original),
    ]


def test_a_softened_setup_is_made_from_the_trained_one(config: Config) -> None:
    original = Job(MODEL, "original")
    for step in ("evaluate", "answer"):
        above = [("data", SOFT), ("identify", SOFT), ("soften", TOP), (step, original)]
        assert jobs.upstream((step, SOFT), config) == above
    assert jobs.upstream(("soften", TOP), config) == [("data", TOP), ("identify", TOP), ("finetune", TOP)]
    assert jobs.following(("soften", TOP)) == ("evaluate", SOFT)
    assert jobs.following(("finetune", TOP)) == ("evaluate", TOP)
    assert jobs.following(("evaluate", TOP)) is None
    jobs.enter([("evaluate", SOFT)], config)
    made = stages()
    assert list(made) == [f"evaluate-{MODEL}-soft-top-4", f"soften-{MODEL}-top-4"]
    (folder,) = made[f"soften-{MODEL}-top-4"]["outs"]
    assert folder == f"outputs/finetune/{MODEL}/soft-top-4"
    assert folder in made[f"evaluate-{MODEL}-soft-top-4"]["deps"]
    assert f"outputs/finetune/{MODEL}/top-4" in made[f"soften-{MODEL}-top-4"]["deps"]
    assert "forgetting" in made[f"soften-{MODEL}-top-4"]["params"]
    assert "soften" not in yaml.safe_load(written.graph(config.grid))["stages"]


@pytest.mark.parametrize(
    ("step", "setup", "message"),
    [
        ("soften", "original", "the original has no adapter to soften"),
        ("soften", "soft-top-4", "soft-top-4 is softened already; it is made from the setup top-4"),
        ("finetune", "soft-top-4", "or make soft-top-4 from it: headimpact soften --setup top-4$"),
        ("select", "soft-top-4", "run select for top-4"),
    ],
)
def test_what_is_softened_is_trained_and_what_is_trained_is_not_softened(
    config: Config, step: str, setup: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.check_job(step, config, Job(MODEL, setup))


def test_commands_that_are_no_step_take_every_setup(config: Config) -> None:
    for setup in ("top-4", "soft-top-4"):
        pipeline.check_job("export", config, Job(MODEL, setup))
    with pytest.raises(InputError, match="top-0"):
        pipeline.check_job("export", config, Job(MODEL, "top-0"))


def test_what_the_tournament_and_the_report_are_made_from(config: Config) -> None:
    held = jobs.upstream(("tournament", TOP), config)
    assert {(step, job.model) for step, job in held} == {
        ("data", MODEL),
        *((step, model) for step in ("identify", "score", "measure") for model in (MODEL, OTHER)),
    }
    shown = jobs.upstream(("report", TOP), config)
    evaluated = [job for step, job in shown if step == "evaluate"]
    assert evaluated == [Job(MODEL, "original"), TOP]
    assert [job.model for step, job in shown if step == "score"] == [MODEL]


def test_everything_before_a_job_comes_once(config: Config) -> None:
    found = jobs.all_upstream(("evaluate", KNOCKOUT), config)
    assert len(set(found)) == len(found)
    names = {jobs.stage_name(work, config) for work in found}
    assert names == {
        *("download", "ground", "segment", "data"),
        *(f"{step}@{MODEL}" for step in ("pretrain", "identify", "score", "measure")),
        *(f"{step}@{MODEL}-original" for step in ("select", "finetune", "evaluate")),
        *(f"jobs/dvc.yaml:{step}-{MODEL}-knockout-4" for step in ("select", "finetune")),
    }


def test_the_output_of_a_job() -> None:
    assert jobs.output(("data", TOP)) == layout.DATASET
    assert jobs.output(("select", LAYERS)) == Path("outputs/selection/tiny-smolvlm/layers-1-2.json")


def test_the_grid_needs_no_file_of_jobs(config: Config) -> None:
    within = config.tournament.model_copy(update={"models": (MODEL,)})
    assert not jobs.enter([("evaluate", TOP), ("report", TOP)], config.model_copy(update={"tournament": within}))
    assert not layout.JOBS.exists()
    assert jobs.enter([("report", TOP)], config)
    assert list(stages()) == [f"{step}-{OTHER}" for step in ("identify", "measure", "score")]


def test_a_setup_outside_of_the_grid_is_entered_with_what_it_is_made_from(config: Config) -> None:
    assert jobs.enter([("finetune", LAYERS)], config)
    assert layout.JOBS.read_text().startswith("# Stages of models and setups outside of the grid")
    made = stages()
    assert list(made) == [f"finetune-{MODEL}-layers-1-2", f"select-{MODEL}-layers-1-2"]
    assert made[f"select-{MODEL}-layers-1-2"] == {
        "cmd": "PYTHONPATH=src python -m headimpact select --model tiny-smolvlm --setup layers:1,2",
        "deps": ["outputs/impact/tiny-smolvlm/impact.csv", "outputs/impact/tiny-smolvlm/summary.json"],
        "params": ["seed", {"fingerprints.json": ["steps.select"]}],
        "outs": ["outputs/selection/tiny-smolvlm/layers-1-2.json"],
        "wdir": "..",
        "meta": {"step": "select", "model": "tiny-smolvlm", "setup": "layers:1,2"},
    }
    assert not jobs.enter([("finetune", LAYERS)], config)
    assert not jobs.enter([("select", LAYERS)], config)


def test_the_stage_of_a_job_is_that_of_the_grid_with_its_names_put_in(config: Config) -> None:
    jobs.enter([("evaluate", Job(OTHER, "top-4"))], config)
    inside = yaml.safe_load(written.graph(config.grid))["stages"]
    for name, made in stages().items():
        step = STEPS[made["meta"]["step"]]
        expected = inside[step.name]
        text = yaml.safe_dump({key: expected[key] for key in expected if key != "matrix"}, width=1000)
        filled = text.replace("${item.model}", OTHER).replace("${item.setup}", made["meta"]["setup"])
        assert {key: made[key] for key in made if key not in ("wdir", "meta")} == yaml.safe_load(filled), name


def test_a_setup_by_measures_depends_on_them(config: Config) -> None:
    jobs.enter([("select", KNOCKOUT)], config)
    assert stages()[f"select-{MODEL}-knockout-4"]["deps"][-1] == "outputs/measures/tiny-smolvlm.csv"


def test_jobs_stay_until_they_come_into_the_grid_or_their_model_goes(config: Config) -> None:
    jobs.enter([("select", LAYERS)], config)
    jobs.enter([("select", Job(MODEL, "bottom-4"))], config)
    jobs.enter([("score", Job(OTHER, "top-4"))], config)
    names = [f"select-{MODEL}-bottom-4", f"select-{MODEL}-layers-1-2"]
    assert list(stages()) == [f"identify-{OTHER}", f"score-{OTHER}", *names]
    wider = config.grid.model_copy(update={"setups": ("original", "bottom-4")})
    without = {name: base for name, base in config.models.items() if name != OTHER}
    assert jobs.enter([], config.model_copy(update={"grid": wider, "models": without}))
    assert list(stages()) == names[1:]


def test_the_last_job_leaves_an_empty_file(config: Config) -> None:
    jobs.enter([("select", Job(MODEL, "bottom-4"))], config)
    wider = config.grid.model_copy(update={"setups": ("original", "bottom-4")})
    assert jobs.enter([], config.model_copy(update={"grid": wider}))
    assert stages() == {}
    assert not jobs.enter([], config.model_copy(update={"grid": wider}))


def test_stages_of_steps_that_are_no_more_are_left_out(config: Config) -> None:
    jobs.enter([("select", LAYERS)], config)
    layout.JOBS.write_text(layout.JOBS.read_text().replace("step: select", "step: choose"))
    assert jobs.enter([], config)
    assert stages() == {}


@pytest.mark.parametrize(
    "text",
    ["stages: [", "stages: [1]", "[]", "stages:\n  select-x:\n    cmd: x\n", "stages: {select-x: {meta: {}}}", ""],
)
def test_a_damaged_file_is_told(config: Config, text: str) -> None:
    layout.JOBS.parent.mkdir()
    layout.JOBS.write_text(text)
    with pytest.raises(InputError, match=r"(?s)^jobs/dvc\.yaml is damaged \(.*Remove it: the stages are written again"):
        jobs.enter([("select", LAYERS)], config)
    assert layout.JOBS.read_text() == text


def test_the_whole_grid_runs_after_what_has_come_into_it_left_the_jobs(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC refuses an output of two stages; the tournament is held on a model outside of the grid."""
    jobs.enter([("select", LAYERS), ("select", Job(MODEL, "bottom-4"))], config)
    at_repro: list[list[str]] = []
    monkeypatch.setattr(code, "refresh", lambda config: False)
    monkeypatch.setattr(pipeline.graph, "reproduce", lambda steps: at_repro.append(list(stages())) or 3)
    wider = config.grid.model_copy(update={"setups": ("original", "top-4", "bottom-4")})
    assert pipeline.run_grid(config.model_copy(update={"grid": wider}), pytest.fail) == 3
    held_on = [f"{step}-{OTHER}" for step in ("identify", "measure", "score")]
    assert at_repro == [[*held_on, f"select-{MODEL}-layers-1-2"]]


def test_a_stage_of_the_grid_runs_with_the_values_of_its_moment(
    config: Config, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so does one that was asked for by name: DVC records the values that it finds then."""
    jobs.enter([("select", LAYERS)], config)
    run: dict[str, Callable[[], None]] = {}
    ran: list[tuple[str, str, int]] = []

    def function(name: str) -> Callable[[Config, Job], Summary]:
        return lambda config, job: ran.append((name, job.setup, config.seed)) or Summary(name, [])

    monkeypatch.setattr(code, "refresh", lambda config: False)
    monkeypatch.setattr(pipeline.graph, "reproduce", lambda steps: run.update(steps) or len(steps))
    assert pipeline.run_grid(config, function) == len(run)
    assert set(stages()) < {name.removeprefix("jobs/dvc.yaml:") for name in run}
    layout.PARAMS.write_text((project_root / "params.yaml").read_text().replace("seed: 0", "seed: 5", 1))
    run[f"select@{MODEL}-top-4"]()
    run[f"jobs/dvc.yaml:select-{MODEL}-layers-1-2"]()
    assert ran == [("select", "top-4", 5), ("select", LAYERS.setup, 5)]


def test_dvc_shows_the_figures_of_what_was_asked_for_by_name(config: Config) -> None:
    jobs.enter([("evaluate", LAYERS)], config)
    made = yaml.safe_load(layout.JOBS.read_text())
    assert made["metrics"] == [f"../outputs/evaluation/{MODEL}/layers-1-2/metrics.json"]
    assert made["plots"][0] == f"../outputs/impact/{MODEL}/heatmap.png"
