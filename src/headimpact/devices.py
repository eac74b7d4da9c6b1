"""Device and precision: what is there, and which one to take."""

import torch

from headimpact.errors import InputError


def choose_device(device: str) -> torch.device:
    """The device of a name; auto is the best that is there: cuda, then mps, then cpu.

    Raises:
        InputError: there is no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kinds = [kind for kind, is_available in available.items() if is_available]
    if device == "auto":
        return torch.device(kinds[0])
    kind, _, number = device.partition(":")
    if kind not in kinds or (kind == "cuda" and int(number or 0) >= torch.cuda.device_count()):
        raise InputError(
            f"There is no device {device} on this machine (there is {', '.join(kinds)}). Choose one, or auto."
        )
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision of the base; auto: on a GPU bfloat16 (float16 where it has no bfloat16), elsewhere float32."""
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
