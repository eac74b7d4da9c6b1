"""Measure what Head Impact does not say about each layer."""

from collections.abc import Sequence

from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine
from headimpact.engine.portions import Kept
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.proposal import finetune_command
from headimpact.lifecycle.steps.inputs import dataset_digest, draw_images, kept_portions, load_engine, read_part
from headimpact.lifecycle.steps.results import share_done, write_table
from headimpact.lifecycle.summary import Summary
from headimpact.processes import launched
from headimpact.selection.measures import LayerMeasures, measure

# Those of the paper's adapters, whatever lora.targets is: so that this step does not depend on it.
TARGETS = ("q_proj", "k_proj", "v_proj")


def run(config: Config, job: Job) -> Summary:
    """Every measure that is no column of the HI table, on images of the impact part."""
    processes = launched(config.compute.device)
    if not processes.is_first:
        engine = load_engine(config, job)
        samples = draw_images(read_part("impact", engine), config.measure.images, config.seed)
        with kept_portions("measure", config, job, engine) as kept:
            _measure(job, engine, samples, kept)
        return share_done("measure", processes)
    path = layout.measures(job.model)
    with tracking.run("measure", job.model) as run_id:
        tracking.log_parameters({"model": job.model, "dataset": config.dataset, "measure": config.measure.model_dump()})
        tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), "impact")
        engine = load_engine(config, job)
        samples = draw_images(read_part("impact", engine), config.measure.images, config.seed)
        with kept_portions("measure", config, job, engine) as kept:
            measures = _measure(job, engine, samples, kept)
            table = measures.table()
            write_table(path, table)
        tracking.log_table("measures", table)
        tracking.log_files(path)
    highest = [
        (f"highest {name}", f"layer {table[name].argmax()}: {table[name].max():.3g}") for name in measures.values
    ]
    return Summary(
        f"measure {job.model}",
        [("images", str(len(samples))), *highest],
        files=[path],
        run=run_id,
        next=finetune_command(config, job.model),
    )


def _measure(job: Job, engine: Engine, samples: Sequence[Sample], kept: Kept) -> LayerMeasures:
    return measure(
        engine, samples, TARGETS, lambda items, total, what: track(items, total, f"{what} {job.model}"), kept
    )
