"""Head Impact: which layers of a vision-language model to fine-tune, answered from its attention.

``__all__`` is the library for a notebook (``api``, shown in ``docs/python.md``), which is imported when it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors: it takes seconds, and the steps do without
    from headimpact.api import (
        InputError,
        attention,
        heatmap,
        load_base,
        look,
        lora_config,
        make_samples,
        read_samples,
        score,
        select,
    )

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "attention",
    "heatmap",
    "load_base",
    "look",
    "lora_config",
    "make_samples",
    "read_samples",
    "score",
    "select",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("headimpact.api"), name)


def __dir__() -> list[str]:
    return ["__version__", *__all__]
