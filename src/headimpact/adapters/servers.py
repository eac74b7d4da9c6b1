"""Would a server take an adapter? Found out from its files and the base's small ones, without weights or a server.

After vLLM 0.33 (``vllm/lora``): it goes by the names of the tensors, renames them as it renames its base's weights, and
passes over what matches none of its modules without a word, so that the base answers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import nn

from headimpact.errors import InputError
from headimpact.files import read_json_object
from headimpact.vlm.base import Vlm
from headimpact.vlm.layers import PROJECTIONS

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of vLLM's ``--max-lora-rank``."""
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight")
# Where transformers' decoder stands in vLLM's model; those of Idefics3 and SmolVLM2 stand alike in both.
_RENAMED = ("model.language_model.", "language_model.model.")


@dataclass(frozen=True)
class Fit:
    """How an adapter fits a base and a server.

    Attributes:
        tensors: how many it has.
        in_base: how many belong to a module of the base, by name and shape.
        on_server: how many the server would find a module for.
        rank: the largest.
        problems: what a server would refuse, skip or compute otherwise; a sentence each.
    """

    tensors: int
    in_base: int
    on_server: int
    rank: int
    problems: tuple[str, ...]

    @property
    def max_rank(self) -> int:
        """What vLLM's ``--max-lora-rank`` has to be; 0 where no value is large enough."""
        return next((rank for rank in RANKS if rank >= self.rank), 0)


def fit(vlm: Vlm, folder: Path) -> Fit:
    """Hold an adapter in PEFT format to a base, with or without weights (:func:`headimpact.vlm.loading.skeleton`).

    Raises:
        InputError: the folder is no adapter, or its files are damaged.
    """
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise InputError(f"{folder} is no adapter: it has no {SAFETENSORS_WEIGHTS_NAME}.")
    config, shapes = (
        read_json_object(folder / CONFIG_NAME, "r", "lora_alpha"),
        _shapes(folder / SAFETENSORS_WEIGHTS_NAME),
    )
    modules = _decoder_modules(vlm)
    served = {_server_name(name) for name in modules}
    strange = [name for name, shape in shapes.items() if not _fits(name, shape, modules)]
    skipped = [name for name in shapes if _server_name(_module(name) or name) not in served]
    ranks = [shape[0] for name, shape in shapes.items() if ".lora_A." in name]
    rank = max([config.get("r") or 0, *(config.get("rank_pattern") or {}).values(), *ranks])
    problems = [*_unmatched(vlm, strange, skipped, len(shapes)), *refusals(config, rank)]
    return Fit(len(shapes), len(shapes) - len(strange), len(shapes) - len(skipped), rank, tuple(problems))


def _unmatched(vlm: Vlm, strange: list[str], skipped: list[str], count: int) -> list[str]:
    problems = []
    if not count:
        problems.append("it has no tensors: the base answers")
    if strange:
        problems.append(f"{len(strange)} of {count} tensors belong to no module of {vlm.source}, as {strange[0]}")
    if skipped:
        problems.append(f"vLLM would skip {len(skipped)} of {count} tensors without a word, as {skipped[0]}")
    return problems


def refusals(config: Mapping[str, Any], rank: int) -> list[str]:
    """What vLLM refuses, or would compute otherwise, by the content of adapter_config.json and the largest rank."""
    refused = []
    if rank > RANKS[-1]:
        refused.append(f"rank {rank}: vLLM takes {RANKS[-1]} at most")
    if config.get("use_dora"):
        refused.append("DoRA (lora.method dora): vLLM refuses it")
    if config.get("modules_to_save"):
        refused.append(f"modules_to_save ({', '.join(config['modules_to_save'])}): vLLM refuses it")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        refused.append("trained biases: vLLM refuses them")
    if not _scaled_alike(config):
        refused.append("its modules are scaled differently (alpha_pattern), and vLLM scales all by lora_alpha and r")
    return refused


def _scaled_alike(config: Mapping[str, Any]) -> bool:
    """Every module's update is multiplied by the same number."""
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    power = 0.5 if config.get("use_rslora") else 1
    r, alpha = config["r"], config["lora_alpha"]
    scales = [alphas.get(name, alpha) / ranks.get(name, r) ** power for name in {*ranks, *alphas}]
    return all(abs(scale * r**power - alpha) <= 1e-6 * abs(alpha) for scale in scales)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as stream:
            return {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}).") from None


def _decoder_modules(vlm: Vlm) -> dict[str, nn.Linear]:
    """The projections of the base's language model, by name."""
    start = f"{vlm.decoder_path}.layers."
    return {
        name: module
        for name, module in vlm.model.named_modules()
        if name.startswith(start) and isinstance(module, nn.Linear) and name.rpartition(".")[2] in PROJECTIONS
    }


def _module(tensor: str) -> str | None:
    found = _TENSOR.fullmatch(tensor)
    return found["module"] if found else None


def _fits(tensor: str, shape: tuple[int, ...], modules: Mapping[str, nn.Linear]) -> bool:
    found = _TENSOR.fullmatch(tensor)
    module = modules.get(found["module"]) if found else None
    if found is None or module is None or len(shape) != 2:
        return False
    return shape[1] == module.in_features if found["matrix"] == "A" else shape[0] == module.out_features


def _server_name(module: str) -> str:
    """A module's name on vLLM, which maps checkpoints' names by their beginning."""
    ours, theirs = _RENAMED
    return theirs + module.removeprefix(ours) if module.startswith(ours) else module
