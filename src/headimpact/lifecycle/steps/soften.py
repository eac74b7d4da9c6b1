"""Soften a trained adapter: scale it down until it forgets little enough, decided on the validation part."""

from typing import Any

import pandas as pd

from headimpact.adapters import softening
from headimpact.adapters.digest import adapter_digest
from headimpact.adapters.softening import FORGETTING, Choice
from headimpact.engine.watch import Watch
from headimpact.evaluation.metrics import METRICS
from headimpact.files import atomic_folder
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.adapter import load_adapter
from headimpact.lifecycle.steps.inputs import dataset_digest, load_engine, read_part
from headimpact.lifecycle.steps.results import share_done
from headimpact.lifecycle.summary import Summary
from headimpact.processes import launched
from headimpact.report import scales_figure
from headimpact.report.rows import records
from headimpact.selection.grammar import softened

_GAIN = METRICS["perplexity"]


def run(config: Config, job: Job) -> Summary:
    """Write the adapter at the scale that was chosen, and gain and forgetting at every scale."""
    processes = launched(config.compute.device)
    adapter, bound = layout.adapter(job.model, job.setup), config.forgetting.bound
    if not processes.is_first:
        _evaluate(config, job)
        return share_done("soften", processes)
    softening.check(adapter)
    setup = softened(job.setup)
    with tracking.run("soften", job.model, setup) as run_id:
        values = {"model": job.model, "setup": setup, "dataset": config.dataset, "seed": config.seed}
        tracking.log_parameters(values | {"forgetting": config.forgetting.model_dump()})
        tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), "val")
        objects, header, kept = _evaluate(config, job)
        scales = softening.curve(objects)
        choice = softening.choose(scales, bound)
        header |= {"setup": setup, "scale": choice.scale, "bound": bound}
        with atomic_folder(layout.softening(job.model, job.setup)) as aside:
            softening.save(adapter, aside / "adapter", choice.scale, header)
            scales.to_csv(aside / layout.scales(job.model, job.setup).name, index=False)
            objects.to_parquet(aside / layout.scaled_objects(job.model, job.setup).name, index=False)
        _track(job, scales, choice, header)
    return Summary(
        f"soften {job.setup} of {job.model}",
        [*_rows(scales), *_verdict(choice, bound), *_caution(scales, bound), ("kept", kept)],
        files=[layout.softening(job.model, job.setup)],
        run=run_id,
        next=f"headimpact evaluate --model {job.model} --setup {setup}",
    )


def _evaluate(config: Config, job: Job) -> tuple[pd.DataFrame, dict[str, Any], str]:
    """The results of every validation object at every scale, the header of the adapter, and what was kept."""
    engine = load_engine(config, job)
    header = load_adapter(engine, job)
    assert header is not None  # the original is refused before a file is read
    engine.first = min(header["layers"])

    def watch(scale: float) -> Watch:
        return lambda items, total, what: track(items, total, f"{what} {job.model} {job.setup} at scale {scale:g}")

    return softening.evaluate_scales(engine, read_part("val"), config.seed, watch), header, engine.kept


def _track(job: Job, scales: pd.DataFrame, choice: Choice, header: dict[str, Any]) -> None:
    adapter = layout.adapter(job.model, softened(job.setup))
    tracking.log_metrics({"soften/scale": choice.scale, "soften/scale_by_estimate": choice.by_estimate})
    tracking.log_table("scales", scales)
    drawn = {f"{job.model} {job.setup}": scales_figure.Panel(scales, header["bound"], choice.scale)}
    tracking.log_figure(scales_figure.draw(drawn), "scales.png")
    tracking.log_files(layout.softening(job.model, job.setup))
    tags = {"layers": ",".join(map(str, header["layers"])), "adapter_digest": adapter_digest(adapter)}
    tracking.set_tags(tags | {"scale": choice.scale})
    tracking.link_score(job.model, header["table_digest"])


def _rows(scales: pd.DataFrame) -> list[tuple[str, str]]:
    """A row a scale: gain and forgetting on the validation part, against the original."""
    return [
        (
            f"scale {row['scale']:g}",
            "; ".join(
                f"{metric.label} {row[name]:.3f} ({row[f'{name}_difference']:+.3f} "
                f"[{row[f'{name}_low']:+.3f}, {row[f'{name}_high']:+.3f}])"
                for name, metric in ((metric.name, metric) for metric in (_GAIN, FORGETTING))
            ),
        )
        for row in records(scales)
    ]


def _verdict(choice: Choice, bound: float) -> list[tuple[str, str]]:
    """What was chosen and by what, and what the estimates alone would have chosen."""
    if choice.scale == 0:
        chosen = (
            f"0, which is the original: at no scale above 0 can it be claimed that the {FORGETTING.label} stays within "
            f"{bound:g} of the original's. Train it anew against forgetting: --train.kl 0.1"
        )
    else:
        chosen = (
            f"{choice.scale:g}, the largest up to which the interval of the {FORGETTING.label} stays within {bound:g} "
            "of the original's (forgetting.bound)"
        )
    return [("chosen scale", chosen), ("by the estimates alone", f"{choice.by_estimate:g}")]


def _caution(scales: pd.DataFrame, bound: float) -> list[tuple[str, str]]:
    """That the bound cannot be broken, where the original has no more to lose than it allows."""
    if softening.can_forget(scales, bound):
        return []
    told = f"the {FORGETTING.label} of the original on the validation part is no more than {bound:g}"
    return [("nothing to forget", f"{told}, so that no scale can lose more: the choice says nothing of forgetting")]
