"""Pretrain a tiny base on generated scenes."""

import time
from dataclasses import asdict

import pandas as pd
import torch

from headimpact.errors import InputError
from headimpact.files import atomic_folder, write_json
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.summary import Summary
from headimpact.lifecycle.unrecorded import when_recorded
from headimpact.report import figures
from headimpact.tiny import bases, pretraining


def run(config: Config, job: Job) -> Summary:
    """Pretrain through all phases, from the last checkpoint if there is one, and write the base."""
    if job.model not in bases.TINY:
        raise InputError(f"{job.model} is no embedded base: only {', '.join(bases.TINY)} are pretrained here.")
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    recipe = pretraining.Recipe(**config.pretrain.model_dump(exclude={"models"}))
    started = time.monotonic()
    with tracking.run("pretrain", job.model) as run_id:
        tracking.log_parameters({"model": job.model, "pretrain": config.pretrain.model_dump(exclude={"models"})})
        vlm = bases.build(job.model, recipe.seed)
        checkpoint = layout.pretraining_state(job.model)
        training = pretraining.Pretraining(vlm, recipe, checkpoint)
        steps = recipe.language_steps + recipe.vision_steps + recipe.joint_steps
        losses = (measured for measured in training.run() if measured.metric == "loss")
        for _ in track(losses, steps, f"pretraining {job.model}"):
            pass
        curve = pd.DataFrame([asdict(measured) for measured in training.history])
        folder = layout.base(job.model)
        with atomic_folder(folder) as aside:
            bases.save(vlm, aside)
            write_json(aside / "recipe.json", asdict(recipe))
            curve.to_csv(aside / "learning_curve.csv", index=False)
            figures.save(figures.learning_curve(curve, job.model), aside / "learning_curve.png")
        when_recorded(lambda: checkpoint.unlink(missing_ok=True))
        minutes = (time.monotonic() - started) / 60
        tracking.log_metrics({"pretrain/minutes": minutes})
        tracking.log_files(folder)
    last = curve[curve["phase"] == "joint"].groupby("metric")["value"].last()
    rows = [(str(metric), f"{value:.3f}") for metric, value in last.items()]
    rows.append(("minutes since the start or the last checkpoint", f"{minutes:.1f}"))
    return Summary(
        f"pretrain {job.model}",
        rows,
        files=[folder],
        run=run_id,
        next=f"headimpact score --model {job.model}",
    )
