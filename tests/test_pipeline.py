"""A direct run against DVC, for real: a small grid whose stages run a script that writes a few bytes."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import cast

import pytest
import yaml

from headimpact.errors import InputError
from headimpact.files import digest_file, write_json
from headimpact.lifecycle import graph, layout, pipeline
from headimpact.lifecycle.config import Config, Job, Step, load
from headimpact.lifecycle.summary import Summary

PROJECT = Path(__file__).resolve().parent.parent
MODEL = "tiny-smolvlm"
TOP = Job(MODEL, "top-4")
SOURCES = ["download", "ground", "segment"]
SCRIPT = """
import hashlib, json, os, pathlib, sys
step, _, model, _, setup = [*sys.argv[1:], *[""] * 4][:5]
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
    "examine": [f"outputs/examination/{model}/content"],
    "select": [f"outputs/selection/{model}/{setup}.json"],
    "finetune": [f"outputs/finetune/{model}/{setup}/content"],
    "tournament": ["outputs/tournament/content"],
    "answer": [f"outputs/answers/{model}/{setup}/content"],
    "report": ["reports/content"],
}
for target in map(pathlib.Path, targets[step]):
    target.parent.mkdir(parents=True, exist_ok=True)
    text = open("params.yaml").read()
    digest = {"table_digest": hashlib.sha256(text.encode()).hexdigest()}
    target.write_text(json.dumps(digest) if target.name == "summary.json" else text)
"""


def write_output(step: Step, config: Config, job: Job) -> Summary:
    """A step that writes the values it was given."""
    with Path("log.txt").open("a") as log:
        name = pipeline.stage_name(step, config, job) or f"{step} {job.model} {job.setup}"
        log.write(f"{name} run={os.environ.get('MLFLOW_RUN_ID')}\n")
    target = pipeline.output(step, config, job)
    if step == "score":
        layout.impact(job.model).mkdir(parents=True, exist_ok=True)
        layout.impact_table(job.model).write_text(yaml.safe_dump(config.model_dump(mode="json")))
        layout.impact_objects(job.model).write_text(layout.impact_table(job.model).read_text())
        write_json(layout.impact_summary(job.model), {"table_digest": digest_file(layout.impact_table(job.model))})
        return Summary(step, [])
    if step == "data":
        layout.DATASET_LOOK.mkdir(parents=True, exist_ok=True)
    target = target if target.suffix in (".json", ".csv") else target / "content"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return Summary(step, [])


def run(step: Step, job: Job = TOP, **overrides: str) -> None:
    """A direct run, as from the command line."""
    config = load(layout.PARAMS, {key.replace("__", "."): text for key, text in overrides.items()})
    overridden = config != load(layout.PARAMS)
    pipeline.run(step, config, job, overridden, lambda c, j: write_output(step, c, j))


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
    values["grid"] = {"models": [MODEL], "setups": ["top-4", "full"]}
    values["tournament"]["models"] = [MODEL]
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    graph_text = (PROJECT / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text(graph_text.replace("PYTHONPATH=src headimpact", "python -I -S script.py"))
    (root / "script.py").write_text(SCRIPT)
    for stage_ in yaml.safe_load(graph_text)["stages"].values():
        for code in (path for path in stage_["deps"] if path.startswith("src/")):
            path = root / code / "code.py" if not code.endswith(".py") else root / code
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("# code\n")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    for kind in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
        monkeypatch.setenv(f"DVC_{kind}_DIR", str(tmp_path / kind))
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(pipeline.coco, "verify", lambda folder: None)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def in_git(project: Path) -> None:
    subprocess.run(["git", "init", "-q"], check=True, cwd=project)


def test_what_is_missing_is_built_first_and_the_result_is_recorded(project: Path, in_git: None) -> None:
    run("finetune")
    *above, last = ran()
    assert sorted(above) == [
        "data",
        f"original@{MODEL}",
        f"pretrain@{MODEL}",
        f"score@{MODEL}",
        f"select@{MODEL}-top-4",
    ]
    assert last == f"finetune@{MODEL}-top-4"
    graph.reproduce([f"finetune@{MODEL}-top-4"])
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
    assert sorted(lines[:-1]) == sorted(f"{stage} run=None" for stage in ("data", *SOURCES, f"pretrain@{MODEL}"))
    assert lines[-1] == f"score@{MODEL} run=0123"
    assert os.environ["MLFLOW_RUN_ID"] == "0123"


def test_a_second_repro_does_nothing(project: Path, in_git: None) -> None:
    config = load(layout.PARAMS)
    assert pipeline.run_grid(config) == 18
    assert len(ran(sources=True)) == 18
    assert pipeline.run_grid(config) == 0
    assert ran() == []


def test_an_overridden_result_is_not_recorded_and_made_again(project: Path, in_git: None) -> None:
    run("finetune")
    written = layout.finetune(MODEL, "top-4") / "content"
    wanted = written.read_text()
    run("finetune", train__lr="0.5")
    assert "lr: 0.5" in written.read_text()
    assert graph.stale([f"finetune@{MODEL}-top-4"]) == [f"finetune@{MODEL}-top-4"]
    graph.reproduce([f"finetune@{MODEL}-top-4"])
    assert written.read_text() == wanted


def test_the_first_result_of_all_being_overridden_is_made_again(project: Path, in_git: None) -> None:
    run("score", impact__chance_draws="2")
    run("select")
    assert "chance_draws: 4" in layout.impact_table(MODEL).read_text()
    assert ran().count(f"score@{MODEL}") == 2


def test_only_what_a_changed_value_concerns_is_made_again(project: Path, in_git: None) -> None:
    run("finetune")
    ran()
    set_value(r"  lr: [\d.]+\n  max_grad", "  lr: 0.01\n  max_grad")
    assert graph.stale([f"finetune@{MODEL}-top-4"]) == [f"finetune@{MODEL}-top-4"]
    set_value(r"mask_threshold: 0.5", "mask_threshold: 0.4")
    run("finetune")
    assert ran() == [f"score@{MODEL}", f"select@{MODEL}-top-4", f"finetune@{MODEL}-top-4"]


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

    pipeline.run("select", config, TOP, overridden=False, function=edit_meanwhile)
    assert "changed while" in capsys.readouterr().out
    assert f"select@{MODEL}-top-4" in graph.stale([f"select@{MODEL}-top-4"])


def test_a_failing_stage_ends_the_run(project: Path, in_git: None) -> None:
    Path("fail").write_text("1")
    with pytest.raises(InputError, match=r"failed to reproduce '(pretrain@tiny-smolvlm|download)': .*printed above"):
        run("finetune")
    assert ran() == []
    Path("fail").unlink()
    run("score")
    assert sorted(ran()) == ["data", f"pretrain@{MODEL}", f"score@{MODEL}"]


def test_an_interrupted_stage_interrupts_the_run(project: Path, in_git: None) -> None:
    Path("fail").write_text("130")
    with pytest.raises(KeyboardInterrupt):
        run("score")


def test_a_step_inside_a_stage_builds_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", f"finetune@{MODEL}-top-4")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
    run("finetune")
    assert Path("log.txt").read_text() == f"finetune@{MODEL}-top-4 run=None\n"


def test_of_several_processes_the_first_records_and_none_builds(
    project: Path, in_git: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"(?s)stale: download\. Several processes.*dvc repro download"):
        run("ground")
    monkeypatch.setenv("RANK", "1")
    run("ground")
    assert ran(sources=True) == ["ground"]
    assert graph.stale(["ground"]) == ["download", "ground"]
    graph.reproduce(["download"])
    monkeypatch.setenv("RANK", "0")
    run("ground")
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

    monkeypatch.setattr(pipeline.coco, "verify", refuse)
    with pytest.raises(InputError, match="data/dataset was edited"):
        run("score")
    run("data")  # makes it again


def test_files_that_another_command_writes_are_refused(project: Path, in_git: None) -> None:
    run("data")
    run("pretrain")
    code = (
        "import sys, pathlib; from headimpact import graph\n"
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


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be processes of their own runs here."""

    def here(command: list[str], check: bool) -> "subprocess.CompletedProcess[bytes]":
        assert command[:3] == [sys.executable, "-m", "headimpact"]
        options = dict(zip(command[4::2], command[5::2], strict=True))
        failed = int(Path("fail").read_text()) if Path("fail").exists() else 0
        if not failed:
            run(cast(Step, command[3]), Job(options["--model"], options.get("--setup", "full")))
        return subprocess.CompletedProcess(command, failed)

    monkeypatch.setattr(pipeline, "subprocess", types.SimpleNamespace(run=here))


def test_a_setup_outside_of_the_grid(
    project: Path, in_git: None, processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
    run("finetune", OUTSIDE)
    select, finetune = f"select {MODEL} layers:1,2", f"finetune {MODEL} layers:1,2"
    assert Path("log.txt").read_text().splitlines()[-2:] == [f"{select} run=None", f"{finetune} run=0123"]
    assert sorted(ran()[:-2]) == ["data", f"original@{MODEL}", f"pretrain@{MODEL}", f"score@{MODEL}"]
    run("finetune", OUTSIDE)
    assert ran() == [finetune]
    set_value(r"mask_threshold: 0.5", "mask_threshold: 0.4")
    run("finetune", OUTSIDE)
    assert ran() == [f"score@{MODEL}", select, finetune]


def test_a_model_outside_of_the_grid(project: Path, in_git: None, processes: None) -> None:
    job = Job("smolvlm", "top-4")
    select, finetune = "select smolvlm top-4", "finetune smolvlm top-4"
    run("finetune", job)
    assert ran() == ["data", "score smolvlm full", select, "finetune smolvlm original", finetune]
    assert pipeline.is_fresh("finetune", load(layout.PARAMS), job)
    run("finetune", job, train__lr="0.5")
    assert ran() == [finetune]
    assert not pipeline.is_fresh("finetune", load(layout.PARAMS), job)
    layout.selection("smolvlm", "top-4").write_text("mine")
    run("finetune", job)
    assert ran() == [select, finetune]


def test_a_failing_job_outside_of_the_grid(project: Path, in_git: None, processes: None) -> None:
    run("data")
    Path("fail").write_text("1")
    with pytest.raises(InputError, match="score --model smolvlm failed"):
        run("finetune", Job("smolvlm", "top-4"))
    Path("fail").write_text("130")
    with pytest.raises(KeyboardInterrupt):
        run("finetune", Job("smolvlm", "top-4"))


@pytest.mark.parametrize(
    ("step", "job", "message"),
    [
        ("score", Job("smolvl", "top-4"), "unknown model 'smolvl'. Did you mean smolvlm.*tiny-qwen2-vl"),
        ("finetune", Job(MODEL, "top-0"), "top-0"),
        ("select", Job(MODEL, "original"), "nothing to select"),
    ],
)
def test_impossible_jobs(step: Step, job: Job, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.check_job(step, load(PROJECT / "params.yaml"), job)


def _graph_edges(config: Config, works: list[tuple[Step, Job]]) -> dict[str | None, set[str | None]]:
    return {
        pipeline.stage_name(step, config, job): {
            pipeline.stage_name(s, config, j) for s, j in pipeline.upstream(step, config, job)
        }
        for step, job in works
    }


def test_upstream_is_that_of_the_dvc_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(PROJECT)
    config = load(layout.PARAMS)
    works: list[tuple[Step, Job]] = [("report", Job(config.model, config.setup))]
    for work in works:
        works += [above for above in pipeline.upstream(work[0], config, work[1]) if above not in works]
    with Repo(config={"core": {"no_scm": True}}) as repo:
        edges = {
            s.addressing: {above.addressing for above in repo.index.graph.successors(s)} for s in repo.index.stages
        }
        outs = {s.addressing: [out.def_path for out in s.outs] for s in repo.index.stages}
    assert _graph_edges(config, works) == edges
    for step, job in works:
        name = pipeline.stage_name(step, config, job)
        assert name
        assert outs[name][0] == pipeline.output(step, config, job).as_posix()
