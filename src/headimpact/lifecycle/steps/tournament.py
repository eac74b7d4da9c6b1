"""Set the rules for choosing layers against each other, over several seeds and draws."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from headimpact.adapters import cell, lora, whole
from headimpact.adapters.training import TrainSettings
from headimpact.data.samples import Sample
from headimpact.devices import choose_device, choose_dtype
from headimpact.engine.forward import Engine, EngineSettings
from headimpact.engine.watch import unwatched
from headimpact.engine.workers import work
from headimpact.errors import InputError
from headimpact.evaluation.metrics import COMPARED
from headimpact.evaluation.objects import evaluate
from headimpact.files import atomic_file, digest_file, read_json_object, write_json
from headimpact.lifecycle import cluster, code, layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.inputs import dataset_digest, engine_of, engine_settings, read_part
from headimpact.lifecycle.steps.measured import read_measured
from headimpact.lifecycle.summary import Summary
from headimpact.report import figures
from headimpact.selection.choice import select
from headimpact.selection.grammar import read_setup
from headimpact.selection.rules import CHAMPION
from headimpact.tournament import contest
from headimpact.tournament import figure as tournament_figure
from headimpact.tournament.contest import Contest, Key, Run
from headimpact.tournament.names import is_whole
from headimpact.tournament.standings import Standings, headlines, standings
from headimpact.vlm import loading

# What decides the results of a run.
_CODE = ("adapters.cell", "evaluation.objects")


@dataclass(frozen=True)
class Task:
    """One run of one model; a process of its own, on another machine, too, can be given it.

    Attributes:
        needs: what has to be the same there: :func:`_needs`.
        threads: CPU threads.
    """

    config: Config
    model: str
    revision: str | None
    context: str
    needs: Mapping[str, str]
    run: Run
    threads: int


def run(config: Config, job: Job) -> Summary:
    """Train what is not there yet, compare the rules on the test part, and say what may be claimed."""
    with tracking.run("tournament") as run_id:
        tracking.log_parameters(_values(config))
        for part in ("train", "val", "test"):
            tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), part)
        contests = [_enter(config, model) for model in config.tournament.models]
        trained = _train(config, contests)
        runs = {
            entry.model: contest.read_runs(layout.tournament_runs(entry.model), entry.context) for entry in contests
        }
        cells = pd.concat(
            [contest.cells(entry, runs[entry.model], config.lora.rank) for entry in contests], ignore_index=True
        )
        found = standings(
            {entry.model: contest.long_table(entry, runs[entry.model]) for entry in contests},
            {model: contest.original(table) for model, table in runs.items()},
            config.tournament.differences,
        )
        _write(contests, cells, found)
        _track(cells, found)
    return _tell(cells, trained, found, run_id)


def _values(config: Config) -> dict[str, Any]:
    sections = ("tournament", "lora", "train")
    values = {name: getattr(config, name).model_dump() for name in sections}
    values["train"].pop("seed")
    return values | {"dataset": config.dataset, "seed": config.seed}


def _write(contests: Sequence[Contest], cells: pd.DataFrame, found: Standings) -> None:
    for entry in contests:
        chosen = {setup: selection.to_dict() for setup, selection in entry.selections.items()}
        write_json(layout.tournament_selections(entry.model), chosen)
    for name, table in (("cells", cells), ("changes", found.changes), ("comparisons", found.comparisons)):
        with atomic_file(layout.tournament_table(name)) as aside:
            table.to_csv(aside, index=False)
    write_json(layout.tournament_verdicts(), found.verdicts)
    figures.save(tournament_figure.draw(found.changes), layout.tournament_figure())


def _track(cells: pd.DataFrame, found: Standings) -> None:
    digest = {"cells_digest": digest_file(layout.tournament_table("cells"))}
    tracking.set_tags(digest)
    for row in cells.to_dict("records"):
        setup = contest.Contestant(row["rule"], row["k"], row["seed"], row["draw"]).setup
        setup = f"whole-{setup}" if is_whole(row["rule"]) else setup
        name = f"{row['model']} {setup} seed {row['seed']}"
        tags = {"step": "tournament run", "model": row["model"], "setup": setup, "layers": row["layers"]}
        with tracking.child(name, tags | digest):
            tracking.log_parameters({column: row[column] for column in ("rule", "k", "seed", "draw", "rank")})
            measured = {f"test/{metric}": row[metric] for metric in COMPARED if pd.notna(row[metric])}
            tracking.log_metrics(measured | {"parameters/trainable": row["trainable"]})
    for name, table in (("cells", cells), ("changes", found.changes), ("comparisons", found.comparisons)):
        tracking.log_table(name, table)
    tracking.log_files(layout.tournament())


def _tell(cells: pd.DataFrame, trained: int, found: Standings, run_id: str) -> Summary:
    rows = [("runs", f"{trained} trained, {len(cells)} compared: rules that take the same layers share theirs")]
    told = headlines(found.comparisons).items()
    rows += [(f"{model}: {CHAMPION}-{k}", headline) for (model, k), headline in told]
    files = [layout.tournament_verdicts(), layout.tournament_figure()]
    files += map(layout.tournament_table, ("cells", "changes", "comparisons"))
    return Summary("tournament", rows, files=files, run=run_id, next="headimpact report")


def _enter(config: Config, model: str) -> Contest:
    settings = config.tournament
    entered = list(contest.contestants(settings.rules, settings.ks, settings.seeds, settings.draws))
    measured = read_measured(model, with_measures=True)
    selections = {entry.setup: select(entry.setup, measured, config.seed) for entry in entered}
    runs = {}
    for entry in entered:
        layers, budget = selections[entry.setup].layers, read_setup(entry.setup).budget
        chosen = cell.placement(layers, (), budget, config.lora.rank)
        runs[entry] = Run(chosen, entry.seed, is_whole(entry.rule))
    identity = read_json_object(layout.identity(model), "revision", "digest")
    device = choose_device(config.compute.device)
    workers = settings.workers if device.type == "cpu" else 1
    return Contest(model, identity["revision"], _context(config, model, identity["digest"]), runs, selections, workers)


def _context(config: Config, model: str, base_digest: str) -> str:
    source, identity = config.models[model].source, layout.identity(model)
    values = _needs(config, base_digest) | {
        "questions": config.seed,
        "lora": config.lora.model_dump(),
        "train": asdict(_train_settings(config, 0)) | {"checkpoint_steps": None},
        "code": [code.run_fingerprint(_CODE), code.family_fingerprint(source, identity)],
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _needs(config: Config, base_digest: str) -> dict[str, str]:
    """What a run's context has of the machine that it is on."""
    dtype = choose_dtype(config.compute.dtype, choose_device(config.compute.device))
    return {"base": base_digest, "dataset": dataset_digest(), "dtype": str(dtype)}


def _train_settings(config: Config, seed: int) -> TrainSettings:
    return replace(TrainSettings(**config.train.model_dump()), seed=seed)


def _train(config: Config, contests: Sequence[Contest]) -> int:
    """Make the runs that are missing and keep each as soon as it is there; gives their number."""
    compute, workers = config.compute, min(entry.workers for entry in contests)
    threads = max(1, (compute.threads or torch.get_num_threads()) // workers)
    if compute.cluster:
        threads = cluster.threads_of_run(compute)
    missing: dict[tuple[str, Key], Task] = {}
    for entry in contests:
        path = layout.tournament_runs(entry.model)
        known = contest.finished(contest.read_runs(path, entry.context))
        if notice := contest.outdated(path, entry.context):
            print(notice, flush=True)
        needs = _needs(config, read_json_object(layout.identity(entry.model), "digest")["digest"])
        for needed in (contest.ORIGINAL, *entry.runs.values()):
            if needed.key not in known:
                task = Task(config, entry.model, entry.revision, entry.context, needs, needed, threads)
                missing[entry.model, needed.key] = task
    needed = sum(len({run.key for run in entry.runs.values()}) + 1 for entry in contests)
    print(f"{needed} runs are needed, {needed - len(missing)} of them are there", flush=True)
    tasks = list(missing.values())
    done = cluster.spread(_make_elsewhere, tasks, compute) if compute.cluster else work(_make, tasks, workers)
    for task, (trainable, objects) in track(done, len(missing), "tournament"):
        contest.keep(layout.tournament_runs(task.model), task.context, task.run, trainable, objects)
        _state(task).unlink(missing_ok=True)
    _ground.cache_clear()
    return len(missing)


@dataclass(frozen=True)
class _Ground:
    """What all runs of one context have in common."""

    engine: Engine
    data: cell.TrainingData
    test: Sequence[Sample]


def _ground_of(task: Task) -> _Ground:
    compute, settings = task.config.compute, engine_settings(task.config)
    source = task.config.models[task.model].source
    return _ground(source, task.revision, compute.device, compute.dtype, settings, task.context)


@lru_cache(maxsize=1)
def _ground(
    source: str, revision: str | None, device: str, dtype: str, settings: EngineSettings, context: str
) -> _Ground:
    """Loaded once a process, and once a model; ``context`` changes where weights or dataset do."""
    engine = engine_of(settings, loading.load(source, revision, device, dtype))
    return _Ground(
        engine, cell.TrainingData(read_part("train", engine), read_part("val", engine)), read_part("test", engine)
    )


def _make_elsewhere(task: Task) -> tuple[int, pd.DataFrame]:
    """:func:`_make` on a machine whose files nobody has looked at; it removes the training state itself.

    Raises:
        InputError: as for :func:`_make`; dataset or base are not there, or not the same; auto is another precision.
    """
    source = Path(task.config.models[task.model].source)
    for folder in (layout.DATASET, *([source] if task.revision is None else [])):
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}. Every machine of a cluster needs it: share or copy it.")
    dataset, base = f"{layout.DATASET} is another dataset", f"{source} is another base"
    dtype = "auto is another precision here: set compute.dtype to the one that is wanted"
    found = _needs(task.config, _ground_of(task).engine.vlm.digest)
    for name, complaint in (("dataset", dataset), ("dtype", dtype), ("base", base)):
        if found[name] != task.needs[name]:
            raise InputError(f"{task.model}: {complaint} (the tournament's: {task.needs[name]}, here: {found[name]}).")
    made = _make(task)
    _state(task).unlink(missing_ok=True)
    return made


def _make(task: Task) -> tuple[int, pd.DataFrame]:
    """Train and evaluate one run: the number of trainable parameters, and the results of every test object."""
    torch.set_num_threads(task.threads)
    ground = _ground_of(task)
    try:
        with _adapted(task, ground) as trainable:
            objects = evaluate(ground.engine, ground.test, task.config.seed, unwatched)
    except BaseException:
        _ground.cache_clear()  # the adapter is, perhaps, still on it
        raise
    return trainable, objects


@contextmanager
def _adapted(task: Task, ground: _Ground) -> Iterator[int]:
    """Within the block the base carries the run's adapter; gives the number of its trainable parameters."""
    if task.run == contest.ORIGINAL:
        yield 0
        return
    settings = lora.LoraSettings(**task.config.lora.model_dump())
    train = _train_settings(task.config, task.run.seed)
    fingerprint = cell.training_fingerprint(
        ground.engine.vlm, task.run.adapted, settings, train, {"context": task.context}
    )
    try:
        placed = (ground.engine, task.run.adapted, settings, train, ground.data, _state(task), fingerprint, unwatched)
        peft_model = whole.train(*placed) if task.run.whole else cell.train_adapter(*placed)[0]
    except InputError as error:
        raise InputError(f"{task.model}, layers {task.run.key.layers}, seed {task.run.seed}: {error}") from None
    yield lora.count_parameters(peft_model).trainable
    lora.detach(peft_model)


def _state(task: Task) -> Path:
    return layout.tournament_state(task.model, "-".join(map(str, task.run.key)))
