"""Measure what Head Impact does not say about each layer."""

from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.inputs import dataset_digest, draw_images, load_engine, read_part
from headimpact.lifecycle.steps.results import write_table
from headimpact.lifecycle.summary import Summary
from headimpact.selection.measures import measure

# Those of the paper's adapters, whatever lora.targets is: so that this step does not depend on it.
TARGETS = ("q_proj", "k_proj", "v_proj")


def run(config: Config, job: Job) -> Summary:
    """Every measure that is no column of the HI table, on images of the impact part."""
    samples = draw_images(read_part("impact"), config.measure.images, config.seed)
    path = layout.measures(job.model)
    with tracking.run("measure", job.model) as run_id:
        tracking.log_parameters({"model": job.model, "dataset": config.dataset, "measure": config.measure.model_dump()})
        tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), "impact")
        measures = measure(
            load_engine(config, job),
            samples,
            TARGETS,
            lambda items, total, what: track(items, total, f"{what} {job.model}"),
        )
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
        next=f"headimpact select --model {job.model} --setup knockout-4",
    )
