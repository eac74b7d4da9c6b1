"""How a step that a person runs relates to the DVC graph.

``dvc repro`` runs steps as stages; a person runs them directly, or ``mlflow run`` does. A direct run

- refuses upstream files that were edited by hand (they hold their own digests),
- builds what is missing or stale upstream through DVC's ``repro``, in this process and in MLflow runs of their own,
- runs the step, with DVC's locks on its files, in the MLflow run that is open,
- and records the result with ``dvc commit``, so that ``dvc repro`` does not do it again; but not if values
  were overridden: then DVC finds outputs that it does not know, and makes them again when they are needed.
"""

import gc
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from headimpact import processes
from headimpact.data import checking
from headimpact.errors import InputError
from headimpact.files import digest_file, read_json_object
from headimpact.lifecycle import code, graph, jobs, layout
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.jobs import Work
from headimpact.lifecycle.params import check_model, is_own, load
from headimpact.lifecycle.registry import STEPS, locate
from headimpact.lifecycle.summary import Summary, print_summary
from headimpact.lifecycle.unrecorded import until_recorded
from headimpact.selection.grammar import is_softened, softened, trained
from headimpact.selection.setups import check_setup

Function = Callable[[Config, Job], Summary]
_MANY = 4


def run(name: str, config: Config, job: Job, overridden: bool, function: Callable[[str], Function]) -> list[Summary]:
    """Run a step for ``job`` and, unless it is a stage of DVC, the step that follows it.

    Args:
        name: the step.
        config: the values.
        job: what it works on.
        overridden: ``config`` differs from params.yaml.
        function: gives the function of a step.

    Raises:
        InputError: the job is impossible, files were edited by hand, something upstream failed (or is missing,
            where `accelerate launch` started several processes), or another command is at work on the same files.
    """
    check_job(name, config, job)
    check_processes(name)
    if "DVC_STAGE" in os.environ:
        os.environ.pop("MLFLOW_RUN_ID", None)  # inherited from whoever called `dvc repro`: not this step's run
        code.check_current(STEPS[name], config, job.model)
        with until_recorded():  # by MLflow; DVC does so when this process has ended
            return [function(name)(config, job)]
    after = jobs.following((name, job))
    if not processes.is_first():
        with until_recorded():
            for step, of_step in [(name, job), after] if after else [(name, job)]:
                _do(config, of_step, function(step))
        return []  # the first process does and tells the rest
    code.refresh(config)
    make_folders()
    with graph.opened(), until_recorded():
        work = (name, job)
        jobs.enter([work], config)
        plain = load(layout.PARAMS) if overridden else config  # which what is upstream is made with
        if STEPS[name].as_it_is:
            verify(work, config)
        else:
            build(work, jobs.upstream(work, config), plain, function)
        if after and processes.count_launched() > 1:
            _build_before(after, plain, function)  # refused before a long work begins
        summaries = [_run(work, config, overridden, function(name))]
        if after:
            # What it reads has just been made, perhaps with other values than those of params.yaml.
            gc.collect()
            _build_before(after, plain, function)
            summaries.append(_run(after, config, overridden, function(after[0])))
    return summaries


@contextmanager
def provided(
    reader: Work, steps: Collection[str], config: Config, function: Callable[[str], Function]
) -> Iterator[None]:
    """For a command that is no step, and reads what the step ``reader`` reads of some ``steps``: make what of it is
    missing or stale, and hold DVC's locks on it within the block.

    Args:
        reader: a step, and what it would work on.
        steps: those that write what is read.
        config: the values of params.yaml.
        function: gives the function of a step.

    Raises:
        InputError: as for :func:`run`.
    """
    check_job(reader[0], config, reader[1])
    code.refresh(config)
    works = [above for above in jobs.upstream(reader, config) if above[0] in steps]
    with graph.opened():
        jobs.enter(works, config)
        build(reader, works, config, function)
    with graph.locked([jobs.output(work) for work in works], []):
        yield


def _build_before(after: Work, config: Config, function: Callable[[str], Function]) -> None:
    """Build what the step that follows shows its result beside."""
    jobs.enter([after], config)
    build(after, [above for above in jobs.upstream(after, config) if above[0] == after[0]], config, function)


def _run(work: Work, config: Config, overridden: bool, function: Function) -> Summary:
    with _locked(work, config):
        before = graph.inputs(jobs.stage_name(work, config))
        summary = _do(config, work[1], function)
    _record(work, config, before, overridden)
    return summary


def _do(config: Config, job: Job, function: Function) -> Summary:
    """Run a step; of several processes none goes on before the first has written what it makes."""
    summary = function(config, job)
    processes.launched(config.compute.device).wait()
    return summary


def run_grid(config: Config, function: Callable[[str], Function]) -> int:
    """``dvc repro`` of the whole graph, with its stages in this process; the number of stages that ran.

    Args:
        config: the values of params.yaml.
        function: gives the function of a step.
    """
    code.refresh(config)
    make_folders()
    report = ("report", Job(config.model, config.setup))
    jobs.enter([report], config)  # the tournament may be held on models outside of the grid
    verify(report, config)
    imported = code.current()

    def step(work: Work) -> Callable[[], None]:
        def run_as_it_is_now() -> None:  # as the process of a stage would: the grid takes long enough to edit something
            with until_recorded():
                _run_stage(work, load(layout.PARAMS), function, imported)

        return run_as_it_is_now

    works = [report, *jobs.all_upstream(report, config), *jobs.entered()]
    return graph.reproduce(steps={jobs.stage_name(work, config): step(work) for work in works})


def make_folders() -> None:
    """Make the folders that a step reads of many models: DVC runs no stage of which one is not there, as in
    `dvc repro -s report` after a single model was trained."""
    for read in (read for step in STEPS.values() for read in step.reads if read.among != "job"):
        locate(read.place, "", "").mkdir(parents=True, exist_ok=True)


def check_job(name: str, config: Config, job: Job) -> None:
    """Refuse what can be seen to be impossible without reading any file.

    Raises:
        InputError: unknown model, unknown setup, or no folder of data.
    """
    check_model(config, job.model)
    check_setup(job.setup)
    _check_softening(name, job.setup)
    sources = {"data", *(step for step, _ in jobs.all_upstream(("data", job), config))}
    if name in sources and is_own(config.dataset) and not Path(config.dataset).is_dir():
        raise InputError(
            f"{layout.PARAMS}: dataset: {config.dataset} is no folder. Give its path, absolute or from the project "
            "root (~ is not expanded)."
        )


def _check_softening(name: str, setup: str) -> None:
    """Only what is trained is softened, and what is softened is made from it."""
    if name in STEPS and STEPS[name].softens:
        check_setup(softened(setup))
    elif name in ("select", "finetune") and is_softened(setup):
        raise InputError(
            f"{setup} is what is left of {trained(setup)}, scaled down, and has its layers: run {name} for "
            f"{trained(setup)}, or make {setup} from it: headimpact soften --setup {trained(setup)}"
        )


def check_processes(command: str) -> None:
    """Refuse to run in several processes what they cannot share.

    Raises:
        InputError: `accelerate launch` (or mpirun) started several.
    """
    count = processes.count_launched()
    if count > 1 and not (command in STEPS and STEPS[command].shares):
        raise InputError(
            f"{command} was started in {count} processes, which cannot share its work: each would do all of it. Run it "
            f"once, without accelerate launch. Several processes can share: {_sharing()}."
        )


def _sharing() -> str:
    return ", ".join(name for name, step in STEPS.items() if step.shares)


def verify(work: Work, config: Config, changed: Collection[str] | None = None) -> None:
    """Refuse data sets and HI tables upstream of a job that do not agree with the digests they came with.

    DVC would find such an edit too, but would silently undo it.

    Args:
        work: the job.
        config: the values.
        changed: the stages that DVC would run: what it finds as it was is not read again; None: it was not asked.

    Raises:
        InputError: names the file and what to do.
    """
    everything = jobs.all_upstream(work, config)
    looked_at = [above for above in everything if changed is None or jobs.stage_name(above, config) in changed]
    if any(step == "data" for step, _ in looked_at) and layout.DATASET.exists():
        checking.verify(layout.DATASET)
    for model in dict.fromkeys(job.model for step, job in looked_at if step == "score"):
        verify_impact_table(model)


def verify_impact_table(model: str) -> None:
    """Refuse an HI table that was edited after ``score`` wrote it; one that is not there is no error.

    Raises:
        InputError: its digest is not that of its summary.
    """
    table, summary = layout.impact_table(model), layout.impact_summary(model)
    if not table.exists() or not summary.exists():
        return
    if digest_file(table) != read_json_object(summary).get("table_digest"):
        raise InputError(
            f"{table} is not the table that was scored: its digest is not the one in {summary}. Was it "
            f"edited by hand? Score again with: headimpact score --model {model}"
        )


def build(work: Work, upstream: list[Work], config: Config, function: Callable[[str], Function]) -> None:
    """Build what is missing or stale of jobs that ``work`` reads from, and of what they are made from, and say so.

    Raises:
        InputError: something failed, files were edited by hand, another command is at work on the same files, or there
            is something to build and there are several processes.
    """
    stages = list(dict.fromkeys(jobs.stage_name(above, config) for above in upstream))
    if not stages or not (needed := graph.stale(stages)):
        return
    verify(work, config, needed)
    if processes.count_launched() > 1:
        raise InputError(
            f"Missing or stale: {', '.join(needed)}. Several processes build nothing upstream; make it in one first:\n"
            f"    dvc repro {' '.join(needed)}\n"
            f"or one after the other in several, where these can share: {_sharing()}."
        )
    print(f"Missing or stale, to be built first: {', '.join(needed)}", flush=True)

    imported = code.current()

    def step(above: Work) -> Callable[[], None]:
        return lambda: _run_stage(above, config, function, imported)

    everything = [*upstream, *(far for above in upstream for far in jobs.all_upstream(above, config))]
    with until_recorded():
        graph.reproduce(stages, {jobs.stage_name(above, config): step(above) for above in everything})


def _run_stage(work: Work, config: Config, function: Callable[[str], Function], imported: code.Code) -> None:
    """What the command of a stage does, here."""
    name, job = work
    code.check_current(STEPS[name], config, job.model, imported)
    print_summary(function(name)(config, job))
    gc.collect()  # a base is gone before the next step loads one


def _record(work: Work, config: Config, before: dict[str, object], overridden: bool) -> None:
    """Tell DVC what the result was made from, so that it is not made again."""
    name = jobs.stage_name(work, config)
    if overridden:
        print(
            f"Made with overridden values, so not recorded: the next dvc repro makes {name} again "
            f"with those of {layout.PARAMS}."
        )
    elif graph.inputs(name) != before:
        print(
            f"Code, data or {layout.PARAMS} changed while {name} ran, so it is not recorded: "
            "the next dvc repro makes it again."
        )
    elif STEPS[work[0]].as_it_is and (others := [stage for stage in graph.stale([name]) if stage != name]):
        more = f" and {len(others) - _MANY} more" if len(others) > _MANY else ""
        told = f"{', '.join(others[:_MANY])}{more}"
        print(f"It shows what is there now. Missing or stale: {told}. To make all of the grid: dvc repro")
    else:
        try:
            graph.commit(name)
        except InputError as error:
            raise InputError(
                f"{error}\n{name} is done, but not recorded. To record it: dvc commit -f {name}"
            ) from error


@contextmanager
def _locked(work: Work, config: Config) -> Iterator[None]:
    read = [jobs.output(above) for above in jobs.upstream(work, config)]
    with graph.locked(list(dict.fromkeys(read)), [jobs.output(work)]):
        yield
