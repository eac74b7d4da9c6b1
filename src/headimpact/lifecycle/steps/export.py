"""Export: a trained adapter as it is given away, with a model card; and its base with the adapter merged in."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

from headimpact.adapters import lora, merging, servers
from headimpact.adapters.servers import Fit
from headimpact.errors import InputError
from headimpact.files import atomic_folder, digest_file, read_json, read_json_object, write_json, write_text
from headimpact.lifecycle import layout, registration
from headimpact.lifecycle.card import PICTURE, Facts, card
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.summary import Summary
from headimpact.selection.grammar import ORIGINAL, alias, is_softened, trained
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm

TASK = "CAUSAL_LM"
"""What trainers and hubs ask of an adapter. It is not set where adapters are trained: PEFT's ``AutoPeftModel`` finds a
vision-language base only without it, and the adapters of the grid keep their bytes."""
_CARD = "README.md"
_IN_HEADER = ("base", "source", "revision", "base_digest", "dataset", "dataset_digest", "setup", "layers", "trainable")


def check(job: Job) -> Summary:
    """Tell what a server would make of an adapter.

    Raises:
        InputError: it would not use all of it as it was trained; or there is none.
    """
    folder = _adapter(job)
    fit = servers.fit(_skeleton(folder), folder)
    if fit.problems:
        raise InputError("\n".join([f"{folder}: a server would not use it as it was trained.", *fit.problems]))
    return Summary(f"export --check {job.setup} of {job.model}", _fit_rows(fit), files=[folder])


def run(config: Config, job: Job, merged: bool) -> Summary:
    """Write the delivered folder; with ``merged`` the merged weights beside it.

    Raises:
        InputError: there is no adapter, or merging changed what it computes.
    """
    source, delivered = _adapter(job), layout.delivered(job.model, job.setup)
    vlm = _skeleton(source)
    fit = servers.fit(vlm, source)
    facts = _facts(job, source, vlm)
    with atomic_folder(delivered / "adapter") as aside:
        _write_adapter(source, aside, facts)
    rows, files = _fit_rows(fit), [delivered / "adapter"]
    if merged:
        rows.append(("merged", _merge(config, source, delivered / "merged", facts)))
        files.append(delivered / "merged")
    skipped = [("on a server", problem) for problem in fit.problems]
    if facts.results is None:
        skipped.append(("figures", f"not evaluated: headimpact evaluate --model {job.model} --setup {job.setup}"))
    if not fit.problems:
        rows.append(("vLLM", _served(job, facts, fit, delivered / "adapter")))
    if not facts.on_hub:
        rows.append(("base", f"{facts.base} is a folder, which the card says: who gets the adapter alone needs it"))
    name = f"YOUR-NAME/{job.model}-{alias(job.setup)}"
    upload = [f"hf upload {name}{'-merged' * number} {folder.as_posix()}" for number, folder in enumerate(files)]
    return Summary(f"export {job.setup} of {job.model}", rows, skipped, files, next="\n".join(upload))


def _adapter(job: Job) -> Path:
    folder = layout.adapter(job.model, job.setup)
    if job.setup == ORIGINAL:
        raise InputError("original is the base as it is: there is nothing to deliver. Name another setup.")
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise InputError(f"There is no adapter in {folder}. {_making(job)}")
    if read_json_object(folder / lora.HEADER, *_IN_HEADER).get("scale") == 0:
        raise InputError(f"{job.setup} was softened to scale 0, where it is the original: there is nothing to deliver.")
    return folder


def _making(job: Job) -> str:
    step, setup = ("soften", trained(job.setup)) if is_softened(job.setup) else ("finetune", job.setup)
    return f"Make it: headimpact {step} --model {job.model} --setup {setup}"


def _skeleton(adapter: Path) -> Vlm:
    """The base of an adapter, without weights."""
    header = read_json_object(adapter / lora.HEADER, *_IN_HEADER)
    return loading.skeleton(header["source"], header["revision"])


def _facts(job: Job, adapter: Path, vlm: Vlm) -> Facts:
    header, results = read_json_object(adapter / lora.HEADER, *_IN_HEADER), layout.results(job.model, job.setup)
    original, table = layout.results(job.model, ORIGINAL), layout.impact_table(job.model)
    changes = registration.differences(job.model, job.setup) if results.exists() else {}
    pictured = (layout.impact(job.model) / PICTURE).exists() and table.exists()
    return Facts(
        header,
        read_json_object(adapter / CONFIG_NAME, "r", "lora_alpha", "target_modules"),
        vlm.layers,
        vlm.prompt_attention,
        read_json(results) if results.exists() else None,
        read_json(original) if changes else None,
        changes,
        _perplexity(layout.history(job.model, job.setup)),
        pictured and digest_file(table) == header.get("table_digest"),  # the table that its layers were chosen by
    )


def _perplexity(history: Path) -> tuple[float, float] | None:
    if not history.exists():
        return None
    rows = pd.read_csv(history)
    measured = rows[rows["metric"] == "val/perplexity"]
    before, after = measured[measured["step"] == 0]["value"], measured[measured["step"] > 0]["value"]
    return None if before.empty or after.empty else (float(before.iloc[0]), float(after.min()))


def _write_adapter(source: Path, folder: Path, facts: Facts) -> None:
    shutil.copyfile(source / SAFETENSORS_WEIGHTS_NAME, folder / SAFETENSORS_WEIGHTS_NAME)
    config: dict[str, Any] = {**facts.config, "task_type": TASK, "base_model_name_or_path": facts.base}
    write_text(folder / CONFIG_NAME, json.dumps(config, indent=2, sort_keys=True))  # as PEFT writes it
    write_json(folder / lora.HEADER, {**facts.header, "source": facts.base})
    _write_card(folder, facts)


def _write_card(folder: Path, facts: Facts) -> None:
    if facts.pictured:
        shutil.copyfile(layout.impact(facts.header["base"]) / PICTURE, folder / PICTURE)
    write_text(folder / _CARD, card(facts))


def _merge(config: Config, adapter: Path, folder: Path, facts: Facts) -> str:
    device, dtype = config.compute.device, config.compute.dtype
    vlm = loading.load(facts.header["source"], facts.header["revision"], device, dtype)
    with atomic_folder(folder) as aside:
        merged = merging.merge(vlm, adapter, aside, lambda written: loading.load(str(written), None, device, dtype))
        _write_card(aside, Facts(**{**vars(facts), "merged": True}))
    return (
        f"{str(merged.dtype).removeprefix('torch.')}; logits of a probe differ by {merged.difference:.1e} at most from "
        f"those of the adapter on its base, which itself changes them by up to {merged.effect:.1f}"
    )


def _fit_rows(fit: Fit) -> list[tuple[str, str]]:
    return [
        ("tensors", f"{fit.in_base} of {fit.tensors} belong to modules of the base"),
        ("under vLLM's names", f"{fit.on_server} of {fit.tensors}"),
        ("largest rank", str(fit.rank)),
    ]


def _served(job: Job, facts: Facts, fit: Fit, folder: Path) -> str:
    base = facts.base if facts.on_hub else facts.header["source"]
    lora_options = f"--enable-lora --max-lora-rank {fit.max_rank}"
    return f"vllm serve {base} {lora_options} --lora-modules {alias(job.setup)}={folder.as_posix()}"
