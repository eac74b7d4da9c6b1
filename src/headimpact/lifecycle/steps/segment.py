"""Segment objects: SAM 2 fills the boxes of their phrases."""

from pathlib import Path

from headimpact.data import annotators, records, segmentation
from headimpact.data.grounding import Grounded
from headimpact.files import digest_file, write_json
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.sources import not_first, nothing_to_do
from headimpact.lifecycle.summary import Summary


def run(config: Config, job: Job) -> Summary:
    """Find the masks of the phrases of the dataset coco, in as many processes as were launched."""
    if config.dataset != "coco":
        return nothing_to_do("segment", config)
    processes = annotators.launched(config.compute.device)
    if processes.rank:
        _run(config, processes)
        return not_first("segment", processes)
    with tracking.run("segment") as run_id:
        tracking.log_parameters({"dataset": config.dataset, "segment": config.segment.model_dump()})
        account = _run(config, processes)
        assert account is not None  # the first process writes the output
        write_json(layout.made("segment"), {"digest": digest_file(layout.OBJECTS)})
        tracking.log_metrics({"segment/images": account.images, "segment/objects": account.objects})
    kept = f"{account.kept_objects:,} objects on {account.kept_images:,} images"
    return Summary(
        "segment",
        [
            ("images", f"{account.images:,}"),
            ("objects", f"{account.objects:,}"),
            (f"of confidence {config.min_score:g} or more", kept),
        ],
        skipped=[(f"image {image_id}", why) for image_id, why in account.errors],
        files=[layout.OBJECTS],
        run=run_id,
        next="headimpact data",
    )


def _run(config: Config, processes: records.Processes) -> segmentation.Account | None:
    settings, compute = config.segment, config.compute
    segmenter = segmentation.load(settings.source, settings.revision, compute.device, compute.dtype)
    images, group = layout.downloaded_images("coco"), settings.batch_images
    return segment(layout.PHRASES, images, layout.OBJECTS, segmenter, group, config.min_score, processes)


def segment(
    phrases: Path,
    images: Path,
    output: Path,
    segmenter: segmentation.Segmenter,
    group_images: int,
    min_score: float,
    processes: records.Processes,
) -> segmentation.Account | None:
    """Write the masks of every image, whatever their confidence; what a killed run has done is kept.

    Every process of ``accelerate launch`` calls it and does its share.

    Args:
        phrases: phrases.jsonl.
        images: the folder of images.
        output: objects.jsonl, replaced if it exists.
        segmenter: the model.
        group_images: images in one batch of the model.
        min_score: smallest confidence, for the account alone.
        processes: who shares the work (``annotators.launched``).

    Returns:
        What was found, and what will be dropped; None in all processes but the first.

    Raises:
        InputError: phrases.jsonl is missing or damaged.
    """
    work = annotators.work(phrases, Grounded, images, segmenter.facts(), group_images, segmenter.segment)
    what = f"segmenting {group_images} images at a time"
    if records.complete(output, work, processes, lambda groups, total: track(groups, total, what)):
        return segmentation.account(output, min_score)
    return None
