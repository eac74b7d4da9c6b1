"""What does not change while an adapter trains or is evaluated, computed once: in memory, then on disk."""

import hashlib
import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headimpact.files import atomic_file
from headimpact.vlm.base import Vlm

_NAME = "states"


@dataclass
class Memory:
    """A dictionary that takes no more than some bytes; what does not fit is not kept.

    Images come round epoch after epoch, so what is there stays: a cache that forgot the oldest would never hit.

    Attributes:
        most: bytes.
        used: bytes that are taken.
    """

    most: int
    used: int = 0
    _values: dict[Hashable, Any] = field(default_factory=dict)

    def get(self, key: Hashable) -> Any:
        """What is kept under a key, or None."""
        return self._values.get(key)

    def put(self, key: Hashable, value: Any, size: int) -> bool:
        """Keep a value of so many bytes; False if there is no room."""
        if self.used + size > self.most:
            return False
        self.used += size
        self._values[key] = value
        return True


class Disk:
    """Tensors in a folder, a file each, up to some bytes; a file is whole or not there.

    Args:
        folder: of one base, of one way to prepare images and of one precision (:func:`fingerprint`).
        most: bytes that all files of its parent folder may take.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        self.used = sum(path.stat().st_size for path in folder.parent.rglob("*.safetensors")) if most else 0

    def has(self, key: str) -> bool:
        """Whether something is kept under a key."""
        return self._path(key).is_file()

    def get(self, key: str) -> Tensor | None:
        """What is kept under a key; None where nothing is, or where it cannot be read."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            return load_file(path)[_NAME]
        except (SafetensorError, KeyError, OSError):
            return None

    def put(self, key: str, tensor: Tensor) -> bool:
        """Keep a tensor; False if there is no room."""
        if self.used + tensor.nbytes > self.most:
            return False
        with atomic_file(self._path(key)) as aside:
            save_file({_NAME: tensor.contiguous()}, aside)
        self.used += tensor.nbytes
        return True

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.safetensors"


@dataclass
class Frozen:
    """Tensors of images, by key.

    Attributes:
        memory: what is kept in memory.
        disk: what is kept beyond this process; None: nothing.
        computed: how many were not there and had to be computed.
        found: how many were there.
    """

    memory: Memory
    disk: Disk | None = None
    computed: int = 0
    found: int = 0

    def has(self, key: str) -> bool:
        """Whether something is kept under a key."""
        return self.memory.get(key) is not None or (self.disk is not None and self.disk.has(key))

    def get(self, key: str) -> Tensor | None:
        """What is kept under a key, or None."""
        tensor = self.memory.get(key)
        if tensor is None and self.disk is not None and (tensor := self.disk.get(key)) is not None:
            self.memory.put(key, tensor, tensor.nbytes)
        self.found += tensor is not None
        return tensor

    def put(self, key: str, tensor: Tensor, shared: bool) -> None:
        """Keep a tensor that was computed.

        Args:
            key: of its own within the base.
            tensor: on any device.
            shared: other processes of the same base will want it, so it goes to the disk, too; otherwise it does where
                memory is full.
        """
        self.computed += 1
        kept = tensor.detach().cpu()
        fits = self.memory.put(key, kept, kept.nbytes)
        if self.disk is not None and (shared or not fits):
            self.disk.put(key, kept)


def fingerprint(vlm: Vlm) -> str | None:
    """What a base's frozen tensors depend on beside the image: weights, image processor, precision, kind of device and
    version of the library; None where the weights are not known by a digest."""
    if not vlm.digest:
        return None
    facts = {
        "weights": vlm.digest,
        "images": json.loads(vlm.image_processor.to_json_string()),
        "dtype": str(vlm.model.dtype),
        "device": vlm.device.type,
        "versions": [torch.__version__, transformers.__version__],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
