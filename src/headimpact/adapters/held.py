"""An adapter is held to its header: the file that it was trained into is the file that is loaded.

PEFT takes what it finds: tensors that are missing stay at their first values, those that fit nothing are left out, and
a changed rank, alpha or list of modules makes another adapter, all without a word.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file

from headimpact.errors import InputError
from headimpact.files import digest_file, read_json, write_json
from headimpact.text import listed

HEADER = "header.json"
LORA = "lora"
"""The header's entry for what PEFT's config says that decides what the adapter does."""
TENSORS = "tensors_digest"
"""The header's entry for the SHA-256 of the file of tensors."""
# What PEFT's config says that decides nothing: where the base lies, what the adapter is for, who wrote it, and what
# belongs to methods that are switched off.
_LABELS = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
)


def record(folder: Path, header: Mapping[str, Any]) -> None:
    """Write the header of an adapter, with what the adapter beside it is held to.

    Args:
        folder: with the files of PEFT.
        header: what else is known of the adapter.
    """
    write_json(folder / HEADER, {**header, **_facts(folder)})


def check(folder: Path) -> dict[str, Any]:
    """Hold an adapter to its header, and give the header.

    Raises:
        InputError: the folder is no adapter, its header is of a version that did not hold it, or the adapter is another
            one than its header says, with the difference.
    """
    missing = [name for name in (HEADER, CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} is no adapter: it lacks {', '.join(missing)}. Run finetune to make one.")
    header = read_json(folder / HEADER)
    if not isinstance(header, dict):
        raise InputError(f"{folder / HEADER} is no header of an adapter. Run finetune to make the adapter again.")
    if not isinstance(header.get(LORA), dict) or TENSORS not in header:
        raise InputError(
            f"The adapter in {folder} was made before adapters were held to their headers: its header lacks {LORA} and "
            f"{TENSORS}. Run finetune to make it again."
        )
    if differences := list(_differences(folder, header)):
        raise InputError(
            f"The adapter in {folder} is not the one that its {HEADER} is of: {listed(differences)}. Put the right "
            "files back, or run finetune to make it again."
        )
    return header


def _facts(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG_NAME)
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG_NAME} is no configuration of PEFT.")
    decisive = {name: value for name, value in config.items() if name not in _LABELS and value}
    return {LORA: decisive, TENSORS: digest_file(folder / SAFETENSORS_WEIGHTS_NAME)}


def _differences(folder: Path, header: Mapping[str, Any]) -> Iterator[str]:
    """What is not as the header says, in words."""
    facts = _facts(folder)
    here, held = facts[LORA], header[LORA]
    for name in sorted({*here, *held}):
        if here.get(name) != held.get(name):
            yield _difference(name, here.get(name), held.get(name))
    tensors = _tensors(folder)
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        yield "some of its tensors are not finite"
    if facts[TENSORS] != header[TENSORS]:
        modules = held.get("target_modules") or []
        without = [name for name in modules if not any(f".{name}." in tensor for tensor in tensors)]
        some = f" ({len(without)} of {len(modules)} modules have none)" if without else ""
        yield f"it has other tensors{some}"


def _difference(name: str, here: Any, held: Any) -> str:
    if isinstance(here, list) and isinstance(held, list):
        return f"{name} has {len(here)} entries and not the {len(held)} of the header"
    return f"{name} is {_short(here)} and not {_short(held)}"


def _short(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    except SafetensorError as error:
        raise InputError(f"The adapter in {folder} is damaged ({error}). Run finetune to make it again.") from None
