"""Segment objects: SAM 2 fills the boxes of their phrases."""

from functools import partial
from pathlib import Path

from headimpact.data import segmentation, segmented
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.steps import model_pass
from headimpact.lifecycle.summary import Summary


def run(config: Config, job: Job) -> Summary:
    """Find the masks of the phrases of the dataset coco, in as many processes as were launched."""
    settings, compute = config.segment, config.compute
    load = partial(segmentation.load, settings.source, settings.revision, compute.device, compute.dtype)
    step = model_pass.ModelPass(
        "segment", settings, load, layout.PHRASES, layout.OBJECTS, "segmenting images", "headimpact data"
    )
    return model_pass.run(step, config, partial(_account, min_score=config.min_score))


def _account(objects: Path, min_score: float) -> model_pass.Account:
    account = segmented.account(objects, min_score)
    kept = f"{account.kept_objects:,} objects on {account.kept_images:,} images"
    return model_pass.Account(
        {"images": account.images, "objects": account.objects},
        [
            ("images", f"{account.images:,}"),
            ("objects", f"{account.objects:,}"),
            (f"of confidence {min_score:g} or more", kept),
        ],
        [(f"image {image_id}", why) for image_id, why in account.errors],
    )
