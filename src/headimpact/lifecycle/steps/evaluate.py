"""Evaluate a setup on the test part, show it beside the original, and register its adapter."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from headimpact.adapters import lora
from headimpact.adapters.digest import adapter_digest
from headimpact.evaluation import metrics
from headimpact.evaluation.objects import evaluate
from headimpact.evaluation.questions import asked, draw_questions
from headimpact.files import atomic_folder, read_json, write_json
from headimpact.lifecycle import layout, registration, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.proposal import next_command
from headimpact.lifecycle.steps.adapter import load_adapter
from headimpact.lifecycle.steps.inputs import dataset_digest, load_engine, output_facts, read_part
from headimpact.lifecycle.steps.results import figures, flat, missing, questions, rows, share_done
from headimpact.lifecycle.summary import Summary
from headimpact.lifecycle.unrecorded import keep, restore
from headimpact.processes import launched
from headimpact.selection.grammar import is_softened
from headimpact.statistics import Difference


def run(config: Config, job: Job) -> Summary:
    """Write the results of every test object and what they amount to; a trained adapter is registered."""
    processes = launched(config.compute.device)
    folder, unrecorded = layout.evaluation(job.model, job.setup), layout.unrecorded(job.model, "evaluate", job.setup)
    facts = output_facts("evaluate", config, job) if processes.is_first else {}
    restored = processes.give(processes.is_first and restore(folder, unrecorded, facts))
    if not processes.is_first:
        if not restored:
            _evaluate(config, job)
        return share_done("evaluate", processes)
    weights = layout.adapter_weights(job.model, job.setup)
    digest = adapter_digest(weights.parent) if weights.exists() else None
    with tracking.run("evaluate", job.model, job.setup, adapter_digest=digest) as run_id:
        tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), "test")
        if restored:
            kept = "all results: they were computed before, and are recorded now"
        else:
            kept = _write(folder, *_evaluate(config, job))
            keep(folder, unrecorded, facts)
        objects = pd.read_parquet(layout.evaluated_objects(job.model, job.setup))
        results = read_json(layout.results(job.model, job.setup))
        differences = registration.differences(job.model, job.setup)
        tracking.log_results(results, differences)
        tracking.log_table("objects", objects)
        tracking.log_files(folder)
        version = registration.register(config, job, differences) if digest else None
    told = _summary(job, results, differences, version, kept, run_id)
    return replace(told, next=next_command(config, job.model))


def _write(folder: Path, objects: pd.DataFrame, results: dict[str, Any], kept: str) -> str:
    with atomic_folder(folder) as aside:
        objects.to_parquet(aside / "objects.parquet", index=False)
        write_json(aside / "results.json", results)
        write_json(aside / "metrics.json", flat(results))
    return kept


def _evaluate(config: Config, job: Job) -> tuple[pd.DataFrame, dict[str, Any], str]:
    engine = load_engine(config, job)
    vlm = engine.vlm
    header = load_adapter(engine, job) or {"layers": [], "trainable": 0}
    layers, trainable = header["layers"], header["trainable"]
    total = lora.count_parameters(vlm.model).total
    samples = read_part("test", engine)
    objects = evaluate(
        engine,
        samples,
        config.seed,
        lambda items, count, what: track(items, count, f"{what} {job.model} {job.setup}"),
    )
    results = {
        "model": job.model,
        "setup": job.setup,
        "layers": layers,
        "parameters": {"total": total, "trainable": trainable, "percent": 100 * trainable / total},
        "metrics": figures(metrics.estimates(objects)),
        **questions(asked(samples, draw_questions(samples, config.seed))),
    }
    return objects, results, engine.kept


def _summary(
    job: Job,
    results: Mapping[str, Any],
    differences: Mapping[str, Difference],
    version: int | None,
    kept: str,
    run_id: str,
) -> Summary:
    layers = [("layers", ", ".join(map(str, results["layers"])))] if results["layers"] else []
    labels = {name: metric.label for name, metric in metrics.COMPARED.items()}
    shown = [*layers, *rows(labels, results, differences)]
    counts = results["parameters"]
    if version is not None:
        shown.append(("trainable", f"{counts['trainable']:,} of {counts['total']:,} ({counts['percent']:.4f} %)"))
        shown += registration.registered_rows(job.model, job.setup, version)
    elif is_softened(job.setup):
        shown.append(("registered", "nothing: at scale 0 this is the original"))
    shown.append(("kept", kept))
    absent, folder = list(missing(job.setup, differences)), layout.evaluation(job.model, job.setup)
    return Summary(f"evaluate {job.setup} of {job.model}", shown, absent, [folder], run_id)
