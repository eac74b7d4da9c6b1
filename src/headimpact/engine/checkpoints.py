"""Resumable training state as safetensors: tensors, optimizer moments and a fingerprint of what is trained."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headimpact.errors import InputError
from headimpact.files import atomic_file

_OPTIMIZER = "optimizer."

Moments = dict[int, dict[int, dict[str, Tensor]]]
"""State of optimizers: by optimizer, parameter index and name."""


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    state: Mapping[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the safetensors file.
        tensors: parameters by name.
        optimizers: their per-parameter state is kept by optimizer and parameter index.
        state: everything else, as JSON (step, history, fingerprint, ...).
    """
    flat = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    for number, optimizer in enumerate(optimizers):
        for index, entry in optimizer.state_dict()["state"].items():
            start = f"{_OPTIMIZER}{number}.{index}."
            flat |= {f"{start}{key}": value.detach().cpu().contiguous() for key, value in entry.items()}
    with atomic_file(path) as aside:
        save_file(flat, aside, metadata={"state": json.dumps(state)})


def load(path: Path) -> tuple[dict[str, Tensor], Moments, dict[str, Any]]:
    """Read a checkpoint: parameters, state of the optimizers, and the rest.

    Raises:
        InputError: the file is not a checkpoint.
    """
    tensors: dict[str, Tensor] = {}
    moments: Moments = {}
    try:
        with safe_open(path, framework="pt") as stream:
            state = json.loads(stream.metadata()["state"])
            for name in stream.keys():  # noqa: SIM118 (not a mapping)
                if name.startswith(_OPTIMIZER):
                    number, index, key = name.removeprefix(_OPTIMIZER).split(".")
                    entries = moments.setdefault(int(number), {})
                    entries.setdefault(int(index), {})[key] = stream.get_tensor(name)
                else:
                    tensors[name] = stream.get_tensor(name)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a training checkpoint ({error}); delete it to start over.") from None
    return tensors, moments, state


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], moments: Moments) -> None:
    """Put saved per-parameter state back into optimizers over the same parameters in the same order."""
    for number, entries in moments.items():
        state = optimizers[number].state_dict()
        state["state"] = {index: dict(entry) for index, entry in entries.items()}
        optimizers[number].load_state_dict(state)
