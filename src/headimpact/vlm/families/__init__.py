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

if TYPE_CHECKING:
    from headimpact.vlm.base import Vlm

FAMILIES = {
    "paligemma": "paligemma:PaliGemma2",
    "qwen2_vl": "qwen2_vl:Qwen2Vl",
    "qwen2_5_vl": "qwen2_5_vl:Qwen25Vl",
    "idefics3": "idefics3:Idefics3",
    "smolvlm": "smolvlm:SmolVlm2",
    "internvl": "internvl:InternVl3",
    "llava": "llava:Llava",
    "mistral3": "mistral3:Mistral3",
}
"""By ``model_type`` of config.json: file and class."""


def model_type(source: str, config: object) -> str:
    """The ``model_type`` of a checkpoint, from the content of its config.json.

    Raises:
        InputError: there is no family of that type.
    """
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(
            f"{source} is not supported: its model type is {kind}; supported are {', '.join(sorted(FAMILIES))}."
        )
    return kind


def family_class(kind: str) -> "type[Vlm]":
    """The class of the family of a ``model_type``.

    Raises:
        KeyError: there is no such family.
    """
    module, name = FAMILIES[kind].split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
