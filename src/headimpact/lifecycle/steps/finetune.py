"""Fine-tune a setup: train an adapter on the selected layers, evaluate it against the original, register it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from peft import PeftModel

from headimpact import __version__, statistics
from headimpact.adapters import cell, lora
from headimpact.adapters.training import Record, TrainSettings
from headimpact.errors import InputError
from headimpact.files import atomic_folder, read_json, write_json
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.serving import Limits
from headimpact.lifecycle.steps.inputs import dataset_digest, load_base, read_part
from headimpact.lifecycle.summary import Summary
from headimpact.report import figures
from headimpact.selection.grammar import read_setup
from headimpact.selection.selection import Selection
from headimpact.vlm.base import Vlm

ORIGINAL = "original"


@dataclass(frozen=True)
class Trained:
    """A trained adapter and how it came about."""

    peft_model: PeftModel
    layers: list[int]
    history: list[Record]
    header: dict[str, Any]


def run(config: Config, job: Job) -> Summary:
    """Train (unless the setup is ``original``), evaluate on the test part, compare with the original, register."""
    with tracking.run("finetune", job.model, job.setup) as run_id:
        vlm = load_base(config, job)
        _log_inputs(config, job, vlm)
        trained = None if job.setup == ORIGINAL else _train(config, job, vlm)
        objects = cell.evaluate(vlm, read_part("test"), config.seed, config.evaluate.batch_images, _watch(job))
        before = None if trained is None else pd.read_parquet(layout.result_objects(job.model, ORIGINAL))
        results = _results(job, vlm, trained, objects, before)
        _write(job, trained, objects, results)
        version = _track(config, job, trained, objects, results)
    return _tell(job, results, version, run_id)


def _log_inputs(config: Config, job: Job, vlm: Vlm) -> None:
    values = {"model": job.model, "setup": job.setup, "source": vlm.source, "revision": vlm.revision}
    values |= {"dataset": config.dataset, "seed": config.seed}
    if job.setup != ORIGINAL:
        values |= {"lora": config.lora.model_dump(), "train": config.train.model_dump()}
    tracking.log_parameters(values)
    for part in ("test",) if job.setup == ORIGINAL else ("train", "val", "test"):
        tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), part)


def _train(config: Config, job: Job, vlm: Vlm) -> Trained:
    selected = read_json(layout.selection(job.model, job.setup))
    selection = Selection.from_dict(selected)
    settings = lora.LoraSettings(**config.lora.model_dump())
    chosen = cell.adapted(selection.layers, selection.heads, read_setup(job.setup).budget, settings.rank)
    header = {
        "base": job.model,
        "source": vlm.source,
        "revision": vlm.revision,
        "base_digest": vlm.digest,
        "dataset": config.dataset,
        "dataset_digest": dataset_digest(),
        "table_digest": selected["table_digest"],
        "setup": job.setup,
        "layers": list(chosen.layers),
        **({"heads": selected["heads"]} if selection.heads else {}),
        "code_version": __version__,
    }
    train = TrainSettings(**config.train.model_dump())
    fingerprint = cell.made_from(vlm, chosen, settings, train, header)
    parts = cell.Parts(read_part("train"), read_part("val"))
    checkpoint = layout.training_state(job.model, job.setup)
    peft_model, history = cell.train_adapter(vlm, chosen, settings, train, parts, checkpoint, fingerprint, _watch(job))
    return Trained(peft_model, list(chosen.layers), history, header)


def _watch(job: Job) -> cell.Watch:
    return lambda items, total, what: track(items, total, f"{what} {job.model} {job.setup}")


def _results(
    job: Job, vlm: Vlm, trained: Trained | None, objects: pd.DataFrame, before: pd.DataFrame | None
) -> dict[str, Any]:
    nll, images = objects["nll"].to_numpy(), objects["image_id"].to_numpy()
    estimates = {
        "perplexity": statistics.perplexity(nll, images),
        "accuracy": statistics.clustered_mean(objects["correct"].to_numpy(), images),
        "ans_prob": statistics.clustered_mean(objects["ans_prob"].to_numpy(), images),
        "token_nll": statistics.token_nll(nll, objects["tokens"].to_numpy(), images),
    }
    counts = lora.count_parameters(vlm.model)
    trainable = 0 if trained is None else counts.trainable
    results = {
        "model": job.model,
        "setup": job.setup,
        "layers": [] if trained is None else trained.layers,
        "parameters": {
            "total": counts.total,
            "trainable": trainable,
            "percent": 100 * trainable / counts.total,
        },
        "metrics": {name: {"value": e.value, "se": e.se, "n": e.n} for name, e in estimates.items()},
    }
    return results if before is None else results | {"against_original": _compare(objects, before)}


def _compare(objects: pd.DataFrame, before: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Paired differences, adapter minus original."""
    if objects["object_id"].tolist() != before["object_id"].tolist():
        raise InputError("The original was evaluated on other objects. Evaluate it again: finetune --setup original.")
    images = objects["image_id"].to_numpy()
    columns = {"accuracy": "correct", "ans_prob": "ans_prob"}
    differences = {
        name: statistics.paired_difference(objects[column].to_numpy(), before[column].to_numpy(), images)
        for name, column in columns.items()
    }
    differences["perplexity"] = statistics.paired_perplexity_difference(
        objects["nll"].to_numpy(), before["nll"].to_numpy(), images
    )
    return {
        name: {"value": d.value, "low": d.low, "high": d.high, "p_value": d.p_value} for name, d in differences.items()
    }


def _write(job: Job, trained: Trained | None, objects: pd.DataFrame, results: Mapping[str, Any]) -> None:
    records = [] if trained is None else [asdict(record) for record in trained.history]
    history = pd.DataFrame(records, columns=["step", "epoch", "metric", "value"])
    with atomic_folder(layout.finetune(job.model, job.setup)) as aside:
        if trained is not None:
            lora.save(trained.peft_model, aside / "adapter", trained.header)
            figures.save(figures.history(history, f"{job.model} {job.setup}"), aside / "history.png")
        history.to_csv(aside / "history.csv", index=False)
        objects.to_parquet(aside / "objects.parquet", index=False)
        write_json(aside / "results.json", results)
    # Only now is the training state of no more use.
    layout.training_state(job.model, job.setup).unlink(missing_ok=True)


def _track(
    config: Config, job: Job, trained: Trained | None, objects: pd.DataFrame, results: Mapping[str, Any]
) -> int | None:
    tracking.log_results(results)
    tracking.log_table("objects", objects)
    tracking.log_files(layout.finetune(job.model, job.setup))
    if trained is None:
        return None
    tracking.log_history(pd.read_csv(layout.history(job.model, job.setup)))
    tracking.set_tags({"layers": ",".join(map(str, trained.layers))})
    tracking.link_score(job.model, trained.header["table_digest"])
    tracking.log_files(layout.impact(job.model))
    tracking.log_table("table4", pd.DataFrame([_table4_row(results)]))
    tracking.log_table("table5", pd.DataFrame([{"model": job.model, "setup": job.setup} | results["parameters"]]))
    return tracking.register(layout.adapter(job.model, job.setup), results, Limits(**config.serve.model_dump()))


def _table4_row(results: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"model": results["model"], "setup": results["setup"]}
    for name, estimate in results["metrics"].items():
        row |= {name: estimate["value"], f"{name}_se": estimate["se"]}
    for name, difference in results["against_original"].items():
        row |= {f"{name}_difference": difference["value"], f"{name}_low": difference["low"]}
        row[f"{name}_high"] = difference["high"]
    return row


def _tell(job: Job, results: Mapping[str, Any], version: int | None, run_id: str) -> Summary:
    rows = []
    for name in ("perplexity", "accuracy", "ans_prob"):
        estimate = results["metrics"][name]
        told = f"{estimate['value']:.3f} ± {estimate['se']:.3f} (n {estimate['n']})"
        if change := results.get("against_original", {}).get(name):
            told += f"; against the original {change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"
        rows.append((name, told))
    counts = results["parameters"]
    next_command = "headimpact finetune --setup top-4"
    if version is not None:
        rows.insert(0, ("layers", ", ".join(map(str, results["layers"]))))
        rows.append(("trainable", f"{counts['trainable']:,} of {counts['total']:,} ({counts['percent']:.4f} %)"))
        name = f"head-impact-{job.model}"
        rows.append(("registered", f"{name} version {version}, alias {tracking.alias(job.setup)}"))
        next_command = f"mlflow models serve -m models:/{name}@{tracking.alias(job.setup)} --env-manager local -p 5001"
    folder: Path = layout.finetune(job.model, job.setup)
    return Summary(f"finetune {job.setup} of {job.model}", rows, files=[folder], run=run_id, next=next_command)
