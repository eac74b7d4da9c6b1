"""The model card of a delivered adapter: README.md, as the hub reads it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from headimpact.adapters.lora import Parameters
from headimpact.evaluation import metrics
from headimpact.statistics import Difference
from headimpact.vlm.packing import PromptAttention

PICTURE = "layers.png"


@dataclass(frozen=True)
class Facts:
    """What a card tells.

    Attributes:
        header: of the adapter.
        config: content of its adapter_config.json.
        layers: how many the base has.
        prompt_attention: of the base.
        results: content of results.json; None: it was not evaluated.
        original: the same of the original; None likewise.
        changes: adapter minus original, by metric; empty where they are not known.
        perplexity: on the validation part, before training and the best afterwards; None: not known.
        pictured: ``PICTURE`` lies beside the card.
        merged: it is the card of merged weights.
    """

    header: Mapping[str, Any]
    config: Mapping[str, Any]
    layers: int
    prompt_attention: PromptAttention
    results: Mapping[str, Any] | None = None
    original: Mapping[str, Any] | None = None
    changes: Mapping[str, Difference] | None = None
    perplexity: tuple[float, float] | None = None
    pictured: bool = False
    merged: bool = False

    @property
    def base(self) -> str:
        """The base's name on the hub, or that of its folder, without where this lies here."""
        return base_name(self.header)

    @property
    def on_hub(self) -> bool:
        """The base comes from the hub: a folder has no commit."""
        return self.header["revision"] is not None


def base_name(header: Mapping[str, Any]) -> str:
    """The base of an adapter by a name that means something elsewhere: on the hub, or that of its folder."""
    return header["source"] if header["revision"] else Path(header["source"]).name


def card(facts: Facts) -> str:
    """The card, in Markdown with front matter in YAML."""
    header = facts.header
    what = "Merged weights" if facts.merged else "A LoRA adapter"
    parts = [
        f"---\n{_front(facts)}\n---",
        f"# {header['setup']} of {header['base']}",
        f"{what} for `{facts.base}`, trained to describe single objects of an image. Adapted are "
        f"{len(header['layers'])} of the {facts.layers} layers of its language model: {_listed(header['layers'])}.",
        *([] if facts.on_hub or facts.merged else [_folder(facts)]),
        f"## How to load it\n\n{_loading(facts)}",
        f"## What was trained\n\n{_training(facts)}",
        *([_picture(facts)] if facts.pictured else []),
        f"## Gain and forgetting\n\n{_results(facts)}",
        f"## Data\n\n{_data(facts)}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _limits(facts)),
    ]
    return "\n\n".join(parts) + "\n"


def _front(facts: Facts) -> str:
    tags = ["head-impact", "vision-language-model", *([] if facts.merged else ["lora", "peft"])]
    extra: dict[str, Any] = {}
    if facts.on_hub:  # the hub takes no other name
        relation = "finetune" if facts.merged else "adapter"
        extra = {"base_model": facts.base, "base_model_relation": relation}
    library = "transformers" if facts.merged else "peft"
    data = ModelCardData(library_name=library, tags=tags, pipeline_tag="image-text-to-text", **extra)
    return data.to_yaml()


def _folder(facts: Facts) -> str:
    return (
        f"**Its base is a folder and no checkpoint of the hub**: `{facts.base}`, whose weights have the SHA-256 "
        f"`{facts.header['base_digest']}`. Whoever uses the adapter needs that folder; `base_model_name_or_path` in "
        "adapter_config.json has its name alone. If the hub has the same weights, write their name there and as "
        "`base_model` above; or deliver merged weights, which need no base."
    )


def _loading(facts: Facts) -> str:
    revision = f', revision="{facts.header["revision"]}"' if facts.on_hub else ""
    if facts.merged:
        lines = [
            "from transformers import AutoModelForImageTextToText",
            'model = AutoModelForImageTextToText.from_pretrained(".")  # this folder, or its name on the hub',
        ]
    else:
        lines = [
            "from peft import PeftModel; from transformers import AutoModelForImageTextToText",
            f'base = AutoModelForImageTextToText.from_pretrained("{facts.base}"{revision})',
            'model = PeftModel.from_pretrained(base, ".")  # this folder, or its name on the hub',
        ]
    of = "this folder" if facts.merged else "the base"
    return "\n".join(
        ["```python", *lines, "```", "", f"Tokenizer, image processor and chat template are those of {of}."]
    )


def _training(facts: Facts) -> str:
    header, config = facts.header, facts.config
    of_module = config.get("rank_pattern") or {}
    ranks = sorted({of_module.get(re.escape(name), config["r"]) for name in config["target_modules"]})
    targets = sorted({name.rpartition(".")[2] for name in config["target_modules"]})
    method = "DoRA" if config.get("use_dora") else "rank-stabilised LoRA" if config.get("use_rslora") else "LoRA"
    revision = f", revision `{header['revision']}`" if facts.on_hub else ""
    rows = [
        ("base", f"`{facts.base}`{revision}"),
        ("SHA-256 of its weights", f"`{header['base_digest']}`"),
        ("layers", f"{_listed(header['layers'])} of 0 to {facts.layers - 1}, as `{header['setup']}` selects them"),
        *([("heads", _listed(header["heads"]))] if header.get("heads") else []),
        ("method", f"{method} on {_listed(targets)}; rank {_listed(ranks)}, alpha {config['lora_alpha']}"),
    ]
    if "scale" in header:
        held = "the largest scale at which accuracy on the validation part can be said to fall by at most"
        rows.append(("scaled down", f"to {header['scale']:g} of what was trained, {held} {header['bound']:g}"))
    if facts.results:
        counts = Parameters(facts.results["parameters"]["total"], header["trainable"])
        rows.append(("parameters", f"{counts.trainable:,} trained, of {counts.total:,} ({counts.percent:.4f} %)"))
    if facts.perplexity:
        before, best = facts.perplexity
        rows.append(("perplexity on the validation part", f"{before:.3f} before training, {best:.3f} after"))
    if overrides := header.get("overrides"):
        rows.append(("other values than recorded", ", ".join(f"{n} {value}" for n, value in sorted(overrides.items()))))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])


def _picture(facts: Facts) -> str:
    return (
        f"## Where the base looks\n\n![Head Impact of every layer]({PICTURE})\n\nHead Impact says how well a layer's "
        "attention agrees with the masks of the objects that are described (IoU), beside its chance level: the same "
        "attention held to masks of other images."
    )


def _results(facts: Facts) -> str:
    if facts.results is None:
        return "Not measured."
    rows, changes = [], facts.changes or {}
    for name, metric in metrics.gain_first().items():
        if name not in facts.results["metrics"]:
            continue
        known = facts.original and name in facts.original["metrics"]
        before = _figure(facts.original["metrics"][name]) if facts.original and known else "not measured"
        change = changes.get(name)
        told = f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})" if change else "not measured"
        rows.append(
            f"| {metric.arrow} | {metric.aspect} | {before} | {_figure(facts.results['metrics'][name])} | {told} |"
        )
    n = max(estimate["n"] for estimate in facts.results["metrics"].values())
    return "\n".join(
        [
            "| | says | original | with the adapter | difference (95 % interval) |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"On {n} objects of the test part, ± standard error; differences are paired by object and clustered by "
            "image. Gain is the perplexity of the objects' descriptions; forgetting is what happened to questions "
            "with options, which were not trained.",
        ]
    )


def _figure(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3f} ± {estimate['se']:.3f}"


def _data(facts: Facts) -> str:
    name = Path(facts.header["dataset"]).name  # of one's own data a folder, whose place says nothing elsewhere
    return (
        f"`{name}`: images with a mask and a description of each object, in four parts by image: one for Head Impact, "
        f"and train, val and test. SHA-256 of all its files: `{facts.header['dataset_digest']}`."
    )


def _limits(facts: Facts) -> list[str]:
    limits = ["What was measured holds for images and descriptions like those of its data; nothing else was tried."]
    for name, change in (facts.changes or {}).items():
        metric = metrics.METRICS[name]
        worse = change.high < 0 if metric.higher_is_better else change.low > 0
        if worse:
            limits.append(f"It is worse than the original in {metric.label}: {change.value:+.3f}.")
    if not facts.merged:
        limits.append(
            "It fits those weights alone whose SHA-256 is given above; PEFT loads it on others without a word."
        )
        limits.append("On a server: `headimpact export --check` says which of its tensors vLLM would use.")
    if facts.prompt_attention is PromptAttention.PREFIX:
        limits.append(
            "Its base reads image and prompt in both directions. Servers that do so within the image alone (vLLM) give "
            "other answers than those measured."
        )
    limits.append("The licence and the known biases of its base hold for it, too.")
    return limits


def _listed(items: Sequence[Any]) -> str:
    return ", ".join(".".join(map(str, item)) if isinstance(item, list | tuple) else str(item) for item in items)
