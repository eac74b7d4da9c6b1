"""Registering what was trained and evaluated, beside the original: from the files of the steps alone."""

import pandas as pd

from headimpact.evaluation import metrics
from headimpact.files import digest_file, read_json
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.serving import Limits
from headimpact.lifecycle.summary import Summary
from headimpact.selection.grammar import alias
from headimpact.statistics import Difference


def differences(model: str, setup: str) -> dict[str, Difference]:
    """The differences of a setup against the original; none for the original, or where that is not evaluated."""
    before = layout.evaluated_objects(model, "original")
    if setup == "original" or not before.exists():
        return {}
    return metrics.differences(pd.read_parquet(layout.evaluated_objects(model, setup)), pd.read_parquet(before))


def register(config: Config, job: Job, changes: dict[str, Difference]) -> int:
    """Log the rows of tables 4 and 5 and register the adapter in the open run; gives the version.

    An adapter that is registered already keeps its version, whose description is brought up to date.
    """
    results = read_json(layout.results(job.model, job.setup))
    row = {"model": job.model, "setup": job.setup} | {
        f"{name}{suffix}": value
        for name, estimate in results["metrics"].items()
        for suffix, value in (("", estimate["value"]), ("_se", estimate["se"]))
    }
    for name, change in changes.items():
        row |= {f"{name}_difference": change.value, f"{name}_low": change.low, f"{name}_high": change.high}
    tracking.log_table("table4", pd.DataFrame([row]))
    tracking.log_table("table5", pd.DataFrame([{"model": job.model, "setup": job.setup} | results["parameters"]]))
    limits = Limits(**config.serve.model_dump())
    return tracking.register(layout.adapter(job.model, job.setup), results, changes, limits)


def register_all(config: Config, model: str) -> Summary:
    """Register every adapter of a model that is trained and evaluated (``headimpact register``)."""
    rows, missing = [], []
    for weights in sorted(layout.FINETUNED.joinpath(model).glob("*/adapter/*.safetensors")):
        setup = read_json(weights.with_name("header.json"))["setup"]
        if not layout.results(model, setup).exists():
            missing.append((setup, f"not evaluated: headimpact evaluate --model {model} --setup {setup}"))
            continue
        changes = differences(model, setup)
        with tracking.run("register", model, setup, adapter_digest=digest_file(weights)):
            tracking.log_results(read_json(layout.results(model, setup)), changes)
            version = register(config, Job(model, setup), changes)
        rows.append((setup, f"{tracking.registered_name(model)} version {version}, alias {alias(setup)}"))
    return Summary(f"register {model}", rows or [("registered", "nothing: no adapter is trained")], missing)
