"""Put Head Impact itself under test: other definitions, other images, layers against heads."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine
from headimpact.engine.portions import Kept
from headimpact.files import atomic_folder, write_json
from headimpact.impact import stability, variations
from headimpact.impact.examination import Examination, examine
from headimpact.impact.head_impact import Impact
from headimpact.impact.kruskal_wallis import kruskal_wallis
from headimpact.impact.scoring import ChanceSettings
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.inputs import dataset_digest, draw_images, kept_portions, load_engine, read_part
from headimpact.lifecycle.steps.results import share_done
from headimpact.lifecycle.summary import Summary
from headimpact.processes import launched
from headimpact.report import examined, figures


def run(config: Config, job: Job) -> Summary:
    """Vary the definition on images of the impact part; resample and split what score found on all of them."""
    processes = launched(config.compute.device)
    if not processes.is_first:
        engine = load_engine(config, job)
        everything = read_part("impact", engine)
        with kept_portions("examine", config, job, engine) as kept:
            _examine(config, job, engine, everything, kept)
        return share_done("examine", processes)
    scored = Impact.from_frame(pd.read_parquet(layout.impact_objects(job.model)))
    settings = config.impact
    with tracking.run("examine", job.model) as run_id:
        values = {"examine": config.examine.model_dump(), "impact": settings.model_dump(), "seed": config.seed}
        tracking.log_parameters({"model": job.model, "dataset": config.dataset} | values)
        tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), "impact")
        engine = load_engine(config, job)
        everything = read_part("impact", engine)
        with kept_portions("examine", config, job, engine) as kept:
            found = _examine(config, job, engine, everything, kept)
            table = variations.table(found.scores, found.image_ids)
            curve = stability.curve(scored.iou, scored.image_ids, config.seed)
            split = stability.variance_split(scored.iou, scored.image_ids)
            _write(job.model, found, table, curve, split, scored)
        tracking.log_table("variations", table)
        tracking.log_metrics({"examine/objects": len(found.object_ids), "examine/mean_hi": table["mean_hi"][0]})
        if split.share is not None:
            tracking.log_metrics({"examine/share_between_layers": split.share})
        tracking.log_files(layout.examination(job.model))
    return _tell(job.model, found, table, curve, split, run_id)


def _examine(config: Config, job: Job, engine: Engine, everything: Sequence[Sample], kept: Kept) -> Examination:
    settings = config.impact
    return examine(
        engine,
        draw_images(everything, config.examine.images, config.seed),
        variations.variations(settings.mask_threshold),
        everything,
        ChanceSettings(settings.mask_threshold, settings.chance_draws, config.seed),
        lambda items, total, what: track(items, total, f"{what} {job.model}"),
        kept,
    )


def _write(
    model: str,
    found: Examination,
    table: pd.DataFrame,
    curve: pd.DataFrame,
    split: stability.VarianceSplit,
    scored: Impact,
) -> None:
    with atomic_folder(layout.examination(model)) as aside:
        table.to_csv(aside / "variations.csv", index=False)
        variations.heads_table(found.scores).to_csv(aside / "heads.csv", index=False)
        curve.to_csv(aside / "stability.csv", index=False)
        facts = {
            "model": model,
            "layers": scored.hi.shape[0],
            "heads": scored.hi.shape[1],
            "images": len(np.unique(scored.image_ids)),
            "objects": len(scored.object_ids),
            "examined_images": len(np.unique(found.image_ids)),
            "examined_objects": len(found.object_ids),
            "variance": asdict(split),
            "kruskal_wallis": kruskal_wallis(scored.hi).to_dict(),
        }
        write_json(aside / "variance.json", facts)
        figures.save(figures.stability(curve, model), aside / "stability.png")


def _tell(
    model: str,
    found: Examination,
    table: pd.DataFrame,
    curve: pd.DataFrame,
    split: stability.VarianceSplit,
    run_id: str,
) -> Summary:
    rows = table.set_index("variation")
    definition, others = rows.iloc[0], rows.iloc[1:]
    least = str(others["overlap"].idxmin())
    reasons = pd.Series([one.reason for one in found.skipped], dtype=str).value_counts()
    return Summary(
        f"examine {model}",
        [
            ("images, objects", f"{len(np.unique(found.image_ids))}, {len(found.object_ids)}"),
            (
                "best head's HI",
                f"{definition['best_hi']:.3f}; chance {definition['chance']:.3f}, centre blob {definition['blob']:.3f}",
            ),
            (
                "top layers",
                f"{definition['top']}; with {least} {others['top'][least]} ({others['overlap'][least]} the same)",
            ),
            *examined.images_enough(curve),
            ("variance", examined.split(asdict(split))),
        ],
        skipped=[(f"{n} objects", str(reason)) for reason, n in reasons.items()],
        files=[layout.examination(model)],
        run=run_id,
        next="headimpact report",
    )
