"""Let a setup answer: questions in every order of their options, and what it says in its own words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from headimpact import statistics
from headimpact.adapters import lora
from headimpact.data.samples import Sample
from headimpact.engine.phrases import batches
from headimpact.errors import InputError
from headimpact.evaluation import answers, orders
from headimpact.evaluation.questions import Question, draw_questions
from headimpact.files import atomic_folder, write_json
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.inputs import dataset_digest, draw_images, load_base, read_part
from headimpact.lifecycle.summary import Summary
from headimpact.report import gallery
from headimpact.vlm.base import Vlm

ORIGINAL = "original"
_TOLD = ("accuracy_24_orders", "accuracy_1_order", "order_dependent", "caption_f1_best", "cutout_f1")


def run(config: Config, job: Job) -> Summary:
    """Ask the original or an adapter about images of the test part, and compare it with the original."""
    before = None if job.setup == ORIGINAL else _read(job.model, ORIGINAL)
    with tracking.run("answer", job.model, job.setup) as run_id:
        vlm = load_base(config, job)
        if job.setup != ORIGINAL:
            lora.load(vlm, layout.adapter(job.model, job.setup))
        values = {"model": job.model, "setup": job.setup, "dataset": config.dataset, "seed": config.seed}
        tracking.log_parameters(values | {"answer": config.answer.model_dump()})
        tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), "test")
        samples = read_part("test")
        questions = draw_questions(samples, config.seed)
        asked = draw_images(samples, config.answer.images, config.seed)
        shown = draw_images(samples, min(config.answer.generated_images, config.answer.images), config.seed)
        found = _ask(config, job, vlm, asked, questions), _generate(config, job, vlm, shown)
        results = _results(job, found, before)
        _write(job, shown, found, results, before)
        _track(job, found, results)
    return _tell(job, results, run_id)


def _read(model: str, setup: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.read_parquet(layout.order_answers(model, setup)), pd.read_parquet(layout.generated(model, setup))


def _ask(
    config: Config, job: Job, vlm: Vlm, samples: Sequence[Sample], questions: Mapping[int, Question]
) -> pd.DataFrame:
    groups = list(batches(samples, config.answer.batch_images))
    what = f"asking {job.model} {job.setup} in {len(orders.ORDERS)} orders"
    found = [orders.ask_in_orders(vlm, group, questions) for group in track(groups, len(groups), what)]
    return orders.table(samples, questions, np.concatenate(found))


def _generate(config: Config, job: Job, vlm: Vlm, samples: Sequence[Sample]) -> pd.DataFrame:
    limit = config.answer.max_new_tokens
    followed = track(samples, len(samples), f"answers of {job.model} {job.setup}")
    generated = pd.concat([answers.answer_image(vlm, sample, limit) for sample in followed], ignore_index=True)
    groups = batches(samples, config.answer.batch_images)
    references = pd.concat([answers.reference_log_prob(vlm, group) for group in groups])
    return generated.join(references, on="object_id")


def _results(
    job: Job, found: tuple[pd.DataFrame, pd.DataFrame], before: tuple[pd.DataFrame, pd.DataFrame] | None
) -> dict[str, Any]:
    figures = _figures(found)
    estimates = {name: statistics.clustered_mean(v.to_numpy(), v.index.to_numpy()) for name, v in figures.items()}
    results: dict[str, Any] = {
        "model": job.model,
        "setup": job.setup,
        "metrics": {name: {"value": e.value, "se": e.se, "n": e.n} for name, e in estimates.items()},
    }
    if before is None:
        return results
    for mine, original in zip(found, before, strict=True):
        if mine["object_id"].tolist() != original["object_id"].tolist():
            raise InputError(f"The original was asked about other objects. Ask it again: answer --setup {ORIGINAL}.")
    differences = {
        name: statistics.paired_difference(figures[name].to_numpy(), values.to_numpy(), values.index.to_numpy())
        for name, values in _figures(before).items()
    }
    return results | {
        "against_original": {
            name: {"value": d.value, "low": d.low, "high": d.high, "p_value": d.p_value}
            for name, d in differences.items()
        }
    }


def _figures(found: tuple[pd.DataFrame, pd.DataFrame]) -> dict[str, pd.Series]:
    return orders.figures(found[0]) | answers.figures(found[1])


def _write(
    job: Job,
    shown: Sequence[Sample],
    found: tuple[pd.DataFrame, pd.DataFrame],
    results: Mapping[str, Any],
    before: tuple[pd.DataFrame, pd.DataFrame] | None,
) -> None:
    said = {} if before is None else {ORIGINAL: before[1]}
    page = gallery.html(f"What {job.model} says: {job.setup}", shown, said | {job.setup: found[1]})
    with atomic_folder(layout.answers(job.model, job.setup)) as aside:
        found[0].to_parquet(aside / "orders.parquet", index=False)
        found[1].to_parquet(aside / "generated.parquet", index=False)
        write_json(aside / "results.json", results)
        (aside / "gallery.html").write_text(page, encoding="utf-8")


def _track(job: Job, found: tuple[pd.DataFrame, pd.DataFrame], results: Mapping[str, Any]) -> None:
    tracking.log_results(results)
    tracking.log_table("orders", found[0])
    tracking.log_table("generated", found[1])
    tracking.log_files(*sorted(layout.answers(job.model, job.setup).iterdir()))


def _tell(job: Job, results: Mapping[str, Any], run_id: str) -> Summary:
    rows = []
    for name in _TOLD:
        estimate = results["metrics"][name]
        told = f"{estimate['value']:.3f} ± {estimate['se']:.3f} (n {estimate['n']})"
        if change := results.get("against_original", {}).get(name):
            told += f"; against the original {change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"
        rows.append((name.replace("_", " "), told))
    folder = layout.answers(job.model, job.setup)
    return Summary(
        f"answer {job.setup} of {job.model}",
        rows,
        files=[folder, folder / "gallery.html"],
        run=run_id,
        next="headimpact report",
    )
