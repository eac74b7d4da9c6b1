"""A direct run against DVC, for real: a small grid whose stages run a script that writes a few bytes."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.stage import run as stage_run

from headimpact import processes
from headimpact.errors import InputError
from headimpact.files import digest_file, write_json
from headimpact.lifecycle import code, graph, jobs, layout, pipeline, written
from headimpact.lifecycle.config import Config, Grid, Job
from headimpact.lifecycle.params import load
from headimpact.lifecycle.registry import STEPS
from headimpact.lifecycle.summary import Summary
from headimpact.processes import Processes

PROJECT = Path(__file__).resolve().parent.parent
MODEL = "tiny-smolvlm"
TOP = Job(MODEL, "top-4")
SOURCES = ["download", "ground", "segment"]
SCRIPT = """
import hashlib, json, os, pathlib, sys
step, _, model, _, setup = [*sys.argv[1:], *[""] * 4][:5]
alias = setup.replace(":", "-").replace(",", "-")
if os.path.exists("fail"):
    sys.exit(int(open("fail").read()))
with open("log.txt", "a") as log:
    log.write(f"{os.environ['DVC_STAGE']} run={os.environ.get('MLFLOW_RUN_ID')}\\n")
targets = {
    "download": ["data/download.json"],
    "ground": ["data/ground.json"],
    "segment": ["data/segment.json"],
    "data": ["data/dataset/content", "outputs/data/content"],
    "pretrain": [f"models/bases/{model}/content"],
    "score": [f"outputs/impact/{model}/{name}" for name in ("impact.csv", "objects.parquet", "summary.json")],
    "measure": [f"outputs/measures/{model}.csv"],
    "identify": [f"models/identities/{model}.json"],
    "examine": [f"outputs/examination/{model}/content"],
    "select": [f"outputs/selection/{model}/{alias}.json"],
    "finetune": [f"outputs/finetune/{model}/{alias}/content"],
    "evaluate": [f"outputs/evaluation/{model}/{alias}/content"],
    "tournament": ["outputs/tournament/content"],
    "answer": [f"outputs/answers/{model}/{alias}/content"],
    "report": ["reports/content"],
}
for target in map(pathlib.Path, targets[step]):
    target.parent.mkdir(parents=True, exist_ok=True)
    text = open("params.yaml").read()
    digest = {"table_digest": hashlib.sha256(text.encode()).hexdigest()}
    facts = {"summary.json": digest, f"{model}.json": {"source": ""}}
    target.write_text(json.dumps(facts[target.name]) if target.name in facts else text)
"""


def write_output(step: str, config: Config, job: Job) -> Summary:
    """A step that writes the values it was given; where there is a file ``fail``, one that raises what this names."""
    if Path("fail").exists():
        kinds: dict[str, type[BaseException]] = {
            kind.__name__: kind for kind in (InputError, KeyboardInterrupt, ZeroDivisionError)
        }
        raise kinds[Path("fail").read_text()]("it failed")
    with Path("log.txt").open("a") as log:
        log.write(f"{jobs.stage_name((step, job), config)} run={os.environ.get('MLFLOW_RUN_ID')}\n")
    target = jobs.output((step, job))
    if step == "score":
        layout.impact(job.model).mkdir(parents=True, exist_ok=True)
        layout.impact_table(job.model).write_text(yaml.safe_dump(config.model_dump(mode="json")))
        layout.impact_objects(job.model).write_text(layout.impact_table(job.model).read_text())
        write_json(layout.impact_summary(job.model), {"table_digest": digest_file(layout.impact_table(job.model))})
        return Summary(step, [])
    if step == "identify":
        write_json(layout.identity(job.model), {"source": ""})
        return Summary(step, [])
    if step == "data":
        layout.DATASET_LOOK.mkdir(parents=True, exist_ok=True)
    target = target if target.suffix in (".json", ".csv") else target / "content"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return Summary(step, [])


def run(step: str, job: Job = TOP, **overrides: str) -> list[Summary]:
    """A direct run, as from the command line."""
    config = load(layout.PARAMS, {key.replace("__", "."): text for key, text in overrides.items()})
    overridden = config != load(layout.PARAMS)
    return pipeline.run(step, config, job, overridden, lambda name: lambda c, j: write_output(name, c, j))


def ran(sources: bool = False) -> list[str]:
    """The jobs that ran since the last call; ``sources``: also those that data is made from."""
    log = Path("log.txt")
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    jobs = [line.rpartition(" run=")[0] for line in lines]
    return [job for job in jobs if sources or job not in SOURCES]


def set_value(pattern: str, replacement: str) -> None:
    text = layout.PARAMS.read_text()
    changed = re.sub(pattern, replacement, text)
    assert changed != text
    layout.PARAMS.write_text(changed)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real dvc.yaml and params.yaml in a folder of their own: one model, two setups, a short script."""
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    values["grid"] = {"models": [MODEL], "setups": ["original", "top-4", "full"]}
    values["pretrain"]["models"] = [MODEL]
    values["tournament"]["models"] = [MODEL]
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(written, "_PYTHON", "python -I -S script.py")
    (root / "dvc.yaml").write_text(written.graph(Grid(**values["grid"])))
    (root / "script.py").write_text(SCRIPT)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    for kind in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
        monkeypatch.setenv(f"DVC_{kind}_DIR", str(tmp_path / kind))
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(pipeline.checking, "verify", lambda folder: None)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def in_git(project: Path) -> None:
    subprocess.run(["git", "init", "-q"], check=True, cwd=project)


def test_what_is_missing_is_built_first_and_the_result_is_recorded(project: Path, in_git: None) -> None:
    run("finetune")
    *above, last = ran()
    assert last == f"evaluate@{MODEL}-top-4"
    assert sorted(above) == [
        "data",
        f"evaluate@{MODEL}-original",
        f"finetune@{MODEL}-original",
        f"finetune@{MODEL}-top-4",
        f"identify@{MODEL}",
        f"pretrain@{MODEL}",
        f"score@{MODEL}",
        f"select@{MODEL}-original",
        f"select@{MODEL}-top-4",
    ]
    graph.reproduce([f"evaluate@{MODEL}-top-4"])
    assert ran() == []


def test_what_data_is_made_from_comes_first(project: Path, in_git: None) -> None:
    run("data")
    assert ran(sources=True) == [*SOURCES, "data"]
    set_value("beams: 3", "beams: 2")
    run("data")
    assert ran(sources=True) == ["ground", "segment", "data"]


def test_a_folder_that_is_not_there_is_told_before_anything_runs(project: Path, in_git: None) -> None:
    for dataset in ("my/photos", "~/photos"):
        with pytest.raises(InputError, match=rf"params\.yaml: dataset: {dataset} is no folder"):
            run("data", dataset=dataset)
    assert ran(sources=True) == []


def test_stages_do_not_inherit_the_run_that_mlflow_opened(
    project: Path, in_git: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
    run("score")
    lines = Path("log.txt").read_text().splitlines()
    assert sorted(lines[:-1]) == sorted(
        f"{stage} run=None" for stage in ("data", *SOURCES, f"identify@{MODEL}", f"pretrain@{MODEL}")
    )
    assert lines[-1] == f"score@{MODEL} run=0123"
    assert os.environ["MLFLOW_RUN_ID"] == "0123"


def test_a_second_repro_does_nothing(project: Path, in_git: None) -> None:
    config = load(layout.PARAMS)
    assert pipeline.run_grid(config) == 23
    assert len(ran(sources=True)) == 23
    assert pipeline.run_grid(config) == 0
    assert ran() == []


def test_an_overridden_result_is_not_recorded_and_made_again(project: Path, in_git: None) -> None:
    run("finetune")
    adapter = layout.finetune(MODEL, "top-4") / "content"
    wanted = adapter.read_text()
    ran()
    run("finetune", train__lr="0.5")
    assert "lr: 0.5" in adapter.read_text()
    assert ran() == [f"finetune@{MODEL}-top-4", f"evaluate@{MODEL}-top-4"]  # of the adapter with other values
    assert graph.stale([f"finetune@{MODEL}-top-4"]) == [f"finetune@{MODEL}-top-4"]
    graph.reproduce([f"finetune@{MODEL}-top-4"])
    assert adapter.read_text() == wanted


def test_the_first_result_of_all_being_overridden_is_made_again(project: Path, in_git: None) -> None:
    run("score", impact__chance_draws="2")
    run("select")
    assert "chance_draws: 4" in layout.impact_table(MODEL).read_text()
    assert ran().count(f"score@{MODEL}") == 2


def test_within_one_opening_the_graph_is_read_again_only_where_its_files_changed(
    project: Path, in_git: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo.index import Index

    run("select")
    name, readings = f"select@{MODEL}-top-4", []
    read = Index.from_repo
    monkeypatch.setattr(Index, "from_repo", lambda repo: readings.append(repo) or read(repo))
    with graph.opened():
        before = graph.inputs(name)
        layout.impact_table(MODEL).write_text("other")
        assert graph.stale([name]) == [f"score@{MODEL}", name]
        assert graph.inputs(name) != before
        lock = Path("dvc.lock").read_text()
        assert len(readings) == 1
        graph.commit(name)
        assert Path("dvc.lock").read_text() != lock
        assert graph.stale([name]) == [f"score@{MODEL}"]
        assert len(readings) == 2
        layout.GRAPH.write_text(layout.GRAPH.read_text().replace("  select:", "  choose:"))
        with pytest.raises(InputError, match=r"DVC: .*select"):
            graph.stale([name])


def test_a_result_that_is_known_already_leaves_the_lock_alone(project: Path, in_git: None) -> None:
    run("select")
    lock = Path("dvc.lock")
    before = lock.stat().st_mtime_ns
    run("select")
    assert lock.stat().st_mtime_ns == before
    set_value(r"\nseed: 0", "\nseed: 1")
    run("select")
    assert "seed: 1" in lock.read_text()


def test_only_what_a_changed_value_concerns_is_made_again(project: Path, in_git: None) -> None:
    run("finetune")
    ran()
    set_value(r"  lr: [\d.]+\n  max_grad", "  lr: 0.01\n  max_grad")
    assert graph.stale([f"finetune@{MODEL}-top-4"]) == [f"finetune@{MODEL}-top-4"]
    set_value(r"mask_threshold: 0.5", "mask_threshold: 0.4")
    run("finetune")
    after = [f"score@{MODEL}", f"select@{MODEL}-top-4", f"finetune@{MODEL}-top-4", f"evaluate@{MODEL}-top-4"]
    assert [name for name in ran() if "original" not in name] == after


def test_values_that_change_nothing_make_nothing_stale(project: Path, in_git: None) -> None:
    run("finetune")
    set_value(r"device: auto", "device: cpu")
    set_value(r"threads: 0", "threads: 1")
    assert graph.stale([f"finetune@{MODEL}-top-4"]) == []


def test_a_result_is_not_recorded_when_the_values_changed_meanwhile(
    project: Path, in_git: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run("select")
    config = load(layout.PARAMS)

    def edit_meanwhile(config: Config, job: Job) -> Summary:
        set_value(r"\nseed: 0", "\nseed: 1")
        return write_output("select", config, job)

    pipeline.run("select", config, TOP, overridden=False, function=lambda name: edit_meanwhile)
    assert "changed while" in capsys.readouterr().out
    assert f"select@{MODEL}-top-4" in graph.stale([f"select@{MODEL}-top-4"])


FIRST = r"failed to reproduce '(pretrain@tiny-smolvlm|download)'"


def test_a_failing_stage_ends_the_run(project: Path, in_git: None) -> None:
    Path("fail").write_text("InputError")
    with pytest.raises(InputError, match=rf"(?s)^it failed\n{FIRST}. Nothing after it was run.$"):
        run("finetune")
    assert ran() == []
    Path("fail").unlink()
    run("score")
    assert sorted(ran()) == ["data", f"identify@{MODEL}", f"pretrain@{MODEL}", f"score@{MODEL}"]


def test_a_failing_process_of_a_stage_ends_the_grid(project: Path, in_git: None) -> None:
    Path("fail").write_text("1")
    with pytest.raises(InputError, match=rf"{FIRST}: .*printed above"):
        pipeline.run_grid(load(layout.PARAMS))
    assert ran() == []


def test_a_fault_of_ours_upstream_keeps_its_trace(project: Path, in_git: None) -> None:
    Path("fail").write_text("ZeroDivisionError")
    with pytest.raises(ZeroDivisionError, match="it failed"):
        run("score")


def test_an_interrupted_stage_interrupts_the_run(project: Path, in_git: None) -> None:
    Path("fail").write_text("KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        run("score")
    assert "DVC_STAGE" not in os.environ
    Path("fail").write_text("130")
    with pytest.raises(KeyboardInterrupt):
        graph.reproduce(["data"])


def test_what_is_upstream_is_made_with_the_values_of_the_file(project: Path, in_git: None) -> None:
    run("finetune", train__lr="0.5")
    assert "lr: 0.5" in (layout.finetune(MODEL, "top-4") / "content").read_text()
    assert "lr: 0.5" not in layout.selection(MODEL, "top-4").read_text()
    assert "lr: 0.5" not in (layout.evaluation(MODEL, "original") / "content").read_text()


def test_without_dvcs_function_stages_are_processes(
    project: Path, in_git: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of DVC may not have what stages are run in this process by."""
    original = stage_run._run
    monkeypatch.delattr(stage_run, "_run")
    monkeypatch.setattr(
        stage_run, "cmd_run", lambda stage, **_: original("/bin/sh", stage.cmd, env=_environment(stage))
    )
    run("data")
    assert ran(sources=True) == [*SOURCES, "data"]
    assert Path("data/download.json").read_text() == layout.PARAMS.read_text()  # the script's


def _environment(stage: Any) -> dict[str, str]:
    return os.environ | {"DVC_STAGE": stage.addressing}


def test_a_step_inside_a_stage_builds_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", f"finetune@{MODEL}-top-4")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
    code.refresh(load(layout.PARAMS))
    run("finetune")
    assert Path("log.txt").read_text() == f"finetune@{MODEL}-top-4 run=None\n"


def test_of_several_processes_the_first_records_and_none_builds(
    project: Path, in_git: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"(?s)stale: download\. Several processes.*dvc repro download"):
        run("ground")
    waited: list[str] = []
    monkeypatch.setattr(processes, "launched", lambda device: Processes(0, 2, lambda: waited.append(device)))
    monkeypatch.setenv("RANK", "1")
    assert run("ground") == []
    assert waited == ["auto"]
    assert ran(sources=True) == ["ground"]
    assert graph.stale(["ground"]) == ["download", "ground"]
    graph.reproduce(["download"])
    monkeypatch.setenv("RANK", "0")
    run("ground")
    assert waited == ["auto"] * 2
    assert graph.stale(["ground"]) == []


def test_an_edited_table_is_refused_and_left_alone(project: Path, in_git: None) -> None:
    run("score")
    layout.impact_table(MODEL).write_text("mine")
    with pytest.raises(InputError, match=r"impact\.csv is not the table that was scored.*score --model tiny-smolvlm"):
        run("finetune")
    with pytest.raises(InputError, match=r"impact\.csv"):
        pipeline.run_grid(load(layout.PARAMS))
    assert layout.impact_table(MODEL).read_text() == "mine"
    run("score")  # makes it again
    run("select")


def test_an_edited_dataset_is_refused(project: Path, in_git: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run("data")

    def refuse(folder: Path) -> None:
        raise InputError(f"{folder} was edited")

    monkeypatch.setattr(pipeline.checking, "verify", refuse)
    run("score")  # DVC finds it as it was: its files are not read once more
    (layout.DATASET / "content").write_text("mine")
    with pytest.raises(InputError, match="data/dataset was edited"):
        run("score")
    assert (layout.DATASET / "content").read_text() == "mine"
    run("data")  # makes it again


def test_files_that_another_command_writes_are_refused(project: Path, in_git: None) -> None:
    run("data")
    run("identify")
    code = (
        "import sys, pathlib; from headimpact.lifecycle import graph\n"
        "with graph.locked([], [pathlib.Path('data/dataset')]): print('locked', flush=True); sys.stdin.read()"
    )
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match=r"(?s)Another command is at work.*data/dataset.*PID"):
            run("score")
        other.communicate("")
    ran()
    run("score")
    assert ran() == [f"score@{MODEL}"]


def test_without_git(project: Path) -> None:
    run("score")
    assert graph.stale([f"score@{MODEL}"]) == []


def test_a_broken_graph_is_told(project: Path) -> None:
    layout.GRAPH.write_text("stages: {data: {}}")
    with pytest.raises(InputError, match=r"DVC: .*dvc\.yaml"):
        run("score")


OUTSIDE = Job(MODEL, "layers:1,2")


def test_a_setup_outside_of_the_grid(project: Path, in_git: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run("evaluate", Job(MODEL, "original"))
    ran()
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
    run("finetune", OUTSIDE)
    cell = f"{MODEL}-layers-1-2"
    finetune, evaluate = (f"jobs/dvc.yaml:{step}-{cell}" for step in ("finetune", "evaluate"))
    assert Path("log.txt").read_text().splitlines() == [
        f"jobs/dvc.yaml:select-{cell} run=None",
        f"{finetune} run=0123",
        f"{evaluate} run=0123",
    ]
    ran()
    graph.reproduce([evaluate])
    assert ran() == []
    set_value(r"mask_threshold: 0.5", "mask_threshold: 0.4")
    assert set(graph.stale([evaluate])) == {f"score@{MODEL}"}
    run("finetune", OUTSIDE)
    assert [name for name in ran() if "original" not in name] == [
        f"score@{MODEL}",
        f"jobs/dvc.yaml:select-{cell}",
        finetune,
        evaluate,
    ]


def test_a_setup_by_measures_has_them_made(project: Path, in_git: None) -> None:
    run("select", Job(MODEL, "knockout-4"))
    assert f"measure@{MODEL}" in ran()
    set_value("images: 100", "images: 50")
    assert graph.stale([f"jobs/dvc.yaml:select-{MODEL}-knockout-4"]) == [f"measure@{MODEL}"]


def test_a_model_outside_of_the_grid(project: Path, in_git: None) -> None:
    job = Job("smolvlm", "top-4")
    run("finetune", job)
    below = [name for name in ran() if "smolvlm" in name and MODEL not in name]
    assert below[-1] == "jobs/dvc.yaml:evaluate-smolvlm-top-4"
    assert set(below[:-1]) == {
        "jobs/dvc.yaml:finetune-smolvlm-top-4",
        "jobs/dvc.yaml:identify-smolvlm",
        "jobs/dvc.yaml:score-smolvlm",
        "jobs/dvc.yaml:select-smolvlm-top-4",
        "jobs/dvc.yaml:select-smolvlm-original",
        "jobs/dvc.yaml:finetune-smolvlm-original",
        "jobs/dvc.yaml:evaluate-smolvlm-original",
    }
    layout.selection("smolvlm", "top-4").write_text("mine")
    assert graph.stale(["jobs/dvc.yaml:finetune-smolvlm-top-4"]) == [
        "jobs/dvc.yaml:finetune-smolvlm-top-4",
        "jobs/dvc.yaml:select-smolvlm-top-4",
    ]


def test_repro_makes_what_was_asked_for_by_name_too(project: Path, in_git: None) -> None:
    """The report of the grid shows it."""
    run("finetune", OUTSIDE)
    set_value("mask_threshold: 0.5", "mask_threshold: 0.4")
    ran()
    graph.reproduce()
    assert f"jobs/dvc.yaml:finetune-{MODEL}-layers-1-2" in ran()


def test_a_job_that_comes_into_the_grid_leaves_the_jobs(project: Path, in_git: None) -> None:
    run("select", OUTSIDE)
    run("select", Job(MODEL, "bottom-4"))
    assert set(yaml.safe_load(layout.JOBS.read_text())["stages"]) == {
        f"select-{MODEL}-bottom-4",
        f"select-{MODEL}-layers-1-2",
    }
    set_value(r"  - full\n(?=[a-z])", "  - full\n  - bottom-4\n")
    run("select", Job(MODEL, "bottom-4"))
    assert set(yaml.safe_load(layout.JOBS.read_text())["stages"]) == {f"select-{MODEL}-layers-1-2"}


def test_damaged_jobs_are_told(project: Path, in_git: None) -> None:
    layout.JOBS.parent.mkdir()
    layout.JOBS.write_text("stages: [1]")
    with pytest.raises(InputError, match=r"jobs/dvc\.yaml is damaged.*Remove it"):
        run("select", OUTSIDE)


def test_a_report_shows_what_is_there(project: Path, in_git: None, capsys: pytest.CaptureFixture[str]) -> None:
    run("data")
    ran()
    run("report")
    assert ran() == ["report"]
    assert f"Missing or stale: evaluate@{MODEL}-full" in capsys.readouterr().out.replace("answer@", "evaluate@")


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
@pytest.mark.parametrize("step", sorted(name for name, step in STEPS.items() if not step.shares))
def test_several_processes_are_refused_where_they_cannot_share(
    monkeypatch: pytest.MonkeyPatch, step: str, variable: str
) -> None:
    monkeypatch.setenv(variable, "2")
    with pytest.raises(InputError, match=f"{step} was started in 2 processes, which cannot share its work"):
        pipeline.run(step, load(PROJECT / "params.yaml"), TOP, False, lambda name: pytest.fail("it ran"))


@pytest.mark.parametrize(
    ("step", "job", "message"),
    [
        ("score", Job("smolvl", "top-4"), "unknown model 'smolvl'. Did you mean smolvlm.*tiny-qwen2-vl"),
        ("finetune", Job(MODEL, "top-0"), "top-0"),
    ],
)
def test_impossible_jobs(step: str, job: Job, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.check_job(step, load(PROJECT / "params.yaml"), job)


def test_upstream_is_that_of_the_dvc_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the original, which a direct run makes first, to show the setup beside it."""
    from dvc.repo import Repo

    monkeypatch.chdir(PROJECT)
    config = load(layout.PARAMS)
    works = [("report", Job(config.model, config.setup))]
    works += jobs.all_upstream(works[0], config)
    above = {
        jobs.stage_name(work, config): {
            jobs.stage_name((step, job), config) for step, job in jobs.upstream(work, config) if step != work[0]
        }
        for work in works
    }
    with Repo(config={"core": {"no_scm": True}}) as repo:
        grid = [stage for stage in repo.index.stages if stage.path_in_repo == "dvc.yaml"]
        edges = {s.addressing: {other.addressing for other in repo.index.graph.successors(s)} for s in grid}
        outs = {stage.addressing: [out.def_path for out in stage.outs] for stage in grid}
    assert above == edges
    for work in works:
        assert outs[jobs.stage_name(work, config)][0] == jobs.output(work).as_posix()
