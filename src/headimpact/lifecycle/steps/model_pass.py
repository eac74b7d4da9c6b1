"""What ground and segment have in common: a model goes through the images of the dataset coco, line by line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headimpact.data.annotators import Annotator, annotate
from headimpact.files import digest_file, write_json
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Ground, Segment
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.results import share_done
from headimpact.lifecycle.summary import Summary
from headimpact.processes import Processes, launched


@dataclass(frozen=True)
class ModelPass:
    """One of the two steps.

    Attributes:
        settings: its values.
        load: loads its model.
        source: the lines that the model reads.
        output: the lines that it writes.
        work: what is done to how many images at a time, in a word or two.
        next: the command that comes after it.
    """

    step: str
    settings: Ground | Segment
    load: Callable[[], Annotator]
    source: Path
    output: Path
    work: str
    next: str


@dataclass(frozen=True)
class Account:
    """What an output holds: counts for MLflow, rows for the summary, and what was skipped and why."""

    counts: dict[str, int]
    rows: list[tuple[str, str]]
    skipped: list[tuple[str, str]]


def run(model_pass: ModelPass, config: Config, account: Callable[[Path], Account]) -> Summary:
    """Let a model go through the dataset coco, in as many processes as were launched; the first tracks it."""
    step = model_pass.step
    processes = launched(config.compute.device)
    if not processes.is_first:
        _annotate(model_pass, processes)
        return share_done(step, processes)
    with tracking.run(step) as run_id:
        tracking.log_parameters({"dataset": config.dataset, step: model_pass.settings.model_dump()})
        _annotate(model_pass, processes)
        result = account(model_pass.output)
        write_json(layout.made(step), {"digest": digest_file(model_pass.output)})
        tracking.log_metrics({f"{step}/{name}": count for name, count in result.counts.items()})
    return Summary(
        step, result.rows, skipped=result.skipped, files=[model_pass.output], run=run_id, next=model_pass.next
    )


def _annotate(model_pass: ModelPass, processes: Processes) -> None:
    batch = model_pass.settings.batch_images
    annotate(
        model_pass.load(),
        model_pass.source,
        layout.downloaded_images("coco"),
        model_pass.output,
        batch,
        processes,
        lambda groups, total: track(groups, total, f"{model_pass.work}, {batch} at a time"),
    )
