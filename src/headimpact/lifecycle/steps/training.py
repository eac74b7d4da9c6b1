"""What finetune does where there are layers to train."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from peft import PeftModel

from headimpact import __version__
from headimpact.adapters import cell, lora
from headimpact.adapters.digest import adapter_digest
from headimpact.adapters.training import Measurement, TrainSettings
from headimpact.engine import checkpoints
from headimpact.engine.forward import Engine
from headimpact.engine.watch import unwatched
from headimpact.files import atomic_folder
from headimpact.lifecycle import experiment, layout, tracking, values
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.registry import STEPS
from headimpact.lifecycle.steps.inputs import dataset_digest, load_engine, read_part
from headimpact.lifecycle.steps.results import share_done
from headimpact.lifecycle.summary import Summary
from headimpact.lifecycle.unrecorded import when_recorded
from headimpact.processes import launched
from headimpact.report import figures
from headimpact.selection.grammar import read_setup
from headimpact.selection.selection import Selection
from headimpact.vlm.base import Vlm


def run(config: Config, job: Job, selected: dict[str, Any]) -> Summary:
    """Train on the selected layers.

    Args:
        config: the values.
        job: model and setup.
        selected: what the step select wrote.
    """
    processes = launched(config.compute.device)
    if not processes.is_first:
        _train(config, job, load_engine(config, job), selected)
        return share_done("finetune", processes)
    with tracking.run("finetune", job.model, job.setup) as run_id:
        engine = load_engine(config, job)
        _log_inputs(config, job, engine.vlm)
        peft_model, rows, header = _train(config, job, engine, selected)
        _write(job, peft_model, rows, header)
        _track(job, header)
        kept = engine.kept
    state = layout.training_state(job.model, job.setup)
    when_recorded(lambda: state.unlink(missing_ok=True))
    worse = experiment.worse_than_original([asdict(row) for row in rows])
    return Summary(
        f"finetune {job.setup} of {job.model}",
        [
            ("layers", ", ".join(map(str, header["layers"]))),
            *([("careful", f"{worse}: see train.lr")] if worse else []),
            ("kept", kept),
        ],
        files=[layout.finetune(job.model, job.setup)],
        run=run_id,
        next=f"headimpact evaluate --model {job.model} --setup {job.setup}",
    )


def _log_inputs(config: Config, job: Job, vlm: Vlm) -> None:
    used = {"model": job.model, "setup": job.setup, "source": vlm.source, "revision": vlm.revision}
    used |= {"dataset": config.dataset, "lora": config.lora.model_dump(), "train": config.train.model_dump()}
    tracking.log_parameters(used)
    for part in ("train", "val"):
        tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), part)


def _train(
    config: Config, job: Job, engine: Engine, selected: dict[str, Any]
) -> tuple[PeftModel, list[Measurement], dict[str, Any]]:
    """The trained adapter, its history and its header."""
    vlm, selection = engine.vlm, Selection.from_dict(selected)
    settings = lora.LoraSettings(**config.lora.model_dump())
    chosen = cell.placement(selection.layers, selection.heads, read_setup(job.setup).budget, settings.rank)
    header = _header(config, job, vlm, selected, chosen)
    train = TrainSettings(**config.train.model_dump())
    fingerprint = cell.training_fingerprint(vlm, chosen, settings, train, header)
    data = cell.TrainingData(read_part("train", engine), read_part("val", engine))
    state = layout.training_state(job.model, job.setup)
    first = engine.processes.is_first
    if first and (step := _kept_step(state, fingerprint)):
        print(f"Training goes on from step {step}, which was kept in {state}.", flush=True)
    try:
        peft_model, rows = cell.train_adapter(
            engine,
            chosen,
            settings,
            train,
            data,
            state,
            fingerprint,
            (lambda items, total, what: track(items, total, f"{what} {job.model} {job.setup}", note=str))
            if first
            else unwatched,
        )
    except KeyboardInterrupt:
        if first:
            print(_kept(_kept_step(state, fingerprint), state, train.checkpoint_steps), flush=True)
        raise
    if overrides := values.overridden(config, STEPS["finetune"]):
        header["overrides"] = overrides
    header["trainable"] = lora.count_parameters(peft_model).trainable
    return peft_model, rows, header


def _header(config: Config, job: Job, vlm: Vlm, selected: dict[str, Any], chosen: cell.Placement) -> dict[str, Any]:
    """What an adapter is held to: which base, data and layers it is made for and from."""
    return {
        "base": job.model,
        "source": vlm.source,
        "revision": vlm.revision,
        "base_digest": vlm.digest,
        "base_settings": dict(vlm.settings),
        "dataset": config.dataset,
        "dataset_digest": dataset_digest(),
        "table_digest": selected["table_digest"],
        "setup": job.setup,
        "layers": list(chosen.layers),
        **({"heads": selected["heads"]} if chosen.heads else {}),
        "code_version": __version__,
    }


def _kept_step(state: Path, fingerprint: str) -> int:
    """The step that a training can go on from; 0: there is none, or it is of another training."""
    if not state.exists():
        return 0
    kept = checkpoints.load(state)[-1]
    return int(kept["step"]) if kept["fingerprint"] == fingerprint else 0


def _kept(step: int, state: Path, every: int) -> str:
    """What an interrupted training says."""
    if step:
        return f"Kept: the training up to step {step}, in {state}. The same command goes on from there."
    return f"Nothing is kept: the first state would have been written at step {every} (train.checkpoint_steps)."


def _write(job: Job, peft_model: PeftModel, rows: list[Measurement], header: dict[str, Any]) -> None:
    with atomic_folder(layout.finetune(job.model, job.setup)) as aside:
        lora.save(peft_model, aside / "adapter", header)
        pd.DataFrame([asdict(row) for row in rows]).to_csv(aside / "history.csv", index=False)


def _track(job: Job, header: dict[str, Any]) -> None:
    folder, history = layout.finetune(job.model, job.setup), pd.read_csv(layout.history(job.model, job.setup))
    digest = adapter_digest(layout.adapter(job.model, job.setup))
    tracking.log_history(history)
    tracking.log_figure(figures.history(history, f"{job.model} {job.setup}"), "history.png")
    tracking.log_files(folder)
    tracking.set_tags({"layers": ",".join(map(str, header["layers"])), "adapter_digest": digest})
    tracking.link_score(job.model, header["table_digest"])
    tracking.log_files(layout.impact(job.model))
