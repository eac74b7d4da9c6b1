"""What the steps that use a model read: the base and the dataset."""

from collections.abc import Sequence

import numpy as np
import torch

from headimpact.data import coco, manifest
from headimpact.data.packed import PackedSamples
from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine, EngineSettings
from headimpact.errors import InputError
from headimpact.files import read_json
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config, Job
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm


def load_engine(config: Config, job: Job) -> Engine:
    """The base of a job, as ``identify`` found it, on the device and in the precision of ``compute``.

    Raises:
        InputError: as for :func:`headimpact.vlm.loading.load`, or its weights are not those that were identified.
    """
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    identity = read_json(layout.identity(job.model))
    base = loading.load(identity["source"], identity["revision"], config.compute.device, config.compute.dtype)
    if base.digest != identity["digest"]:
        raise InputError(
            f"The weights of {base.source} have changed since {layout.identity(job.model)} was written. Put them back, "
            f"or go on with the new ones: headimpact identify --model {job.model}"
        )
    return engine_of(engine_settings(config), base)


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


def read_part(part: str) -> PackedSamples:
    """The samples of one part that have an object."""
    samples = coco.read_part(layout.DATASET, part)
    return samples.choose(np.flatnonzero(samples.object_counts))


def draw_images(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """``count`` images in their order, or all where there are fewer; a smaller draw is part of a larger one."""
    chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
    return [samples[index] for index in sorted(chosen.tolist())]


def dataset_digest() -> str:
    """Digest of the dataset's files."""
    return manifest.dataset_digest(layout.DATASET)
