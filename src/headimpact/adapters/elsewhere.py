"""An adapter's choice of modules as text to paste elsewhere: PEFT's LoraConfig, and the options of usual trainers.

All of these trainers hand their target modules to PEFT: LLaMA-Factory full names, separated by commas (its
``src/llamafactory/model/adapter.py``), ms-swift and axolotl a regular expression (``target_regex`` in
``swift/llm/argument/tuner_args.py``, ``lora_target_modules`` in ``src/axolotl/utils/schemas/peft.py``). None of them
has an option for PEFT's ``rank_pattern``.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LAYER = re.compile(r"(?P<before>.*\.layers)\.(?P<layer>\d+)\.(?P<after>.*)")
_METHODS = {
    "use_dora": ("use_dora: true", "--use_dora true", "peft_use_dora: true"),
    "use_rslora": ("use_rslora: true", "--use_rslora true", "peft_use_rslora: true"),
}


@dataclass(frozen=True)
class Snippet:
    """Something to paste: where, the text, and what it cannot say there (empty: it says all)."""

    where: str
    text: str
    limits: str = ""


def target_regex(names: Iterable[str]) -> str:
    r"""A regular expression that the full names match and nothing else does, as PEFT matches ``target_modules``.

    As in ``model\.text_model\.layers\.(0|3)\.(self_attn\.k_proj|self_attn\.q_proj)``.
    """
    ordered = sorted(names, key=_order)
    parts = [match.groups() for name in ordered if (match := _LAYER.fullmatch(name))]
    befores, layers, afters = (
        (list(dict.fromkeys(column)) for column in zip(*parts, strict=True)) if parts else ([],) * 3
    )
    if len(befores) != 1 or len(set(ordered)) != len(parts) or len(parts) != len(layers) * len(afters):
        return "|".join(map(re.escape, ordered))
    after = "|".join(map(re.escape, sorted(afters)))
    return rf"{re.escape(befores[0])}\.({'|'.join(layers)})\.({after})"


def _order(name: str) -> tuple[str, int, str]:
    match = _LAYER.fullmatch(name)
    return (match["before"], int(match["layer"]), match["after"]) if match else (name, 0, "")


def snippets(config: Mapping[str, Any]) -> list[Snippet]:
    """The choice of an adapter, for PEFT and for trainers.

    Args:
        config: an adapter's configuration by PEFT's names, as adapter_config.json has it: ``target_modules`` with full
            names, ``r``, ``lora_alpha``, ``lora_dropout``, ``rank_pattern``, ``alpha_pattern`` with a full name (as a
            regular expression) for each rank, ``use_dora``, ``use_rslora``.
    """
    names = sorted(config["target_modules"], key=_order)
    regex = target_regex(names)
    rank, alpha, limits = _one_rank(config, names)
    numbers = {"rank": rank, "alpha": f"{alpha:g}", "dropout": f"{config['lora_dropout']:g}"}
    methods = [words for key, words in _METHODS.items() if config.get(key)]
    factory, swift, axolotl = ([words[place] for words in methods] for place in range(3))
    return [
        Snippet("PEFT (python)", _python(config, regex)),
        Snippet(
            "LLaMA-Factory (YAML)",
            "\n".join(
                [
                    "finetuning_type: lora",
                    "lora_rank: {rank}\nlora_alpha: {alpha}\nlora_dropout: {dropout}".format(**numbers),
                    *factory,
                    f"lora_target: {','.join(names)}",
                ]
            ),
            limits,
        ),
        Snippet(
            "ms-swift (command line)",
            " ".join(
                [
                    "--lora_rank {rank} --lora_alpha {alpha} --lora_dropout {dropout}".format(**numbers),
                    *swift,
                    f"--target_regex '{regex}'",
                ]
            ),
            limits,
        ),
        Snippet(
            "axolotl (YAML)",
            "\n".join(
                [
                    "adapter: lora",
                    "lora_r: {rank}\nlora_alpha: {alpha}\nlora_dropout: {dropout}".format(**numbers),
                    *axolotl,
                    f"lora_target_modules: '{regex}'",
                ]
            ),
            limits,
        ),
    ]


def _python(config: Mapping[str, Any], regex: str) -> str:
    lines = [
        f"r={config['r']},",
        f"lora_alpha={config['lora_alpha']},",
        f"lora_dropout={config['lora_dropout']},",
        'bias="none",',
        f'target_modules=r"{regex}",',
        *(f"{key}=True," for key in _METHODS if config.get(key)),
    ]
    for name in ("rank_pattern", "alpha_pattern"):
        by_value: dict[float, list[str]] = defaultdict(list)
        for pattern, value in config[name].items():
            by_value[value].append(_unescaped(pattern))
        if by_value:
            lines += [f"{name}={{", *(f'    r"{target_regex(found)}": {value},' for value, found in by_value.items())]
            lines.append("},")
    return "\n".join(
        ["from peft import LoraConfig", "", "config = LoraConfig(", *(f"    {line}" for line in lines), ")"]
    )


def _unescaped(pattern: str) -> str:
    return re.sub(r"\\(.)", r"\1", pattern)


def _one_rank(config: Mapping[str, Any], names: Sequence[str]) -> tuple[int, float, str]:
    """Rank and alpha for a trainer that has one of each, and what that leaves out."""
    ranks = {_unescaped(pattern): rank for pattern, rank in config["rank_pattern"].items()}
    if not ranks:
        return config["r"], float(config["lora_alpha"]), ""
    given = [ranks.get(name, config["r"]) for name in names]
    rank = max(1, round(sum(given) / len(given)))
    share = rank / config["r"]
    alpha = config["lora_alpha"] * (math.sqrt(share) if config.get("use_rslora") else share)
    ends = f"{min(given)}" if min(given) == max(given) else f"{min(given)} to {max(given)}"
    exact = min(given) == max(given) == rank
    limits = f"one rank for all modules, {rank}, in the place of {ends}: it has no option for PEFT's rank_pattern"
    return rank, alpha, "" if exact else limits
