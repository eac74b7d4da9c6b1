"""Evaluate a setup on the test part, show it beside the original, and register its adapter."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from headimpact.adapters import lora
from headimpact.evaluation import metrics
from headimpact.evaluation.objects import evaluate
from headimpact.files import atomic_folder, digest_file, read_json, write_json
from headimpact.lifecycle import layout, registration, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.inputs import dataset_digest, load_base, read_part
from headimpact.lifecycle.summary import Summary
from headimpact.selection.grammar import alias
from headimpact.statistics import Difference


def run(config: Config, job: Job) -> Summary:
    """Write the results of every test object and what they amount to; a trained adapter is registered."""
    weights = layout.adapter_weights(job.model, job.setup)
    digest = digest_file(weights) if weights.exists() else None
    with tracking.run("evaluate", job.model, job.setup, adapter_digest=digest) as run_id:
        tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), "test")
        objects, results = _evaluate(config, job)
        with atomic_folder(layout.evaluation(job.model, job.setup)) as aside:
            objects.to_parquet(aside / "objects.parquet", index=False)
            write_json(aside / "results.json", results)
        differences = registration.differences(job.model, job.setup)
        tracking.log_results(results, differences)
        tracking.log_table("objects", objects)
        tracking.log_files(layout.evaluation(job.model, job.setup))
        version = registration.register(config, job, differences) if digest else None
    return _summary(job, results, differences, version, run_id)


def _evaluate(config: Config, job: Job) -> tuple[pd.DataFrame, dict[str, Any]]:
    vlm = load_base(config, job)
    header: dict[str, Any] = {"layers": [], "trainable": 0}
    if layout.adapter(job.model, job.setup).exists():
        lora.load(vlm, layout.adapter(job.model, job.setup))
        header = read_json(layout.adapter(job.model, job.setup) / lora.HEADER)
    layers, trainable = header["layers"], header["trainable"]
    total = lora.count_parameters(vlm.model).total
    objects = evaluate(
        vlm,
        read_part("test"),
        config.seed,
        config.evaluate.batch_images,
        lambda items, count, what: track(items, count, f"{what} {job.model} {job.setup}"),
    )
    results = {
        "model": job.model,
        "setup": job.setup,
        "layers": layers,
        "parameters": {"total": total, "trainable": trainable, "percent": 100 * trainable / total},
        "metrics": {
            name: {"value": estimate.value, "se": estimate.se, "n": estimate.n}
            for name, estimate in metrics.estimates(objects).items()
        },
    }
    return objects, results


def _summary(
    job: Job,
    results: Mapping[str, Any],
    differences: Mapping[str, Difference],
    version: int | None,
    run_id: str,
) -> Summary:
    rows = [("layers", ", ".join(map(str, results["layers"])))] if results["layers"] else []
    for name, metric in metrics.COMPARED.items():
        estimate = results["metrics"][name]
        text = f"{estimate['value']:.3f} ± {estimate['se']:.3f} (n {estimate['n']})"
        if difference := differences.get(name):
            text += f"; against the original {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        rows.append((metric.label, text))
    counts, following = results["parameters"], f"headimpact finetune --model {job.model}"
    if version is not None:
        name, its_alias = tracking.registered_name(job.model), alias(job.setup)
        rows.append(("trainable", f"{counts['trainable']:,} of {counts['total']:,} ({counts['percent']:.4f} %)"))
        rows.append(("registered", f"{name} version {version}, alias {its_alias}"))
        following = f"mlflow models serve -m models:/{name}@{its_alias} --env-manager local -p 5001"
    compared = differences or job.setup == "original"
    missing = [] if compared else [("comparison", "the original is not evaluated yet")]
    folder = layout.evaluation(job.model, job.setup)
    return Summary(f"evaluate {job.setup} of {job.model}", rows, missing, [folder], run_id, following)
