"""Plan: what a model and its setups cost, before anything heavy is fetched or computed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headimpact import devices, hub
from headimpact.adapters import cell, cost, lora
from headimpact.data import coco
from headimpact.errors import InputError
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.steps.inputs import read_part
from headimpact.lifecycle.summary import Summary
from headimpact.selection.setups import check_setup, parse_setup
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm
from headimpact.vlm.packing import PromptAttention

SAMPLE = 200
# Where there is no dataset: COCO's most common size, and about as many descriptions as the published images have.
COMMON_IMAGE = (640, 480, ("a brown dog", "a red frisbee", "a man in a blue shirt"))


@dataclass(frozen=True)
class _Images:
    """What is planned for: some images (width, height, phrases), how many there are to train on, and whose they are."""

    images: list[tuple[int, int, tuple[str, ...]]]
    train: int | None
    told: str


@dataclass(frozen=True)
class Machine:
    """Precision, operations per second that the model is expected to reach, and where that is from."""

    dtype: torch.dtype
    rate: float
    told: str


def run(config: Config, job: Job) -> Summary:
    """Tell layers, visual tokens, parameters, and estimates of memory and time, from the config alone."""
    base = config.models[job.model]
    model = loading.skeleton(base.source, base.revision)
    if check_setup(job.setup).kind == "heads":
        lora.check_single_heads(model)
    if tracking.RUN in os.environ:  # `mlflow run` opened one
        with tracking.run("plan", job.model):
            tracking.log_parameters({"model": job.model, "source": model.source, "revision": model.revision})
    images, here = _images(config), machine(config)
    load = cost.workload(model, images.images, config.compute.batch_tokens, config.train.batch_images)
    rows = _facts(job, model, images, load)
    for setup in dict.fromkeys((*config.grid.setups, job.setup)):
        rows.append((setup, _cost_or_why_not(config, model, setup, job.setup, load, images.train, here)))
    rows.append(("estimates", here.told))
    rows.append(("", "top, bottom and random: as if the lowest adapted layer were the first, which costs most"))
    if line := hub.revision_line(base.revision, model.revision):
        rows.append(("params.yaml", f"to stay with these weights, put there: {line}"))
    return Summary(f"plan {job.model}", rows, next=f"headimpact score --model {job.model}")


def costs(config: Config, model: str, setups: Sequence[str]) -> tuple[dict[str, str], str]:
    """By setup, what it would cost; and what the estimates rest on.

    Raises:
        InputError: the config of the base is not there, or it has not the layers that a setup asks for.
    """
    base = config.models[model]
    skeleton, images, here = loading.skeleton(base.source, base.revision), _images(config), machine(config)
    load = cost.workload(skeleton, images.images, config.compute.batch_tokens, config.train.batch_images)
    return {setup: _cost(config, skeleton, setup, load, images.train, here) for setup in setups}, here.told


def _images(config: Config) -> _Images:
    folder = layout.DATASET
    if not coco.annotation_path(folder, "train").is_file():
        width, height, phrases = COMMON_IMAGE
        told = f"{width}x{height}, COCO's most common size, as there is no {folder.as_posix()} yet"
        return _Images([(width, height, phrases)], None, told)
    samples = read_part("train")
    if not samples:
        raise InputError(f"{folder} has no image with an object in its part train: there is nothing to plan for.")
    chosen = np.random.default_rng(config.seed).permutation(len(samples))[:SAMPLE]
    images = [
        (samples[i].width, samples[i].height, tuple(obj.phrase for obj in samples[i].objects)) for i in sorted(chosen)
    ]
    return _Images(images, len(samples), f"{len(images)} images of {folder.as_posix()}")


def machine(config: Config) -> Machine:
    """The device and the precision of ``compute``, and how fast the model is expected to run there."""
    name, dtype = config.compute.device, config.compute.dtype
    try:
        device = devices.choose_device(name)
    except InputError:
        precision = torch.bfloat16 if dtype == "auto" else devices.choose_dtype(dtype, torch.device(name))
        told = f"there is no {name} here: {cost.ASSUMED_RATE / 1e12:.0f} TFLOP/s assumed, as of a GPU of 24 GB"
        return Machine(precision, cost.EFFICIENCY * cost.ASSUMED_RATE, _reached(told, precision))
    precision = devices.choose_dtype(dtype, device)
    measured = cost.measure_rate(device, precision)
    told = f"{measured / 1e12:.3g} TFLOP/s measured in a matrix product on {device.type}"
    return Machine(precision, cost.EFFICIENCY * measured, _reached(told, precision))


def _reached(told: str, precision: torch.dtype) -> str:
    name = str(precision).removeprefix("torch.")
    return f"base in {name}; {told}, of which the model is assumed to reach {cost.EFFICIENCY:.0%}"


def _facts(job: Job, model: Vlm, images: _Images, load: cost.Workload) -> list[tuple[str, str]]:
    counts = [model.grid(width, height).tokens for width, height, _ in images.images]
    spread = f"{counts[0]}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}, mean {load.visual:.0f}"
    at = f" at {model.revision}" if model.revision else ""
    descriptions = np.mean([len(phrases) for *_, phrases in images.images])
    alone = model.prompt_attention is PromptAttention.RECURRENT
    packed = "each in a sequence of its own" if alone else "packed into one sequence"
    rows = [
        ("base", f"{model.source}{at}"),
        (
            "layers x heads",
            f"{model.layers} x {model.heads} ({model.text_config.num_key_value_heads} key-value heads)",
        ),
        ("visual tokens", f"{spread} ({images.told})"),
        ("tokens an image", f"{load.tokens:.0f}, with {descriptions:.1f} descriptions {packed}"),
    ]
    if len(model.attention_layers) < model.layers:
        attending = ", ".join(map(str, model.attention_layers))
        rows.insert(2, ("attention", f"in the layers {attending} alone: only they are scored, chosen and adapted"))
    if model.no_single_heads:
        rows.insert(2, ("single heads", f"cannot be adapted: {model.no_single_heads}"))
    return rows


def _cost_or_why_not(
    config: Config, model: Vlm, text: str, asked: str, load: cost.Workload, train: int | None, machine: Machine
) -> str:
    """What a setup costs. That a model has too few layers for one of the grid keeps nobody from planning another."""
    try:
        return _cost(config, model, text, load, train, machine)
    except InputError as error:
        if text == asked:
            raise
        return f"not possible: {error}"


def _cost(config: Config, model: Vlm, text: str, load: cost.Workload, train: int | None, machine: Machine) -> str:
    settings = lora.LoraSettings(**config.lora.model_dump())
    setup = parse_setup(text, model.layers, attending=model.attention_layers)
    layers = cost.setup_layers(setup, model.attention_layers)
    chosen = cell.placement(layers, (), setup.budget, settings.rank)
    counts = cost.count_parameters(model, chosen.layers, settings, chosen.ranks)
    lowest = min(chosen.layers, default=None)
    found = cost.estimate(model, load, lowest, counts.trainable, machine.dtype, config.train.gradient_checkpointing)
    memory = f"{_size(found.memory)} ({_size(found.weights)} of it weights)"
    seconds = found.flops / machine.rate
    if lowest is None:
        return f"{counts.total:,} parameters; estimate: {memory}, {_told(seconds)} a forward of {load.images} images"
    step = config.train.batch_images
    told = f"trainable {counts.trainable:,} of {counts.total:,} ({counts.percent:.4f} %); estimate: {memory}, "
    told += f"{_told(seconds * step / load.images)} a step of {step} images"
    if train is not None:
        told += f", {_told(seconds * train / load.images)} an epoch of {train}"
    return told


def _size(count: int | float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _told(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
