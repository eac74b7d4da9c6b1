"""What the steps that use a model read: the base and the dataset."""

from collections.abc import Sequence

import numpy as np
import torch

from headimpact.data import coco, manifest
from headimpact.data.samples import Sample
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config, Job
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm


def load_base(config: Config, job: Job) -> Vlm:
    """The base of a job, on the device and in the precision of ``compute``."""
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    base = config.models[job.model]
    loaded = loading.load(base.source, base.revision, config.compute.device, config.compute.dtype)
    if line := loading.revision_line(base.revision, loaded.revision):
        print(f"To stay with these weights of {base.source}, put into {layout.PARAMS}: {line}", flush=True)
    return loaded


def read_part(part: str) -> list[Sample]:
    """The samples of one part that have an object."""
    return [sample for sample in coco.read_part(layout.DATASET, part) if sample.objects]


def draw_images(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """``count`` images in their order, or all where there are fewer; a smaller draw is part of a larger one."""
    chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
    return [samples[index] for index in sorted(chosen)]


def dataset_digest() -> str:
    """Digest of the dataset's files."""
    return manifest.dataset_digest(layout.DATASET)
