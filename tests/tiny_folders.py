"""Folders of tiny models, as ``save_pretrained`` leaves them, to load and to spoil."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from family_facts import tiny
from safetensors.torch import load_file, save_file

from headimpact.tiny import bases
from headimpact.vlm.base import Vlm

INDEX = "model.safetensors.index.json"


@cache
def _root() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


@cache
def saved(family: str) -> Path:
    """The folder of the tiny model of a family, written once a process; to be left as it is."""
    folder = Path(_root().name) / family
    bases.save(tiny(family), folder)
    return folder


def copied(family: str, folder: Path) -> Path:
    """A copy of it in ``folder``, to be changed."""
    return Path(shutil.copytree(saved(family), folder / "checkpoint"))


def change(path: Path, **values: Any) -> None:
    """Set (or, with None, remove) keys of a JSON file."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def shard(folder: Path, parts: int = 3) -> list[str]:
    """Cut the weights into several files with an index, as large checkpoints are."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-{i + 1:05}-of-{parts:05}.safetensors" for i in range(parts)]
    owner = {key: names[i * parts // len(tensors)] for i, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({k: t for k, t in tensors.items() if owner[k] == name}, folder / name, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": owner}))
    return names


def same_weights(one: Vlm, other: Vlm) -> bool:
    left, right = one.model.state_dict(), other.model.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
