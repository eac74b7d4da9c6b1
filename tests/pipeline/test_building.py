"""Direct runs: what is missing or stale is built first, and what is made is known to DVC."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.stage import run as stage_run
from small_graph import MODEL, SOURCES, TOP, ran, run, set_value, write_output

from headimpact.errors import InputError
from headimpact.lifecycle import code, graph, jobs, layout, pipeline
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.params import load
from headimpact.lifecycle.summary import Summary

PROJECT = Path(__file__).resolve().parents[2]
After = Callable[[str], None]


def test_what_is_missing_is_built_first_and_the_result_is_recorded(after: After) -> None:
    after("data")
    run("finetune")
    *above, last = ran()
    assert last == f"evaluate@{MODEL}-top-4"
    assert sorted(above) == [
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


def test_what_data_is_made_from_comes_first(project: Path) -> None:
    run("data")
    assert ran(sources=True) == [*SOURCES, "data"]
    set_value("beams: 3", "beams: 2")
    run("data")
    assert ran(sources=True) == ["ground", "segment", "data"]


def test_stages_do_not_inherit_the_run_that_mlflow_opened(after: After, monkeypatch: pytest.MonkeyPatch) -> None:
    after("data")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
    run("score")
    lines = Path("log.txt").read_text().splitlines()
    assert sorted(lines[:-1]) == sorted(f"{stage} run=None" for stage in (f"identify@{MODEL}", f"pretrain@{MODEL}"))
    assert lines[-1] == f"score@{MODEL} run=0123"
    assert os.environ["MLFLOW_RUN_ID"] == "0123"


def test_an_overridden_result_is_not_recorded_and_made_again(after: After) -> None:
    after("finetune")
    adapter = layout.finetune(MODEL, "top-4") / "content"
    wanted = adapter.read_text()
    run("finetune", train__lr="0.5")
    assert "lr: 0.5" in adapter.read_text()
    assert ran() == [f"finetune@{MODEL}-top-4", f"evaluate@{MODEL}-top-4"]  # of the adapter with other values
    assert graph.stale([f"finetune@{MODEL}-top-4"]) == [f"finetune@{MODEL}-top-4"]
    graph.reproduce([f"finetune@{MODEL}-top-4"])
    assert adapter.read_text() == wanted


def test_the_first_result_of_all_being_overridden_is_made_again(after: After) -> None:
    after("data")
    run("score", impact__chance_draws="2")
    run("select")
    assert "chance_draws: 4" in layout.impact_table(MODEL).read_text()
    assert ran().count(f"score@{MODEL}") == 2


def test_what_is_upstream_is_made_with_the_values_of_the_file(after: After) -> None:
    after("score")
    run("finetune", train__lr="0.5")
    assert "lr: 0.5" in (layout.finetune(MODEL, "top-4") / "content").read_text()
    assert "lr: 0.5" not in layout.selection(MODEL, "top-4").read_text()
    assert "lr: 0.5" not in (layout.evaluation(MODEL, "original") / "content").read_text()


def test_within_one_opening_the_graph_is_read_again_only_where_its_files_changed(
    after: After, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo.index import Index

    after("select")
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


def test_a_result_that_is_known_already_leaves_the_lock_alone(after: After) -> None:
    after("select")
    lock = Path("dvc.lock")
    before = lock.stat().st_mtime_ns
    run("select")
    assert lock.stat().st_mtime_ns == before
    set_value(r"\nseed: 0", "\nseed: 1")
    run("select")
    assert "seed: 1" in lock.read_text()


def test_only_what_a_changed_value_concerns_is_made_again(after: After) -> None:
    after("finetune")
    set_value(r"  lr: [\d.]+\n  max_grad", "  lr: 0.01\n  max_grad")
    assert graph.stale([f"finetune@{MODEL}-top-4"]) == [f"finetune@{MODEL}-top-4"]
    set_value(r"mask_threshold: 0.5", "mask_threshold: 0.4")
    run("finetune")
    after = [f"score@{MODEL}", f"select@{MODEL}-top-4", f"finetune@{MODEL}-top-4", f"evaluate@{MODEL}-top-4"]
    assert [name for name in ran() if "original" not in name] == after


def test_values_that_change_nothing_make_nothing_stale(after: After) -> None:
    after("finetune")
    set_value(r"device: auto", "device: cpu")
    set_value(r"threads: 0", "threads: 1")
    assert graph.stale([f"finetune@{MODEL}-top-4"]) == []


def test_a_result_is_not_recorded_when_the_values_changed_meanwhile(
    after: After, capsys: pytest.CaptureFixture[str]
) -> None:
    after("select")
    config = load(layout.PARAMS)

    def edit_meanwhile(config: Config, job: Job) -> Summary:
        set_value(r"\nseed: 0", "\nseed: 1")
        return write_output("select", config, job)

    pipeline.run("select", config, TOP, overridden=False, function=lambda name: edit_meanwhile)
    assert "changed while" in capsys.readouterr().out
    assert f"select@{MODEL}-top-4" in graph.stale([f"select@{MODEL}-top-4"])


def test_without_dvcs_function_stages_are_processes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_without_git(project: Path) -> None:
    shutil.rmtree(".git")
    run("identify")
    assert graph.stale([f"identify@{MODEL}"]) == []


def test_a_report_shows_what_is_there(after: After, capsys: pytest.CaptureFixture[str]) -> None:
    after("data")
    run("report")
    assert ran() == ["report"]
    assert f"Missing or stale: evaluate@{MODEL}-full" in capsys.readouterr().out.replace("answer@", "evaluate@")


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
