"""What the steps that use a model read, the base and the dataset, and what they keep until they are done."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from pydantic import BaseModel

from headimpact import __version__
from headimpact.data import coco, manifest
from headimpact.data.names import visible_files
from headimpact.data.packed import PackedSamples
from headimpact.data.samples import Sample
from headimpact.devices import choose_device, choose_dtype
from headimpact.engine.forward import Engine, EngineSettings
from headimpact.engine.portions import Kept
from headimpact.errors import InputError
from headimpact.files import digest_folder, read_json, read_json_object
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.registry import STEPS, locate
from headimpact.lifecycle.unrecorded import when_recorded
from headimpact.processes import launched
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm
from headimpact.vlm.suited import Unsuited, suited

_TOLD = 10  # left out images and objects that a step names


def load_engine(config: Config, job: Job) -> Engine:
    """The base of a job, as ``identify`` found it, on the device and in the precision of ``compute``; of several
    processes each has it on its own device.

    Raises:
        InputError: as for :func:`headimpact.vlm.loading.load`; its weights are not those that were identified; or
            another process has other weights, another dataset, or other values.
    """
    processes = launched(config.compute.device)
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    identity = read_json_object(layout.identity(job.model), "source", "revision", "digest", "settings_digest")
    base = loading.load(identity["source"], identity["revision"], config.compute.device, config.compute.dtype)
    if base.digest != identity["digest"]:
        raise InputError(
            f"The weights of {base.source} have changed since {layout.identity(job.model)} was written. Put them back, "
            f"or go on with the new ones: headimpact identify --model {job.model}"
        )
    if base.settings_digest != identity["settings_digest"]:
        raise InputError(
            f"The settings of {base.source} (config, image processor, tokenizer or chat template) have changed since "
            f"{layout.identity(job.model)} was written. Put them back, or go on with the new ones: headimpact identify "
            f"--model {job.model}"
        )
    engine = engine_of(engine_settings(config), base)
    engine.processes = processes
    if (disk := engine.frozen.disk) is not None:
        disk.most = disk.used + (disk.most - disk.used) // processes.count  # each fills its part of the room
    values = config.model_dump_json(exclude={"compute"})
    processes.check_same(
        {
            "version": __version__,
            "base": base.digest[:16],
            "precision": str(base.model.dtype),
            "dataset": dataset_digest()[:16],
            "params.yaml": hashlib.sha256(values.encode()).hexdigest()[:16],
        }
    )
    return engine


def engine_of(settings: EngineSettings, base: Vlm) -> Engine:
    """A base on its device; what is kept of it on disk lies in the project."""
    return Engine(base, settings, folder=layout.FROZEN, tell=lambda text: print(text, flush=True))


def engine_settings(config: Config) -> EngineSettings:
    """What ``compute`` says of how much at a time."""
    compute = config.compute
    return EngineSettings(
        batch_tokens=compute.batch_tokens,
        workers=compute.workers,
        prefetch=compute.prefetch,
        memory_mb=compute.memory_mb,
        disk_mb=compute.disk_mb,
    )


def read_part(part: str, engine: Engine | None = None) -> PackedSamples:
    """The samples of one part that have an object; those that the engine's base can take, and what it cannot is
    told."""
    samples = coco.read_part(layout.DATASET, part)
    samples = samples.choose(np.flatnonzero(samples.object_counts))
    if engine is None:
        return samples
    unsuited: list[Unsuited] = []
    samples = suited(samples, engine.vlm, unsuited.append)
    if engine.processes.is_first:
        for what in unsuited[:_TOLD]:
            engine.tell(f"Left out of {part}: {what.record}: {what.reason}.")
        if len(unsuited) > _TOLD:
            engine.tell(f"... and {len(unsuited) - _TOLD} more, which headimpact check-data --model lists.")
    return samples


def draw_images(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """``count`` images in their order, or all where there are fewer; a smaller draw is part of a larger one."""
    chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
    return [samples[index] for index in sorted(chosen.tolist())]


def dataset_digest() -> str:
    """Digest of the dataset's files."""
    return manifest.dataset_digest(layout.DATASET)


@contextmanager
def kept_portions(step: str, config: Config, job: Job, engine: Engine) -> Iterator[Kept]:
    """Where a step keeps the results of portions while it is at work; they go when the block, which writes what is made
    of them, has ended well in the first process, and that is recorded."""
    kept = Kept(layout.kept_portions(job.model, step), engine.processes.give(_facts(step, config, job, engine)))
    yield kept
    engine.processes.wait()
    when_recorded(kept.remove)


def output_facts(step: str, config: Config, job: Job) -> dict[str, Any]:
    """All that the output of a step that uses a trained adapter follows from, known before a base is loaded."""
    device = choose_device(config.compute.device)
    adapter = layout.adapter(job.model, job.setup)
    return {
        "base": read_json(layout.identity(job.model)),
        "adapter": digest_folder(adapter) if adapter.is_dir() else None,
        "batch_tokens": config.compute.batch_tokens,
        "dtype": str(choose_dtype(config.compute.dtype, device)),
        "device": device.type,
        **_common_facts(step, config, job),
    }


def _facts(step: str, config: Config, job: Job, engine: Engine) -> dict[str, Any]:
    """All that the results of a portion follow from; from run to run the same."""
    return {
        "base": engine.vlm.digest,
        "batch_tokens": engine.settings.batch_tokens,
        "dtype": str(engine.vlm.model.dtype),
        "device": engine.vlm.device.type,
        **_common_facts(step, config, job),
    }


def project_facts(step: str, config: Config, job: Job, *more: Path) -> dict[str, Any]:
    """All that the output of a step without a base follows from: its code, its values, the grid, and of all files that
    it reads, and of those in more folders, when they were written and how large they are."""
    places = [*(locate(read.place, job.model, job.setup) for read in STEPS[step].reads), *more]
    files = (path for place in places for path in ([place] if place.is_file() else visible_files(place)))
    states = sorted((str(path), state.st_mtime_ns, state.st_size) for path in files for state in [path.stat()])
    return {"files": states, "grid": _value(config, "grid"), **_code_and_values(step, config, job)}


def _common_facts(step: str, config: Config, job: Job) -> dict[str, Any]:
    versions = [torch.__version__, transformers.__version__, np.__version__]
    return {"dataset": dataset_digest(), "versions": versions, **_code_and_values(step, config, job)}


def _code_and_values(step: str, config: Config, job: Job) -> dict[str, Any]:
    known = (
        read_json_object(layout.FINGERPRINTS, "steps", "families")
        if layout.FINGERPRINTS.is_file()
        else {"steps": {}, "families": {}}
    )
    return {
        "code": [known["steps"].get(step), known["families"].get(job.model)],
        "values": {name: _value(config, name) for name in STEPS[step].values},
    }


def _value(config: Config, name: str) -> Any:
    value = reduce(getattr, name.split("."), config)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
