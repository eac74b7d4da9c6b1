"""Registering what was trained and evaluated, beside the original: from the files of the steps alone."""

import os
from collections.abc import Mapping
from typing import Any

import pandas as pd

from headimpact.adapters.digest import adapter_digest
from headimpact.adapters.lora import HEADER
from headimpact.evaluation import metrics
from headimpact.evaluation.beside_original import same_objects
from headimpact.evaluation.questions import QUESTIONS
from headimpact.files import read_json
from headimpact.lifecycle import experiment, layout, tracking, versions
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.serving import Limits
from headimpact.lifecycle.summary import Summary
from headimpact.selection.grammar import alias
from headimpact.statistics import Difference


def differences(model: str, setup: str) -> dict[str, Difference]:
    """The differences of a setup against the original.

    There are none for the original itself, and where it is not evaluated, or on other objects: ``dvc repro`` may come
    to a setup first.
    """
    before = layout.evaluated_objects(model, "original")
    if setup == "original" or not before.exists():
        return {}
    objects, original = pd.read_parquet(layout.evaluated_objects(model, setup)), pd.read_parquet(before)
    return metrics.differences(objects, original) if same_objects(objects, original) else {}


def register(config: Config, job: Job, changes: dict[str, Difference]) -> int | None:
    """Log the rows of tables 4 and 5 and register the adapter in the open run; gives the version.

    An adapter that is registered already keeps its version, whose description is brought up to date. One that was
    softened to scale 0 is the original, and is not registered: None. The alias of the setup moves to the version unless
    :func:`why_no_alias` says why not.
    """
    results, adapter = read_json(layout.results(job.model, job.setup)), layout.adapter(job.model, job.setup)
    row = {"model": job.model, "setup": job.setup} | {
        f"{name}{suffix}": value
        for name, estimate in results["metrics"].items()
        for suffix, value in (("", estimate["value"]), ("_se", estimate["se"]))
    }
    for name, change in changes.items():
        row |= {f"{name}_difference": change.value, f"{name}_low": change.low, f"{name}_high": change.high}
    tracking.log_table("table4", pd.DataFrame([row]))
    tracking.log_table("table5", pd.DataFrame([{"model": job.model, "setup": job.setup} | results["parameters"]]))
    header = read_json(adapter / HEADER)
    if header.get("scale") == 0:
        return None
    why = why_no_alias(job.model, job.setup)
    text = description(header, results, changes, why)

    def example() -> list[dict[str, str]]:
        from headimpact.lifecycle.input_example import input_example  # imports torch

        return input_example(job.model, job.setup, header["source"], header["revision"])

    limits = Limits(**config.serve.model_dump())
    return versions.register(adapter, text, limits, with_alias=why is None, example=example)


def why_no_alias(model: str, setup: str) -> str | None:
    """Why the alias of a setup does not move to its adapter: it was made with other values than those of params.yaml,
    or in an experiment of DVC, or is no better than the original on the validation part. None: it moves."""
    history = layout.history(model, setup)
    rows = pd.read_csv(history) if history.exists() else pd.DataFrame()
    records = [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
    header, trial = read_json(layout.adapter(model, setup) / HEADER), os.environ.get(tracking.TRIAL)
    return experiment.why_no_alias(header, records, trial)


def registered_rows(model: str, setup: str, version: int) -> list[tuple[str, str]]:
    """Rows of a summary: the version and its alias; where it has none, why, and the command that moves it."""
    name, why = versions.registered_name(model), why_no_alias(model, setup)
    if why is None:
        return [("registered", f"{name} version {version}, alias {alias(setup)}")]
    return [
        ("registered", f"{name} version {version}; the alias {alias(setup)} does not move to it: {why}"),
        ("to move it", experiment.move_alias(name, setup, version)),
    ]


def description(
    header: Mapping[str, Any],
    results: Mapping[str, Any],
    changes: Mapping[str, Difference],
    why_no_alias: str | None = None,
) -> str:
    """Of a version, in Markdown: what was trained, how it did on the test part, and what to send it.

    Args:
        header: of the adapter.
        results: content of results.json.
        changes: against the original, by metric; empty where they are not known.
        why_no_alias: see :func:`why_no_alias`.
    """
    rows = []
    for metric, estimate in results["metrics"].items():
        change = changes.get(metric)
        told = f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})" if change else ""
        rows.append(f"| {metric} | {estimate['value']:.3f} ± {estimate['se']:.3f} | {told} |")
    layers = ", ".join(map(str, header["layers"]))
    scaled = f", scaled to {header['scale']:g} of what was trained" if "scale" in header else ""
    return "\n".join(
        [
            f"{header['setup']} of {header['base']}: LoRA on layers {layers}{scaled}, dataset {header['dataset']}.",
            *([f"Not the version of the alias: {why_no_alias}."] if why_no_alias else []),
            "",
            "| test metric | value ± standard error | change against the original |",
            "|---|---|---|",
            *rows,
            "",
            *([f"Questions: {results[QUESTIONS]['told']}.", ""] if QUESTIONS in results else []),
            "Input: `image` (base64 or data URI; PNG, JPEG or WebP) and `prompt`. Output: `text`.",
        ]
    )


def register_all(config: Config, model: str) -> Summary:
    """Register every adapter of a model that is trained and evaluated (``headimpact register``)."""
    rows, missing = [], []
    for weights in sorted(layout.FINETUNED.joinpath(model).glob("*/adapter/*.safetensors")):
        setup = read_json(weights.with_name(HEADER))["setup"]
        if not layout.results(model, setup).exists():
            missing.append((setup, f"not evaluated: headimpact evaluate --model {model} --setup {setup}"))
            continue
        changes = differences(model, setup)
        with tracking.run("register", model, setup, adapter_digest=adapter_digest(weights.parent)):
            tracking.log_results(read_json(layout.results(model, setup)), changes)
            version = register(config, Job(model, setup), changes)
        if version is None:
            missing.append((setup, "softened to scale 0, it is the original"))
            continue
        (_, first), *more = registered_rows(model, setup, version)
        rows += [(setup, first), *((f"{setup}, {what}", text) for what, text in more)]
    nothing = [("registered", "nothing" if missing else "nothing: no adapter is trained")]
    return Summary(f"register {model}", rows or nothing, missing)
