"""One file a family, one line in ``FAMILIES``.

To add a family: write its class (the abstract members of :class:`headimpact.vlm.base.Vlm`) in a file of its own here,
and its line below. Nothing is imported before a base of that family is loaded, and no result of another family becomes
stale.
"""

import importlib

from headimpact.vlm.base import Vlm

FAMILIES = {
    "paligemma": "paligemma:PaliGemma2",
    "qwen2_vl": "qwen2_vl:Qwen2Vl",
    "idefics3": "idefics3:Idefics3",
}
"""By ``model_type`` of config.json: file and class."""


def family_class(model_type: str) -> type[Vlm]:
    """The class of a family.

    Raises:
        KeyError: there is no such family.
    """
    module, name = FAMILIES[model_type].split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
