"""Make the dataset."""

from headimpact import coco, layout, scenes, tracking
from headimpact.config import Config, Job
from headimpact.progress import track
from headimpact.summary import Summary


def run(config: Config, job: Job) -> Summary:
    """Draw the embedded dataset and write it as COCO JSON."""
    folder = layout.dataset(config.dataset)
    sizes = config.scenes.sizes.model_dump()
    with tracking.run("data") as run_id:
        tracking.log_parameters({"dataset": config.dataset, "seed": config.seed, "scenes": config.scenes.model_dump()})
        scenes.write_dataset(folder, sizes, config.seed, lambda ids: track(ids, len(ids), "drawing scenes"))
        digest = coco.dataset_digest(folder)
        counts = {}
        for part in coco.PARTS:
            samples = coco.read_part(folder, part)
            counts[part] = (len(samples), sum(len(sample.objects) for sample in samples))
            tracking.log_dataset(config.dataset, folder, digest, part)
        tracking.log_metrics(
            {
                f"data/{part}/{name}": n
                for part, both in counts.items()
                for name, n in zip(("images", "objects"), both, strict=True)
            }
        )
        tracking.log_files(coco.manifest_path(folder))
    rows = [(part, f"{images} images, {objects} objects") for part, (images, objects) in counts.items()]
    return Summary(
        "data",
        [*rows, ("digest", digest[:12])],
        files=[folder],
        run=run_id,
        next="python -m headimpact score",
    )
