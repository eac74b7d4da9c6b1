"""Resumable training state as safetensors: tensors, optimizer moments and a fingerprint of what is trained."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headimpact.errors import InputError
from headimpact.files import atomic_file

_OPTIMIZER = "optimizer."


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer | None,
    state: Mapping[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the safetensors file.
        tensors: parameters by name.
        optimizer: its per-parameter state is kept by parameter index.
        state: everything else, as JSON (step, history, fingerprint, ...).
    """
    flat = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    if optimizer is not None:
        for index, entry in optimizer.state_dict()["state"].items():
            flat |= {f"{_OPTIMIZER}{index}.{key}": value.detach().cpu().contiguous() for key, value in entry.items()}
    with atomic_file(path) as aside:
        save_file(flat, aside, metadata={"state": json.dumps(state)})


def load(path: Path) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]], dict[str, Any]]:
    """Read a checkpoint: parameters, optimizer state by parameter index, and the rest.

    Raises:
        InputError: the file is not a checkpoint.
    """
    tensors: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as stream:
            state = json.loads(stream.metadata()["state"])
            for name in stream.keys():  # noqa: SIM118 (not a mapping)
                if name.startswith(_OPTIMIZER):
                    index, key = name.removeprefix(_OPTIMIZER).split(".")
                    moments.setdefault(int(index), {})[key] = stream.get_tensor(name)
                else:
                    tensors[name] = stream.get_tensor(name)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a training checkpoint ({error}); delete it to start over.") from None
    return tensors, moments, state


def restore_optimizer(optimizer: torch.optim.Optimizer, moments: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Put saved per-parameter state back into an optimizer over the same parameters in the same order."""
    state = optimizer.state_dict()
    state["state"] = {index: dict(entry) for index, entry in moments.items()}
    optimizer.load_state_dict(state)
