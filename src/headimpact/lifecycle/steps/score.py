"""Score every attention head: Head Impact and what puts it into proportion."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine
from headimpact.engine.portions import Kept
from headimpact.files import atomic_folder, digest_file, write_json
from headimpact.impact.head_impact import Impact
from headimpact.impact.kruskal_wallis import kruskal_wallis
from headimpact.impact.scoring import ChanceSettings, Skipped, score_images
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.proposal import finetune_command
from headimpact.lifecycle.steps.inputs import dataset_digest, kept_portions, load_engine, read_part
from headimpact.lifecycle.steps.results import MOST_ROWS, share_done, write_frames, write_table
from headimpact.lifecycle.summary import Summary
from headimpact.processes import launched
from headimpact.report import figures


def run(config: Config, job: Job) -> Summary:
    """Compute the HI table of a model on the impact part."""
    processes = launched(config.compute.device)
    if not processes.is_first:
        engine = load_engine(config, job)
        samples = read_part("impact", engine)
        with kept_portions("score", config, job, engine) as kept:
            _score(config, job, engine, samples, kept)
        return share_done("score", processes)
    digest = dataset_digest()
    with tracking.run("score", job.model) as run_id:
        engine = load_engine(config, job)
        samples = read_part("impact", engine)
        vlm = engine.vlm
        tracking.log_parameters(
            {
                "model": job.model,
                "source": vlm.source,
                "revision": vlm.revision,
                "dataset": config.dataset,
                "seed": config.seed,
                "impact": config.impact.model_dump(),
            }
        )
        tracking.log_dataset(config.dataset, layout.DATASET, digest, "impact")
        with kept_portions("score", config, job, engine) as kept:
            impact, left_out = _score(config, job, engine, samples, kept)
            facts = {
                "model": job.model,
                "dataset": config.dataset,
                "dataset_digest": digest,
                "base_digest": vlm.digest,
                "images": len(set(impact.image_ids.tolist())),
            }
            skipped = pd.DataFrame(left_out, columns=["image_id", "object_id", "reason"])
            summary = _write(layout.impact(job.model), impact, skipped, facts)
        _track(job.model, impact, summary)
    told = _tell(job.model, impact, summary, skipped, engine.kept, run_id)
    return replace(told, next=finetune_command(config, job.model))


def _score(
    config: Config, job: Job, engine: Engine, samples: Sequence[Sample], kept: Kept
) -> tuple[Impact, list[Skipped]]:
    settings = config.impact
    chance = ChanceSettings(settings.mask_threshold, settings.chance_draws, config.seed)
    return score_images(
        engine, samples, chance, lambda items, total, what: track(items, total, f"{what} {job.model}"), kept
    )


def _write(folder: Path, impact: Impact, skipped: pd.DataFrame, facts: dict) -> dict:
    table = impact.table()
    with atomic_folder(folder) as aside:
        write_table(aside / "impact.csv", table)
        write_frames(aside / "objects.parquet", (part.objects_frame() for part in impact.portions(MOST_ROWS)))
        skipped.to_csv(aside / "skipped.csv", index=False)
        figures.save(figures.heatmap(table, facts["model"]), aside / "heatmap.png")
        figures.save(figures.layer_profile(table, facts["model"]), aside / "layers.png")
        figures.save(figures.head_profile(table, facts["model"]), aside / "heads.png")
        layers, heads = impact.hi.shape
        summary = facts | {
            "table_digest": digest_file(aside / "impact.csv"),
            "layers": layers,
            "heads": heads,
            "objects": len(impact.object_ids),
            "skipped": len(skipped),
            "kruskal_wallis": kruskal_wallis(impact.hi).to_dict(),
        }
        write_json(aside / "summary.json", summary)
    return summary


def _track(model: str, impact: Impact, summary: dict) -> None:
    table = impact.table()
    tracking.set_tags({"table_digest": summary["table_digest"], "base_digest": summary["base_digest"]})
    tracking.log_table("impact", table)
    best = table.iloc[int(table["hi"].to_numpy().argmax())]
    tests = summary["kruskal_wallis"]
    tracking.log_metrics(
        {
            "score/objects": summary["objects"],
            "score/skipped": summary["skipped"],
            "score/best_hi": best["hi"],
            "score/best_hi_chance": best["chance"],
            "score/kruskal_layers": tests["layers"]["statistic"],
            "score/kruskal_heads": tests["heads"]["statistic"],
        }
    )
    tracking.log_files(layout.impact(model))


def _tell(model: str, impact: Impact, summary: dict, skipped: pd.DataFrame, kept: str, run_id: str) -> Summary:
    table = impact.table()
    best = table.iloc[int(table["hi"].to_numpy().argmax())]
    scores = pd.Series(impact.layer_scores(), impact.layer_numbers)
    return Summary(
        f"score {model}",
        [
            ("images, objects", f"{summary['images']}, {summary['objects']}"),
            (
                "best head",
                f"layer {best['layer']:.0f} head {best['head']:.0f}: HI {best['hi']:.3f} ± {best['hi_se']:.3f}",
            ),
            (
                "its chance level",
                f"{best['chance']:.3f}" + _standard_errors(best["excess_z"]),
            ),
            (
                "layer means",
                f"from {scores.min():.3f} (layer {scores.idxmin()}) to {scores.max():.3f} (layer {scores.idxmax()})",
            ),
            ("kept", kept),
        ],
        skipped=[(f"{n} objects", str(reason)) for reason, n in skipped["reason"].value_counts().items()],
        files=[layout.impact(model)],
        run=run_id,
    )


def _standard_errors(excess: float) -> str:
    return "" if math.isnan(excess) else f" ({excess:.1f} standard errors below its HI)"
