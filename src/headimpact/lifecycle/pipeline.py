"""How a step that a person runs relates to the DVC graph.

``dvc repro`` runs steps as stages; a person runs them directly, or ``mlflow run`` does. A direct run

- refuses upstream files that were edited by hand (they hold their own digests),
- builds what is missing or stale upstream through ``dvc repro``, in MLflow runs of their own,
- runs the step, with DVC's locks on its files, in the MLflow run that is open,
- and records the result with ``dvc commit``, so that ``dvc repro`` does not do it again; but not if values
  were overridden: then DVC finds outputs that it does not know, and makes them again when they are needed.

Jobs that the graph has no stage for (a model or a setup outside of the grid) leave a record of what they were
made from instead, and their upstream jobs outside of the graph are run as processes of their own.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headimpact.data import checking
from headimpact.errors import InputError
from headimpact.files import digest_file, digest_folder, read_json, write_json
from headimpact.lifecycle import graph, layout
from headimpact.lifecycle.config import Config, Job, Step, check_model, is_own, tracked_values
from headimpact.lifecycle.summary import Summary
from headimpact.selection.selection import check_setup, needs_measures

Function = Callable[[Config, Job], Summary]
Work = tuple[Step, Job]
PER_SETUP: tuple[Step, ...] = ("select", "finetune", "answer")
SOURCES: tuple[Step, ...] = ("download", "ground", "segment", "data")


def run(step: Step, config: Config, job: Job, overridden: bool, function: Function) -> Summary:
    """Run ``function``, which is ``step``, for ``job``; ``overridden``: ``config`` differs from params.yaml.

    Raises:
        InputError: the job is impossible, files were edited by hand, something upstream failed (or is missing,
            where `accelerate launch` started several processes), or another command is at work on the same files.
    """
    check_job(step, config, job)
    if "DVC_STAGE" in os.environ:
        os.environ.pop("MLFLOW_RUN_ID", None)  # inherited from whoever called `dvc repro`: not this step's run
        return function(config, job)
    if int(os.environ.get("RANK", "0")):
        return function(config, job)  # the first process of several does what follows
    verify([(step, job)], config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        check_upstream(step, config, job)
    build_upstream(step, config, job)
    with _locked(step, config, job):
        before = made_from(step, config, job)
        summary = function(config, job)
    _record(step, config, job, before, overridden)
    return summary


def run_grid(config: Config) -> int:
    """``dvc repro`` of the whole graph; the number of stages that ran."""
    verify([("report", Job(config.model, config.setup))], config)
    return graph.reproduce()


def check_job(step: Step, config: Config, job: Job) -> None:
    """Refuse what can be seen to be impossible without reading any file.

    Raises:
        InputError: unknown model, unknown setup, no folder of data, or nothing to do.
    """
    check_model(config, job.model)
    check_setup(job.setup)
    if step in SOURCES and is_own(config.dataset) and not Path(config.dataset).is_dir():
        raise InputError(
            f"{layout.PARAMS}: dataset: {config.dataset} is no folder. Give its path, absolute or from the project "
            "root (~ is not expanded)."
        )
    if step == "select" and job.setup == "original":
        raise InputError("The setup original adapts no layer: there is nothing to select.")


def stage_name(step: Step, config: Config, job: Job) -> str | None:
    """The DVC stage of a job, or None where the graph has none."""
    if step in ("download", "ground", "segment", "data", "tournament", "report"):
        return step
    if job.model not in config.grid.models:
        return None
    if step in ("pretrain", "score", "measure", "examine"):
        return f"{step}@{job.model}"
    if step == "finetune" and job.setup == "original":
        return f"original@{job.model}"
    if step == "answer" and job.setup == "original":
        return f"answer-original@{job.model}"
    return f"{step}@{job.model}-{job.setup}" if job.setup in config.grid.setups else None


def upstream(step: Step, config: Config, job: Job) -> list[Work]:
    """What a job reads from directly, in the order to build it; held to dvc.yaml by a test."""
    bases: list[Work] = [("pretrain", job)] if job.model in config.grid.models else []
    if step in ("ground", "segment", "data"):
        names: dict[Step, tuple[Step, ...]] = {
            "ground": ("download",),
            "segment": ("download", "ground"),
            "data": ("download", "segment"),
        }
        return [(name, job) for name in names[step]]
    if step in ("score", "measure") or (step in ("finetune", "answer") and job.setup == "original"):
        return [("data", job), *bases]
    if step == "examine":
        return [("data", job), *bases, ("score", job)]
    if step == "select":
        return [("score", job), *([("measure", job)] if needs_measures(job.setup) else [])]
    if step == "finetune":
        return [("data", job), *bases, ("select", job), ("finetune", Job(job.model, "original"))]
    if step == "tournament":
        return [("data", job), *_contestants(config)]
    if step == "answer":
        return [("data", job), *bases, ("finetune", job), ("answer", Job(job.model, "original"))]
    if step == "report":
        return [("data", job), *_grid(config), ("tournament", job)]
    return []


def _contestants(config: Config) -> Iterator[Work]:
    for model in config.tournament.models:
        job = Job(model, "original")
        if model in config.grid.models:
            yield "pretrain", job
        yield "score", job
        yield "measure", job


def _grid(config: Config) -> Iterator[Work]:
    for model in config.grid.models:
        yield "score", Job(model, "original")
        yield "measure", Job(model, "original")
        yield "examine", Job(model, "original")
        yield "finetune", Job(model, "original")
        yield "answer", Job(model, "original")
        for setup in config.grid.setups:
            yield "select", Job(model, setup)
            yield "finetune", Job(model, setup)
            yield "answer", Job(model, setup)


def output(step: Step, config: Config, job: Job) -> Path:
    """The file or folder that a job writes."""
    match step:
        case "download" | "ground" | "segment":
            return layout.made(step)
        case "data":
            return layout.DATASET
        case "pretrain":
            return layout.base(job.model)
        case "score":
            return layout.impact(job.model)
        case "measure":
            return layout.measures(job.model)
        case "examine":
            return layout.examination(job.model)
        case "select":
            return layout.selection(job.model, job.setup)
        case "finetune":
            return layout.finetune(job.model, job.setup)
        case "tournament":
            return layout.tournament()
        case "answer":
            return layout.answers(job.model, job.setup)
        case "report":
            return layout.REPORTS


def verify(works: list[Work], config: Config) -> None:
    """Refuse data sets and HI tables upstream of ``works`` that do not agree with the digests they came with.

    DVC would find such an edit too, but would silently undo it.

    Raises:
        InputError: names the file and what to do.
    """
    everything: dict[Work, None] = {}
    while works:
        works = [above for work in works for above in upstream(work[0], config, work[1])]
        everything |= dict.fromkeys(works)
    if any(step == "data" for step, _ in everything) and layout.DATASET.exists():
        checking.verify(layout.DATASET)
    for model in dict.fromkeys(job.model for step, job in everything if step == "score"):
        verify_impact_table(model)


def verify_impact_table(model: str) -> None:
    """Refuse an HI table that was edited after ``score`` wrote it; one that is not there is no error.

    Raises:
        InputError: its digest is not that of its summary.
    """
    table, summary = layout.impact_table(model), layout.impact_summary(model)
    if not table.exists() or not summary.exists():
        return
    if digest_file(table) != read_json(summary).get("table_digest"):
        raise InputError(
            f"{table} is not the table that was scored: its digest is not the one in {summary}. Was it "
            f"edited by hand? Score again with: headimpact score --model {model}"
        )


def build_upstream(step: Step, config: Config, job: Job) -> None:
    """Build what ``job`` reads from, where it is missing or stale, and say so.

    Raises:
        InputError: something failed (it has printed why), or another command is at work on the same files.
    """
    works = upstream(step, config, job)
    stages = [name for work in works if (name := stage_name(work[0], config, work[1]))]
    if stages and (needed := graph.stale(stages)):
        print(f"Missing or stale, to be built first with dvc repro: {', '.join(needed)}", flush=True)
        graph.reproduce(stages)
    for above, its_job in works:
        if stage_name(above, config, its_job) is None:
            build_upstream(above, config, its_job)
            if not is_fresh(above, config, its_job):
                _run_process(above, its_job)


def check_upstream(step: Step, config: Config, job: Job) -> None:
    """Refuse to begin where something upstream is missing or stale: the other processes would not wait for it.

    Raises:
        InputError: names what to build first.
    """
    stages = [name for work in upstream(step, config, job) if (name := stage_name(work[0], config, work[1]))]
    if stages and (needed := graph.stale(stages)):
        raise InputError(
            f"Missing or stale: {', '.join(needed)}. Several processes cannot build it; build it in one first:\n"
            f"    dvc repro {' '.join(needed)}"
        )


def _run_process(step: Step, job: Job) -> None:
    """A step outside of the graph in a process, and so an MLflow run, of its own, without the overrides."""
    command = [step, "--model", job.model, *(["--setup", job.setup] if step in PER_SETUP else [])]
    print(f"Missing or stale, to be built first: {' '.join(command)}", flush=True)
    source = str(Path(__file__).resolve().parents[2])
    with graph.environment(MLFLOW_RUN_ID=None, PYTHONPATH=source):
        done = subprocess.run([sys.executable, "-m", "headimpact", *command], check=False)
    if done.returncode in (graph.INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if done.returncode:
        raise InputError(f"{' '.join(command)} failed: what went wrong is printed above.")


def made_from(step: Step, config: Config, job: Job) -> dict[str, Any]:
    """What decides the result of a job: for a stage what DVC looks at, else the values and upstream files."""
    if name := stage_name(step, config, job):
        return graph.inputs(name)
    files = [output(above, config, its_job) for above, its_job in upstream(step, config, job)]
    source = Path(config.models[job.model].source)
    digests = {path.as_posix(): _digest(path) for path in (*files, source) if path.exists()}
    return {"values": tracked_values(config, step, job), "files": digests}


def is_fresh(step: Step, config: Config, job: Job) -> bool:
    """Whether the result of a job outside of the graph is there, whole, and made from what is there now."""
    record = _record_path(step, job)
    if not record.exists():
        return False
    return read_json(record) == made_from(step, config, job) | {"output": _digest(output(step, config, job))}


def _record(step: Step, config: Config, job: Job, before: dict[str, Any], overridden: bool) -> None:
    """Remember what the result was made from, so that it is not made again."""
    name = stage_name(step, config, job)
    if name is None:
        write_json(_record_path(step, job), before | {"output": _digest(output(step, config, job))})
    elif overridden:
        print(
            f"Made with overridden values, so not recorded: the next dvc repro makes {name} again "
            f"with those of {layout.PARAMS}."
        )
    elif made_from(step, config, job) != before:
        print(
            f"Code, data or {layout.PARAMS} changed while {name} ran, so it is not recorded: "
            "the next dvc repro makes it again."
        )
    else:
        graph.commit(name)


def _record_path(step: Step, job: Job) -> Path:
    return layout.record(step, job.model, job.setup if step in PER_SETUP else None)


def _digest(path: Path) -> str:
    if not path.exists():
        return "missing"
    return digest_folder(path) if path.is_dir() else digest_file(path)


@contextmanager
def _locked(step: Step, config: Config, job: Job) -> Iterator[None]:
    read = [output(above, config, its_job) for above, its_job in upstream(step, config, job)]
    with graph.locked(read, [output(step, config, job)]):
        yield
