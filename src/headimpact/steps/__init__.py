"""The steps of the lifecycle: each reads files, calls the pure parts, writes files, and tracks what it did."""

import torch

from headimpact import coco, layout, vlm
from headimpact.config import Config, Job


def load_base(config: Config, job: Job) -> vlm.Vlm:
    """The base of a job, on the device and in the precision of ``compute``."""
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    base = config.models[job.model]
    return vlm.load(base.source, base.revision, config.compute.device, config.compute.dtype)


def read_part(config: Config, part: str) -> list[coco.Sample]:
    """The samples of one part that have an object."""
    folder = layout.dataset(config.dataset)
    return [sample for sample in coco.read_part(folder, part) if sample.objects]


def dataset_digest(config: Config) -> str:
    """Digest of the dataset's files."""
    return coco.dataset_digest(layout.dataset(config.dataset))
