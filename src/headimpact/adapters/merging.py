"""An adapter merged into its base: weights that any program loads, held to what the adapter computes."""

import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from peft import PeftModel
from PIL import Image
from torch import Tensor

from headimpact import hub
from headimpact.adapters import lora
from headimpact.errors import InputError
from headimpact.vlm.base import Vlm

TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 5e-1}
"""The largest difference of a logit that merging may make, by the precision of the weights: they are rounded to it,
and so is every sum of the forward."""
_SIZE = (320, 240)
_PROMPT = "What is this photo?"


@dataclass(frozen=True)
class Merged:
    """What merging did to the logits of a probe: an image of noise and a question.

    Attributes:
        difference: largest, of the merged weights against the adapter on its base.
        effect: largest, of the adapter on its base against the base alone.
        dtype: precision of the merged weights.
    """

    difference: float
    effect: float
    dtype: torch.dtype


def merge(vlm: Vlm, adapter: Path, folder: Path, load: Callable[[Path], Vlm]) -> Merged:
    """Write a base with an adapter merged into it, with its tokenizer, image processor and chat template.

    The base's own small files are copied as they are; only the config is written anew.

    Args:
        vlm: the base; it is changed, and has no adapter afterwards.
        adapter: the adapter's folder, with its header.
        folder: an empty one.
        load: loads what was written, in the precision of ``vlm``.

    Raises:
        InputError: as for :func:`headimpact.adapters.lora.load`; or what was written computes other logits than the
            adapter on its base, by more than ``TOLERANCE``.
    """
    small, _ = hub.fetch_settings(vlm.source, vlm.revision)
    peft_model = lora.load(vlm, adapter)
    before, after = _with_and_without(vlm, peft_model)
    whole = peft_model.merge_and_unload()
    dtype = whole.dtype
    whole.save_pretrained(folder)
    for name in hub.SETTINGS:
        if name not in (hub.CONFIG, hub.INDEX) and (small / name).is_file():
            shutil.copyfile(small / name, folder / name)
    for weights in folder.glob("*.safetensors"):  # safetensors lets their owner alone read them
        shutil.copymode(folder / hub.CONFIG, weights)
    vlm.model = whole = peft_model = None  # two models may not fit beside each other
    gc.collect()
    merged = Merged(_largest(logits(load(folder)), after), _largest(after, before), dtype)
    check(merged)
    return merged


def check(merged: Merged) -> None:
    """Refuse merged weights that compute something else than the adapter on its base.

    Raises:
        InputError: by more than ``TOLERANCE``.
    """
    allowed = TOLERANCE.get(merged.dtype, TOLERANCE[torch.float32])
    if not merged.difference <= allowed:  # not a number, too
        raise InputError(
            f"The merged weights are not what was trained: a logit differs by {merged.difference:.3g} from that of the "
            f"adapter on its base, and {allowed:g} is allowed in {merged.dtype}. Deliver the adapter itself, or merge "
            "with compute.dtype float32."
        )


def _with_and_without(vlm: Vlm, peft_model: PeftModel) -> tuple[Tensor, Tensor]:
    """The logits of the base, and of the adapter on it."""
    after = logits(vlm)
    with lora.disabled(peft_model):
        return logits(vlm), after


@torch.inference_mode()
def logits(vlm: Vlm) -> Float[Tensor, "tokens vocabulary"]:
    """The logits of a question about an image of noise, by transformers' own forward."""
    width, height = _SIZE
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    encoded = vlm.encode_image(Image.fromarray(noise))
    inputs = vlm.native_inputs(vlm.prompt(_PROMPT, encoded.grid), encoded)
    output = vlm.model(**{name: value.to(vlm.device) for name, value in inputs.items()})
    return output.logits[0].float().cpu()


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
