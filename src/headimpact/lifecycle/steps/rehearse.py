"""Rehearse: a checkpoint of true size with random weights, on this machine, before anything is fetched."""

import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from headimpact import devices
from headimpact.adapters.lora import LoraSettings, count_parameters
from headimpact.adapters.training import TrainSettings
from headimpact.errors import InputError
from headimpact.impact.scoring import ChanceSettings
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.rehearsal import checkpoints, images, outcome
from headimpact.lifecycle.rehearsal.runs import TRIED, Rehearsal
from headimpact.lifecycle.steps import plan
from headimpact.lifecycle.steps.inputs import engine_settings
from headimpact.lifecycle.summary import Summary
from headimpact.vlm.base import Vlm


def run(config: Config, job: Job, count: int) -> Summary:
    """Score, train a step and evaluate with random weights, and tell where time and memory go.

    Args:
        config: the values.
        job: the model.
        count: how many images.
    """
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    device = devices.choose_device(config.compute.device)
    dtype = devices.choose_dtype(config.compute.dtype, device)
    machine = plan.machine(config)
    base = config.models[job.model]
    print(f"Making {job.model} with random weights on {device.type}; nothing is fetched but small files.", flush=True)
    vlm = _build(base.source, base.revision, device, dtype)
    with tempfile.TemporaryDirectory() as folder:
        rehearsal = Rehearsal(
            vlm=vlm,
            samples=images.draw(count, Path(folder)),
            engine=engine_settings(config),
            chance=ChanceSettings(config.impact.mask_threshold, config.impact.chance_draws, config.seed),
            lora=LoraSettings(**config.lora.model_dump()),
            train=TrainSettings(**config.train.model_dump() | {"batch_images": count, "gradient_checkpointing": False}),
            seed=config.seed,
            rate=machine.rate,
            tell=lambda text: print(text, flush=True),
        )
        runs = list(track(rehearsal.run(), TRIED, f"rehearsing {job.model}"))
    found = outcome.Outcome(
        model=job.model,
        source=base.source,
        parameters=count_parameters(vlm.model).total,
        visual=vlm.grid(images.WIDTH, images.HEIGHT).tokens,
        tokenizer=checkpoints.stands_in(base.source) or "",
        device=_told(device),
        dtype=str(dtype).removeprefix("torch."),
        images=count,
        size=(images.WIDTH, images.HEIGHT),
        objects=images.OBJECTS,
        batch_tokens=config.compute.batch_tokens,
        runs=runs,
    )
    path = layout.rehearsal(job.model, device.type)
    found.save(path)
    _show(found)
    return _summary(found, path, machine.told)


def _build(source: str, revision: str | None, device: torch.device, dtype: torch.dtype) -> Vlm:
    try:
        return checkpoints.build(source, revision, device, dtype)
    except (torch.OutOfMemoryError, MemoryError):
        raise InputError(
            f"The weights of {source} do not fit into the memory of {device.type} in {dtype}: take a larger device, or "
            "a smaller precision, as in --compute.dtype bfloat16."
        ) from None


def _told(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{'a CPU' if device.type == 'cpu' else device.type} ({threads} thread{'s' if threads > 1 else ''})"


def _show(found: outcome.Outcome) -> None:
    columns, rows = outcome.table(found)
    table = Table(title=f"Seconds an image, and memory; {found.told}", title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


def _summary(found: outcome.Outcome, path: Path, told: str) -> Summary:
    rows = [
        ("base", f"{found.source}: {found.parameters:,} random weights"),
        ("tokenizer", f"that of {found.tokenizer}, which is smaller" if found.tokenizer else "its own"),
        ("plan", told),
    ]
    return Summary(
        f"rehearse {found.model}",
        rows,
        skipped=[(run.what, run.problem) for run in found.runs if run.problem],
        files=[path],
        next=f"headimpact score --model {found.model}",
    )
