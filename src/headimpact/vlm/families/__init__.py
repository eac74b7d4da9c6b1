"""Which family is a checkpoint of? One file a family, one line in ``FAMILIES``.

To add a family:

1. write its class, the abstract members of :class:`headimpact.vlm.base.Vlm`, in a file of its own here;
2. write its line in ``FAMILIES`` below;
3. give a tiny model of it and its facts in ``tests/facts/``; the contract tests then run on it.

A family is imported when a base of it is loaded, and not before; no result of another family becomes stale.
"""

import importlib
from typing import TYPE_CHECKING

from headimpact.errors import InputError
from headimpact.vlm.unsupported import REASONS

if TYPE_CHECKING:
    from headimpact.vlm.base import Vlm

FAMILIES = {
    "paligemma": "paligemma:PaliGemma2",
    "paligemma+gemma": "paligemma1:PaliGemma1",
    "qwen2_vl": "qwen2_vl:Qwen2Vl",
    "qwen2_5_vl": "qwen2_5_vl:Qwen25Vl",
    "qwen3_vl": "qwen3_vl:Qwen3Vl",
    "qwen3_5": "qwen3_5:Qwen35",
    "gemma3": "gemma3:Gemma3",
    "gemma4": "gemma4:Gemma4",
    "idefics3": "idefics3:Idefics3",
    "smolvlm": "smolvlm:SmolVlm2",
    "internvl": "internvl:InternVl3",
    "llava": "llava:Llava",
    "llava_next": "llava_next:LlavaNext",
    "mistral3": "mistral3:Mistral3",
    "glm4v": "glm4v:Glm4v",
}
"""By ``model_type`` of config.json: file and class. Where that type says too little, that of the decoder
follows a plus, and such an entry is taken before that of the type alone."""


def find(config: object) -> str | None:
    """The entry of ``FAMILIES`` for the content of a config.json; None: there is none."""
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        return None
    kind, text = config["model_type"], config.get("text_config")
    decoder = text.get("model_type") if isinstance(text, dict) else None
    return next((name for name in (f"{kind}+{decoder}", kind) if name in FAMILIES), None)


def family_name(source: str, config: object) -> str:
    """The same.

    Raises:
        InputError: there is no family of that type; where it is known why, with the reason.
    """
    name = find(config)
    if name is None:
        kind = config.get("model_type") if isinstance(config, dict) else None
        reason = f", which {REASONS[kind]}" if isinstance(kind, str) and kind in REASONS else ""
        raise InputError(
            f"{source} is not supported: its model type is {kind}{reason}; supported are {', '.join(sorted(FAMILIES))}."
        )
    return name


def family_class(name: str) -> "type[Vlm]":
    """The class of a family, by its name in ``FAMILIES``.

    Raises:
        KeyError: there is no such family.
    """
    module, kind = FAMILIES[name].split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), kind)
