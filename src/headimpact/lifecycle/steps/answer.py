"""Let a setup answer: questions in every order of their options, and what it says in its own words."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine
from headimpact.evaluation import answers, beside_original, orders
from headimpact.evaluation.beside_original import Answers
from headimpact.evaluation.questions import Asked, Question, asked, draw_questions
from headimpact.files import atomic_folder, read_json, write_json
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.adapter import load_adapter
from headimpact.lifecycle.steps.inputs import dataset_digest, draw_images, load_engine, output_facts, read_part
from headimpact.lifecycle.steps.results import figures, missing, rows, share_done
from headimpact.lifecycle.steps.results import questions as told_questions
from headimpact.lifecycle.summary import Summary
from headimpact.lifecycle.unrecorded import keep, restore
from headimpact.processes import launched
from headimpact.report import gallery
from headimpact.statistics import Difference

ORIGINAL = "original"
_SHOWN = ("accuracy_24_orders", "accuracy_1_order", "order_dependent", "caption_f1_best", "cutout_f1")


def run(config: Config, job: Job) -> Summary:
    """Ask the original or an adapter about images of the test part, and show it beside the original."""
    processes = launched(config.compute.device)
    folder, unrecorded = layout.answers(job.model, job.setup), layout.unrecorded(job.model, "answer", job.setup)
    facts = output_facts("answer", config, job) if processes.is_first else {}
    restored = processes.give(processes.is_first and restore(folder, unrecorded, facts))
    if not processes.is_first:
        if not restored:
            _answer(config, job)
        return share_done("answer", processes)
    original = _read_original(job)
    with tracking.run("answer", job.model, job.setup) as run_id:
        values = {"model": job.model, "setup": job.setup, "dataset": config.dataset, "seed": config.seed}
        tracking.log_parameters(values | {"answer": config.answer.model_dump()})
        tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), "test")
        if restored:
            answered = _read(job.model, job.setup)
        else:
            answered, could_ask = _answer(config, job)
            _write(job, answered, _results(job, answered, could_ask))
            keep(folder, unrecorded, facts)
        results = read_json(layout.answer_results(job.model, job.setup))
        if original and not beside_original.comparable(answered, original):
            original = None  # of another dataset: ``dvc repro`` may come to a setup first
        differences = beside_original.differences(answered, original) if original else {}
        _track(job, _pictured(answered), answered, original, results, differences)
    return _summary(job, results, differences, run_id)


def _pictured(answered: Answers) -> list[Sample]:
    """The images of the answers in the model's own words."""
    ids = set(answered.generated["image_id"])
    return [sample for sample in read_part("test") if sample.id in ids]


def _answer(config: Config, job: Job) -> tuple[Answers, Asked]:
    """The answers, and what could be asked."""
    engine = load_engine(config, job)
    load_adapter(engine, job)
    samples = read_part("test", engine)
    questions = draw_questions(samples, config.seed)
    images = draw_images(samples, config.answer.images, config.seed)
    pictured = draw_images(samples, min(config.answer.generated_images, config.answer.images), config.seed)
    answered = Answers(_ask(job, engine, images, questions), _generate(config, job, engine, pictured))
    return answered, asked(images, questions)


def _read_original(job: Job) -> Answers | None:
    """What the original answered; None for itself, and where it was not asked yet."""
    there = [path(job.model, ORIGINAL).exists() for path in (layout.order_answers, layout.generated)]
    return _read(job.model, ORIGINAL) if job.setup != ORIGINAL and all(there) else None


def _read(model: str, setup: str) -> Answers:
    return Answers(pd.read_parquet(layout.order_answers(model, setup)), pd.read_parquet(layout.generated(model, setup)))


def _ask(job: Job, engine: Engine, samples: Sequence[Sample], questions: Mapping[int, Question]) -> pd.DataFrame:
    name = f"{job.model} {job.setup}"
    return orders.answer_questions(
        engine, samples, questions, watch=lambda items, total, what: track(items, total, f"{what}: {name}")
    )


def _generate(config: Config, job: Job, engine: Engine, samples: Sequence[Sample]) -> pd.DataFrame:
    name = f"{job.model} {job.setup}"
    generated = answers.answer_images(
        engine,
        samples,
        config.answer.max_new_tokens,
        watch=lambda items, total, what: track(items, total, f"{what}: {name}"),
    )
    return generated.join(answers.reference_log_prob(engine, samples), on="object_id")


def _results(job: Job, answered: Answers, asked: Asked) -> dict[str, Any]:
    return {
        "model": job.model,
        "setup": job.setup,
        "metrics": figures(beside_original.estimates(answered)),
        **told_questions(asked),
    }


def _write(job: Job, answered: Answers, results: Mapping[str, Any]) -> None:
    with atomic_folder(layout.answers(job.model, job.setup)) as aside:
        answered.orders.to_parquet(aside / "orders.parquet", index=False)
        answered.generated.to_parquet(aside / "generated.parquet", index=False)
        write_json(aside / "results.json", results)


def _track(
    job: Job,
    pictured: Sequence[Sample],
    answered: Answers,
    original: Answers | None,
    results: Mapping[str, Any],
    differences: Mapping[str, Difference],
) -> None:
    generated = ({ORIGINAL: original.generated} if original else {}) | {job.setup: answered.generated}
    tracking.log_text(gallery.html(f"What {job.model} says: {job.setup}", pictured, generated), "gallery.html")
    tracking.log_results(results, differences)
    tracking.log_table("orders", answered.orders)
    tracking.log_table("generated", answered.generated)
    tracking.log_files(*sorted(layout.answers(job.model, job.setup).iterdir()))


def _summary(job: Job, results: Mapping[str, Any], differences: Mapping[str, Difference], run_id: str) -> Summary:
    return Summary(
        f"answer {job.setup} of {job.model}",
        rows({name: name.replace("_", " ") for name in _SHOWN}, results, differences),
        list(missing(job.setup, differences)),
        files=[layout.answers(job.model, job.setup)],
        run=run_id,
        next="headimpact report",
    )
