"""LoRA on chosen layers of the language model, or on single heads of them: attach, check, save, load."""

import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from torch import Tensor, nn

from headimpact.adapters import held
from headimpact.errors import InputError
from headimpact.vlm.base import Vlm

HEADER = held.HEADER
_HELD = "rows_held_at_zero"  # on a lora_B of which only some rows may move: a mask of the others


class DeadAdapterError(RuntimeError):
    """Training left an adapter without effect, or adapted other modules than meant: nothing to register."""


@dataclass(frozen=True)
class LoraSettings:
    """LoRA hyperparameters (paper, section 5.3): r 8, alpha 16 on the q, k and v projections.

    Attributes:
        rank: of every update.
        alpha: an update is scaled by alpha / rank; with rslora by alpha / sqrt(rank).
        targets: projections of a layer, as in ``headimpact.vlm.layers.PROJECTIONS``.
        method: lora; dora (weight-decomposed, PEFT's ``use_dora``); rslora (rank-stabilised, PEFT's ``use_rslora``).
    """

    rank: int
    alpha: int
    targets: Sequence[str]
    method: str = "lora"


@dataclass(frozen=True)
class Parameters:
    """Parameter counts as in table 5: the total includes the adapter's; trainable are those that can move."""

    total: int
    trainable: int

    @property
    def percent(self) -> float:
        """Trainable share in percent."""
        return 100 * self.trainable / self.total


def adapted_modules(model: nn.Module) -> list[str]:
    """Names of the modules that carry a LoRA adapter, as they were called before PEFT wrapped the model."""
    return sorted(
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    )


def spread(layers: int, count: int, rank: int) -> dict[int, int]:
    """The rank of each of ``layers`` layers that together have the budget of ``count`` layers of ``rank``.

    As even as whole ranks allow, those that are one higher evenly spaced. A budget of less than rank 1 a layer pays
    for evenly spaced layers of rank 1; the others are not in the result.
    """
    budget = count * rank
    ranks = {layer: (layer + 1) * budget // layers - layer * budget // layers for layer in range(layers)}
    return {layer: share for layer, share in ranks.items() if share}


def peft_config(
    vlm: Vlm, layers: Sequence[int], settings: LoraSettings, ranks: Mapping[int, int] | None = None
) -> LoraConfig:
    """PEFT's configuration of LoRA on ``layers`` and nothing else. Arguments as for :func:`attach`."""
    names = vlm.projections(layers, settings.targets)
    own = {  # PEFT reads the names as regular expressions
        re.escape(name): rank
        for layer, rank in (ranks or {}).items()
        for name in vlm.projections([layer], settings.targets)
    }
    # What an update is multiplied by stays what it is.
    power = 0.5 if settings.method == "rslora" else 1
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=names,
        rank_pattern=dict(own),
        alpha_pattern={name: settings.alpha * (rank / settings.rank) ** power for name, rank in own.items()},
        use_dora=settings.method == "dora",
        use_rslora=settings.method == "rslora",
    )


def attach(
    vlm: Vlm, layers: Sequence[int], settings: LoraSettings, seed: int, ranks: Mapping[int, int] | None = None
) -> PeftModel:
    """Put fresh LoRA adapters on ``layers`` and freeze everything else.

    The base's own modules are wrapped in place, so that ``vlm`` sees the adapter at once. Adapter weights are
    float32 whatever the base's precision (PEFT's ``autocast_adapter_dtype``).

    Args:
        vlm: the base.
        layers: the layers to adapt.
        settings: hyperparameters.
        seed: of the first weights.
        ranks: a rank for each of the layers, in the place of ``settings.rank`` (PEFT's ``rank_pattern``); what an
            update is multiplied by stays what it is.

    Raises:
        InputError: the layers have none of the targets.
        DeadAdapterError: PEFT adapted other modules than asked for.
    """
    names = vlm.projections(layers, settings.targets)
    if not names:
        raise InputError(
            f"Layers {', '.join(map(str, layers))} of {vlm.source} have no {' or '.join(settings.targets)} of their "
            "own: choose other layers or other lora.targets."
        )
    config = peft_config(vlm, layers, settings, ranks)
    with torch.random.fork_rng(devices=[]), _without_old_names():
        torch.manual_seed(seed)
        peft_model = get_peft_model(vlm.model, config)
    check_modules(peft_model, names)
    # PEFT holds a set, which is saved in another order by every process, and the folder that the base lies in.
    config.target_modules = sorted(names)
    config.base_model_name_or_path, config.revision = vlm.source, vlm.revision
    return peft_model


def detach(peft_model: PeftModel) -> None:
    """Take an adapter off the base that :func:`attach` put it on: its modules are again what they were.

    Only that its weights are frozen remains; the next adapter would freeze them, too.
    """
    peft_model.unload()


def attach_heads(vlm: Vlm, heads: Sequence[tuple[int, int]], settings: LoraSettings, seed: int) -> PeftModel:
    """Put fresh LoRA adapters on single heads, given as (layer, head), and freeze everything else.

    An ordinary adapter on q, k and v of the heads' layers, in which the rows of ``lora_B`` that write other heads stay
    exactly zero: what is saved is plain PEFT, and merging it leaves the other heads' rows as they are. Heads that share
    a key-value head share its k and v: these rows move for the whole group.

    Raises:
        InputError: no such head, a target that is not divided into heads by its rows, DoRA, or a family whose heads
            cannot be adapted one by one.
        DeadAdapterError: PEFT adapted other modules than asked for.
    """
    check_single_heads(vlm)
    if beyond := [head for head in heads if not 0 <= head[1] < vlm.heads]:
        raise InputError(f"Head {beyond[0][0]}.{beyond[0][1]} does not exist: a layer has {vlm.heads} heads.")
    if other := [target for target in settings.targets if target not in ("q_proj", "k_proj", "v_proj")]:
        raise InputError(f"Single heads are adapted by the rows of q_proj, k_proj and v_proj, not of {other[0]}.")
    if settings.method == "dora":
        raise InputError(
            "Single heads are not adapted with lora.method dora: it rescales the rows of all heads. Choose lora or "
            "rslora."
        )
    layers = sorted({layer for layer, _ in heads})
    peft_model = attach(vlm, layers, settings, seed)
    for layer in layers:
        of_layer = [head for at, head in heads if at == layer]
        for name in vlm.projections([layer], settings.targets):
            _hold_at_zero(vlm.model.get_submodule(f"{name}.lora_B.default").weight, ~head_rows(vlm, of_layer, name))
    return peft_model


def check_single_heads(vlm: Vlm) -> None:
    """Raise ``InputError`` with the reason where the heads of a base cannot be adapted one by one."""
    if vlm.no_single_heads:
        raise InputError(f"Single heads of {vlm.source} cannot be adapted: {vlm.no_single_heads}. Adapt layers.")


def head_rows(vlm: Vlm, heads: Sequence[int], name: str) -> Bool[Tensor, " rows"]:
    """Which rows of a layer's q, k or v projection, by its full name, belong to ``heads``; of k and v those of their
    key-value heads."""
    queries = vlm.model.get_submodule(f"{name.rpartition('.')[0]}.q_proj").out_features
    width = queries // vlm.heads
    group = queries // vlm.model.get_submodule(name).out_features
    rows = torch.zeros(vlm.heads // group, width, dtype=torch.bool)
    rows[[head // group for head in heads]] = True
    return rows.flatten()


def _hold_at_zero(weight: nn.Parameter, held: Bool[Tensor, " rows"]) -> None:
    """Keep rows of a fresh ``lora_B`` at zero: they get no gradient, so that AdamW has nothing to add or to decay."""
    held = held.to(weight.device)
    weight.register_hook(lambda gradient: gradient.masked_fill(held[:, None], 0))
    setattr(weight, _HELD, held)


@contextmanager
def _without_old_names() -> Iterator[None]:
    """PEFT asks transformers for an attribute by its old name, of which transformers warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def check_modules(model: nn.Module, expected: Sequence[str]) -> None:
    """Raise ``DeadAdapterError`` unless exactly the ``expected`` modules are adapted."""
    adapted = adapted_modules(model)
    if adapted != sorted(expected):
        extra, missing = sorted(set(adapted) - set(expected)), sorted(set(expected) - set(adapted))
        raise DeadAdapterError(f"The adapted modules are not the chosen ones: extra {extra}, missing {missing}.")


def count_parameters(model: nn.Module) -> Parameters:
    """Total and trainable parameters of a model with its adapter.

    Of an adapter on single heads (:func:`attach_heads`) the rows that are held at zero are not counted as trainable;
    the total has them, as the saved file does.
    """
    parameters = list(model.parameters())
    trainable = sum(p.numel() - _held(p).count_nonzero().item() * p.shape[-1] for p in parameters if p.requires_grad)
    return Parameters(sum(p.numel() for p in parameters), int(trainable))


def _held(weight: Tensor) -> Bool[Tensor, " rows"]:
    """The rows that are held at zero; of most weights none."""
    return getattr(weight, _HELD, torch.zeros(len(weight), dtype=torch.bool))


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
        DeadAdapterError: wrong modules, a ``lora_B`` that is still zero, logits that did not move, or a row of another
            head than the chosen ones that did.
    """
    check_modules(peft_model, expected)
    still = [name for name, weight in peft_model.named_parameters() if "lora_B" in name and not weight.any()]
    if still:
        raise DeadAdapterError(f"{len(still)} lora_B matrices never moved from zero, the first is {still[0]}.")
    strayed = [
        name for name, weight in peft_model.named_parameters() if weight.requires_grad and weight[_held(weight)].any()
    ]
    if strayed:
        raise DeadAdapterError(f"Rows of heads that were not chosen have moved in {strayed[0]}.")
    if not changed_logits > 0:
        raise DeadAdapterError("The adapter does not change the logits of the probe batch.")


def save(peft_model: PeftModel, folder: Path, header: Mapping[str, Any]) -> None:
    """Write the adapter in plain PEFT format, and its header beside it, which the adapter is held to from then on."""
    peft_model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    # safetensors writes files that their owner alone can read, whatever the umask.
    shutil.copymode(folder / CONFIG_NAME, folder / SAFETENSORS_WEIGHTS_NAME)
    held.record(folder, header)


def load(vlm: Vlm, folder: Path) -> PeftModel:
    """Load an adapter onto the base it was trained on.

    Raises:
        InputError: the folder is no adapter, or not the one of its header (:func:`headimpact.adapters.held.check`); it
            was trained on another base (PEFT itself loads silently on same-shaped foreign weights); or it does not go
            onto this one.
    """
    header = held.check(folder)
    _check_base(vlm, folder, header)
    try:
        with _without_old_names():
            peft_model = PeftModel.from_pretrained(vlm.model, str(folder))
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise InputError(f"The adapter in {folder} is damaged ({error}). Run finetune to make it again.") from None
    check_modules(peft_model, header[held.LORA]["target_modules"])
    return peft_model


def _check_base(vlm: Vlm, folder: Path, header: Mapping[str, Any]) -> None:
    if header.get("base_digest") != vlm.digest:
        trained_on = f"{header.get('source')} (weights {str(header.get('base_digest'))[:12]})"
        raise InputError(
            f"The adapter in {folder} was trained on {trained_on}, not on {vlm.source} (weights {vlm.digest[:12]}). "
            f"Load it on the base that it was trained on."
        )
    if "base_settings" not in header and vlm.settings:
        raise InputError(
            f"The adapter in {folder} was made before adapters were held to the settings of their base: its header "
            f"lacks base_settings. Run finetune to make it again."
        )
    before: Mapping[str, str] = header.get("base_settings", {})
    if differing := sorted(name for name in {*before, *vlm.settings} if before.get(name) != vlm.settings.get(name)):
        raise InputError(
            f"The adapter in {folder} was trained on {header.get('source')} with another {', '.join(differing)} than "
            f"{vlm.source} has now. Put it back, or train again."
        )
