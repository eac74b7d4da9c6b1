"""Ground captions: Florence-2 finds their phrases in the images."""

from functools import partial
from pathlib import Path

from headimpact.data import grounding
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.steps import model_pass
from headimpact.lifecycle.summary import Summary


def run(config: Config, job: Job) -> Summary:
    """Find the phrases of the captions of the dataset coco, in as many processes as were launched."""
    settings, compute = config.ground, config.compute
    load = partial(grounding.load, settings.source, settings.revision, compute.device, compute.dtype, settings.beams)
    step = model_pass.ModelPass(
        "ground", settings, load, layout.CAPTIONS, layout.PHRASES, "grounding captions", "headimpact segment"
    )
    return model_pass.run(step, config, _account)


def _account(phrases: Path) -> model_pass.Account:
    account = grounding.account(phrases)
    counts = {"images": account.images, "phrases": account.phrases, "boxes": account.boxes}
    without = [(f"{account.without} images", "no phrase was found")] if account.without else []
    return model_pass.Account(
        counts,
        [(name, f"{count:,}") for name, count in counts.items()],
        [*without, *((f"image {image_id}", why) for image_id, why in account.errors)],
    )
