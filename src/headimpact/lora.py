"""LoRA on chosen layers of the language model: attach, check, save, load."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from torch import nn

from headimpact.errors import InputError
from headimpact.files import read_json, write_json
from headimpact.vlm import Vlm

HEADER = "header.json"


class DeadAdapterError(RuntimeError):
    """Training left an adapter without effect, or adapted other modules than meant: nothing to register."""


@dataclass(frozen=True)
class LoraSettings:
    """LoRA hyperparameters (paper, section 5.3): r 8, alpha 16 on the q, k and v projections."""

    rank: int
    alpha: int
    targets: Sequence[str]


@dataclass(frozen=True)
class Parameters:
    """Parameter counts as in table 5: the total includes the adapter's."""

    total: int
    trainable: int

    @property
    def percent(self) -> float:
        """Trainable share in percent."""
        return 100 * self.trainable / self.total


def target_modules(vlm: Vlm, layers: Sequence[int], targets: Sequence[str]) -> list[str]:
    """Full names of the projections to adapt.

    Full names, because PEFT's ``layers_to_transform`` with bare names adapts the vision tower, too.
    """
    return [f"{vlm.decoder_path}.layers.{layer}.self_attn.{target}" for layer in sorted(layers) for target in targets]


def adapted_modules(model: nn.Module) -> list[str]:
    """Names of the modules that carry a LoRA adapter, as they were called before PEFT wrapped the model."""
    return sorted(
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    )


def attach(vlm: Vlm, layers: Sequence[int], settings: LoraSettings, seed: int) -> PeftModel:
    """Put fresh LoRA adapters on ``layers`` and freeze everything else.

    The base's own modules are wrapped in place, so that ``vlm`` sees the adapter at once. Adapter weights are
    float32 whatever the base's precision (PEFT's ``autocast_adapter_dtype``).

    Raises:
        DeadAdapterError: PEFT adapted other modules than asked for.
    """
    names = target_modules(vlm, layers, settings.targets)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, bias="none", target_modules=names)
    with torch.random.fork_rng(devices=[]), _without_old_names():
        torch.manual_seed(seed)
        peft_model = get_peft_model(vlm.model, config)
    check_modules(peft_model, names)
    # PEFT holds a set, which is saved in another order by every process, and the folder that the base lies in.
    config.target_modules = sorted(names)
    config.base_model_name_or_path, config.revision = vlm.source, vlm.revision
    return peft_model


@contextmanager
def _without_old_names() -> Iterator[None]:
    """PEFT asks transformers for an attribute by its old name, of which transformers warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def check_modules(model: nn.Module, expected: Sequence[str]) -> None:
    """Raise ``DeadAdapterError`` unless exactly the ``expected`` modules are adapted."""
    found = adapted_modules(model)
    if found != sorted(expected):
        extra, missing = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
        raise DeadAdapterError(f"The adapted modules are not the chosen ones: extra {extra}, missing {missing}.")


def count_parameters(model: nn.Module) -> Parameters:
    """Total and trainable parameters of a model with its adapter."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return Parameters(sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable))


@contextmanager
def disabled(peft_model: PeftModel) -> Iterator[None]:
    """Within the block the model is the original."""
    with peft_model.disable_adapter():
        yield


def check_liveness(peft_model: PeftModel, expected: Sequence[str], changed_logits: float) -> None:
    """Refuse an adapter that was never trained.

    Args:
        peft_model: the trained model.
        expected: full names of the modules that should be adapted.
        changed_logits: largest absolute difference of a probe batch's logits with and without the adapter.

    Raises:
        DeadAdapterError: wrong modules, a ``lora_B`` that is still zero, or logits that did not move.
    """
    check_modules(peft_model, expected)
    still = [name for name, weight in peft_model.named_parameters() if "lora_B" in name and not weight.any()]
    if still:
        raise DeadAdapterError(f"{len(still)} lora_B matrices never moved from zero, the first is {still[0]}.")
    if not changed_logits > 0:
        raise DeadAdapterError("The adapter does not change the logits of the probe batch.")


def save(peft_model: PeftModel, folder: Path, header: Mapping[str, Any]) -> None:
    """Write the adapter in plain PEFT format, and its header beside it."""
    peft_model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    write_json(folder / HEADER, dict(header))


def load(vlm: Vlm, folder: Path) -> PeftModel:
    """Load an adapter onto the base it was trained on.

    Raises:
        InputError: the folder is no adapter or a damaged one, or it was trained on other weights (PEFT itself
            loads silently on same-shaped foreign weights).
    """
    missing = [n for n in (HEADER, CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME) if not (folder / n).is_file()]
    if missing:
        raise InputError(f"{folder} is no adapter: it lacks {', '.join(missing)}. Run finetune to make one.")
    header = read_json(folder / HEADER)
    if header.get("base_digest") != vlm.digest:
        trained_on = f"{header.get('source')} (weights {str(header.get('base_digest'))[:12]})"
        raise InputError(
            f"The adapter in {folder} was trained on {trained_on}, not on {vlm.source} (weights {vlm.digest[:12]}). "
            f"Load it on the base that it was trained on."
        )
    try:
        with _without_old_names():
            return PeftModel.from_pretrained(vlm.model, str(folder))
    except (SafetensorError, ValueError) as error:
        raise InputError(f"The adapter in {folder} is damaged ({error}). Run finetune to make it again.") from None
