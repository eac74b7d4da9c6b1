"""Let a setup answer: questions in every order of their options, and what it says in its own words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from headimpact.adapters import lora
from headimpact.data.coco import Sample
from headimpact.engine.phrases import batches
from headimpact.evaluation import answers, beside_original, orders
from headimpact.evaluation.beside_original import Answers
from headimpact.evaluation.questions import Question, draw_questions
from headimpact.files import atomic_folder, write_json
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.inputs import dataset_digest, draw_images, load_base, read_part
from headimpact.lifecycle.summary import Summary
from headimpact.report import gallery
from headimpact.statistics import Difference
from headimpact.vlm.base import Vlm

ORIGINAL = "original"
_SHOWN = ("accuracy_24_orders", "accuracy_1_order", "order_dependent", "caption_f1_best", "cutout_f1")


def run(config: Config, job: Job) -> Summary:
    """Ask the original or an adapter about images of the test part, and show it beside the original."""
    original = _read_original(job)
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
        pictured = draw_images(samples, min(config.answer.generated_images, config.answer.images), config.seed)
        answered = Answers(_ask(config, job, vlm, asked, questions), _generate(config, job, vlm, pictured))
        results = _results(job, answered)
        _write(job, pictured, answered, results, original)
        differences = beside_original.differences(answered, original) if original else {}
        _track(job, answered, results, differences)
    return _summary(job, results, differences, run_id)


def _read_original(job: Job) -> Answers | None:
    """What the original answered; None for itself, and where it was not asked yet."""
    paths = layout.order_answers(job.model, ORIGINAL), layout.generated(job.model, ORIGINAL)
    if job.setup == ORIGINAL or not all(path.exists() for path in paths):
        return None
    return Answers(*map(pd.read_parquet, paths))


def _ask(
    config: Config, job: Job, vlm: Vlm, samples: Sequence[Sample], questions: Mapping[int, Question]
) -> pd.DataFrame:
    groups = list(batches(samples, config.answer.batch_images))
    what = f"asking {job.model} {job.setup} in {len(orders.ORDERS)} orders"
    log_probs = [orders.ask_in_orders(vlm, group, questions) for group in track(groups, len(groups), what)]
    return orders.table(samples, questions, np.concatenate(log_probs))


def _generate(config: Config, job: Job, vlm: Vlm, samples: Sequence[Sample]) -> pd.DataFrame:
    limit = config.answer.max_new_tokens
    followed = track(samples, len(samples), f"answers of {job.model} {job.setup}")
    generated = pd.concat([answers.answer_image(vlm, sample, limit) for sample in followed], ignore_index=True)
    groups = batches(samples, config.answer.batch_images)
    references = pd.concat([answers.reference_log_prob(vlm, group) for group in groups])
    return generated.join(references, on="object_id")


def _results(job: Job, answered: Answers) -> dict[str, Any]:
    return {
        "model": job.model,
        "setup": job.setup,
        "metrics": {
            name: {"value": estimate.value, "se": estimate.se, "n": estimate.n}
            for name, estimate in beside_original.estimates(answered).items()
        },
    }


def _write(
    job: Job, pictured: Sequence[Sample], answered: Answers, results: Mapping[str, Any], original: Answers | None
) -> None:
    generated = {ORIGINAL: original.generated} if original else {}
    generated |= {job.setup: answered.generated}
    page = gallery.html(f"What {job.model} says: {job.setup}", pictured, generated)
    with atomic_folder(layout.answers(job.model, job.setup)) as aside:
        answered.orders.to_parquet(aside / "orders.parquet", index=False)
        answered.generated.to_parquet(aside / "generated.parquet", index=False)
        write_json(aside / "results.json", results)
        (aside / "gallery.html").write_text(page, encoding="utf-8")


def _track(job: Job, answered: Answers, results: Mapping[str, Any], differences: Mapping[str, Difference]) -> None:
    tracking.log_results(results, differences)
    tracking.log_table("orders", answered.orders)
    tracking.log_table("generated", answered.generated)
    tracking.log_files(*sorted(layout.answers(job.model, job.setup).iterdir()))


def _summary(job: Job, results: Mapping[str, Any], differences: Mapping[str, Difference], run_id: str) -> Summary:
    rows = []
    for name in _SHOWN:
        estimate = results["metrics"][name]
        text = f"{estimate['value']:.3f} ± {estimate['se']:.3f} (n {estimate['n']})"
        if difference := differences.get(name):
            text += f"; against the original {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        rows.append((name.replace("_", " "), text))
    compared = differences or job.setup == ORIGINAL
    missing = [] if compared else [("comparison", "the original was not asked yet")]
    folder = layout.answers(job.model, job.setup)
    return Summary(
        f"answer {job.setup} of {job.model}",
        rows,
        missing,
        files=[folder, folder / "gallery.html"],
        run=run_id,
        next="headimpact report",
    )
