"""Ground captions: Florence-2 finds their phrases in the images."""

from pathlib import Path

from headimpact.data import annotators, grounding, records
from headimpact.data.captions import Captioned
from headimpact.files import digest_file, write_json
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.sources import not_first, nothing_to_do
from headimpact.lifecycle.summary import Summary


def run(config: Config, job: Job) -> Summary:
    """Find the phrases of the captions of the dataset coco, in as many processes as were launched."""
    if config.dataset != "coco":
        return nothing_to_do("ground", config)
    processes = annotators.launched(config.compute.device)
    if processes.rank:
        _run(config, processes)
        return not_first("ground", processes)
    with tracking.run("ground") as run_id:
        tracking.log_parameters({"dataset": config.dataset, "ground": config.ground.model_dump()})
        account = _run(config, processes)
        assert account is not None  # the first process writes the output
        write_json(layout.made("ground"), {"digest": digest_file(layout.PHRASES)})
        counts = {"images": account.images, "phrases": account.phrases, "boxes": account.boxes}
        tracking.log_metrics({f"ground/{name}": count for name, count in counts.items()})
    skipped = [(f"{account.without} images", "no phrase was found")] if account.without else []
    return Summary(
        "ground",
        [(name, f"{count:,}") for name, count in counts.items()],
        skipped=[*skipped, *((f"image {image_id}", why) for image_id, why in account.errors)],
        files=[layout.PHRASES],
        run=run_id,
        next="headimpact segment",
    )


def _run(config: Config, processes: records.Processes) -> grounding.Account | None:
    settings, compute = config.ground, config.compute
    grounder = grounding.load(settings.source, settings.revision, compute.device, compute.dtype, settings.beams)
    images = layout.downloaded_images("coco")
    return ground(layout.CAPTIONS, images, layout.PHRASES, grounder, settings.batch_images, processes)


def ground(
    captions: Path,
    images: Path,
    output: Path,
    grounder: grounding.Grounder,
    group_images: int,
    processes: records.Processes,
) -> grounding.Account | None:
    """Write the phrases of every image; what a killed run has done is kept.

    Every process of ``accelerate launch`` calls it and does its share.

    Args:
        captions: captions.jsonl.
        images: the folder of images.
        output: phrases.jsonl, replaced if it exists.
        grounder: the model.
        group_images: images in one batch of the model.
        processes: who shares the work (``annotators.launched``).

    Returns:
        What was found; None in all processes but the first.

    Raises:
        InputError: captions.jsonl is missing or damaged.
    """
    work = annotators.work(captions, Captioned, images, grounder.facts(), group_images, grounder.ground)
    what = f"grounding {group_images} captions at a time"
    if records.complete(output, work, processes, lambda groups, total: track(groups, total, what)):
        return grounding.account(output)
    return None
