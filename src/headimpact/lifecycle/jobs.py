"""Jobs: what a step works on, its stage in the graph, and what it is made from.

A model and a setup of the grid have their stages in ``dvc.yaml``. Those of any other that a person asks for by name are
written to ``jobs/dvc.yaml``, in the same form: DVC knows them like the others, and ``dvc repro`` makes both,
since the report shows both.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from headimpact.errors import InputError
from headimpact.files import write_text
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.registry import STEPS, Read, Step, locate
from headimpact.lifecycle.written import shown, stage
from headimpact.selection.grammar import alias, is_softened, softened, trained
from headimpact.selection.setups import needs_measures

_HEADER = """\
# Stages of models and setups outside of the grid of params.yaml that were asked for by name. Written by headimpact,
# which leaves out what has come into the grid and models that are no longer in params.yaml.
"""
Work = tuple[str, Job]
"""A step by name, and what it works on."""


def in_grid(step: Step, config: Config, job: Job) -> bool:
    """Whether ``dvc.yaml`` has the job's stage."""
    models = config.pretrain.models if step.name == "pretrain" else config.grid.models
    if not step.in_grid:
        return False
    return step.per == "project" or (job.model in models and (step.per == "model" or job.setup in config.grid.setups))


def stage_name(work: Work, config: Config) -> str:
    """The address of a job's stage, as DVC's commands take it."""
    step, job = STEPS[work[0]], work[1]
    if in_grid(step, config, job):
        cell = {"project": "", "model": f"@{job.model}", "setup": f"@{job.model}-{job.setup}"}
        return f"{step.name}{cell[step.per]}"
    return f"{layout.JOBS.as_posix()}:{_name(step, job)}"


def _name(step: Step, job: Job) -> str:
    return "-".join([step.name, job.model, *([alias(job.setup)] if step.per == "setup" else [])])


def reads(step: Step, job: Job) -> tuple[Read, ...]:
    """What a job is made from; of a setup that goes by measures, those as well."""
    measures = step.name == "select" and needs_measures(job.setup)
    return (*step.reads, *([Read("measure", layout.measures)] if measures else []))


def upstream(work: Work, config: Config) -> list[Work]:
    """What has to be made before a job, directly."""
    step, job = STEPS[work[0]], work[1]
    above: dict[Work, None] = {}
    for read in reads(step, job):
        above |= dict.fromkeys(_writers(read, config, job))
    if step.beside_original and job.setup != "original":
        above[step.name, Job(job.model, "original")] = None
    return list(above)


def _writers(read: Read, config: Config, job: Job) -> Iterator[Work]:
    models, setups = {
        "job": ((job.model,), (job.setup,)),
        "grid": (config.grid.models, config.grid.setups),
        "tournament": (config.tournament.models, (job.setup,)),
    }[read.among]
    if read.step == "finetune" and is_softened(job.setup):
        yield "soften", Job(job.model, trained(job.setup))
        return
    writer = STEPS[read.step]
    for model in config.pretrain.models if read.step == "pretrain" else models:
        for setup in setups if writer.per == "setup" else (job.setup,):
            yield read.step, Job(model, setup) if writer.per != "project" else job


def following(work: Work) -> Work | None:
    """The step that follows when a person runs a job, and what it works on."""
    step, job = STEPS[work[0]], work[1]
    if step.then is None:
        return None
    return step.then, Job(job.model, softened(job.setup)) if step.softens else job


def all_upstream(work: Work, config: Config) -> list[Work]:
    """Everything that has to be made before a job, directly or not."""
    everything: dict[Work, None] = {}
    waiting = [work]
    while waiting:
        fresh = [above for above in upstream(waiting.pop(), config) if above not in everything]
        everything |= dict.fromkeys(fresh)
        waiting += fresh
    return list(everything)


def output(work: Work) -> Path:
    """The first file or folder that a job writes."""
    step, job = STEPS[work[0]], work[1]
    return locate(step.writes[0], job.model, job.setup)


def enter(works: Sequence[Work], config: Config) -> bool:
    """Make the stages of jobs, and of what they are made from, known to DVC; True if jobs/dvc.yaml has changed.

    What has come into the grid leaves it: DVC refuses an output of two stages.

    Raises:
        InputError: jobs/dvc.yaml is damaged.
    """
    wanted = {*works, *(above for work in works for above in all_upstream(work, config)), *entered()}
    outside = [(STEPS[name], job) for name, job in wanted if job.model in config.models]
    outside = [(step, job) for step, job in outside if step.per != "project" and not in_grid(step, config, job)]
    stages = {_name(step, job): _stage(step, job) for step, job in outside}
    cells = sorted((job.model, job.setup) for step, job in outside if step.name == "evaluate")
    content = {"stages": dict(sorted(stages.items()))} | shown(cells, Path(".."))
    text = f"{_HEADER}{yaml.safe_dump(content, sort_keys=False, width=1000, allow_unicode=True)}"
    before = layout.JOBS.read_text(encoding="utf-8") if layout.JOBS.exists() else None
    if text == before or not (stages or before):
        return False
    write_text(layout.JOBS, text)
    return True


def _stage(step: Step, job: Job) -> dict[str, Any]:
    made = stage(step, job.model, job.setup, alias(job.setup), reads(step, job)[len(step.reads) :])
    return made | {"wdir": "..", "meta": {"step": step.name, "model": job.model, "setup": job.setup}}


def entered() -> set[Work]:
    """The jobs that jobs/dvc.yaml has.

    Raises:
        InputError: it is damaged.
    """
    if not layout.JOBS.exists():
        return set()
    try:
        stages = yaml.safe_load(layout.JOBS.read_text(encoding="utf-8"))["stages"].values()
        facts = [made["meta"] for made in stages]
        return {(fact["step"], Job(fact["model"], fact["setup"])) for fact in facts if fact["step"] in STEPS}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{layout.JOBS} is damaged ({type(error).__name__}: {error}). Remove it: the stages are written again when "
            "they are asked for."
        ) from None
