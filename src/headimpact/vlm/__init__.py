"""Vision-language models: one file a family, one line in ``FAMILIES``."""

import hashlib
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, ProcessorMixin
from transformers.utils import logging as transformers_logging

from headimpact import attention
from headimpact.errors import InputError
from headimpact.files import digest_file
from headimpact.vlm.base import OPTION_LABELS, Conversation, EncodedImage, Vlm
from headimpact.vlm.idefics3 import Idefics3
from headimpact.vlm.paligemma import PaliGemma2
from headimpact.vlm.qwen2_vl import Qwen2Vl

__all__ = ["FAMILIES", "OPTION_LABELS", "Conversation", "EncodedImage", "Vlm", "load", "resolve"]

FAMILIES: dict[str, type[Vlm]] = {"paligemma": PaliGemma2, "qwen2_vl": Qwen2Vl, "idefics3": Idefics3}

_NEEDED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]


def resolve(source: str, revision: str | None) -> tuple[Path, str | None]:
    """The local folder of a checkpoint and the commit it stands at (None for a plain folder).

    A hub checkpoint is fetched into the hub's cache (``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` apply), only
    the files that are needed, weights as safetensors alone.

    Raises:
        InputError: absent, gated, or not reachable.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder, None
    try:
        snapshot = Path(snapshot_download(source, revision=revision, allow_patterns=_NEEDED))
    except GatedRepoError:
        raise InputError(
            f"{source} is gated: accept its licence on its hub page, then set HF_TOKEN to a token of that account."
        ) from None
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{source} (revision {revision}) is neither a folder here nor a checkpoint that the hub gave: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return snapshot, snapshot.name


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _device(device: str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def weights_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's safetensors files.

    Raises:
        InputError: there is none.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputError(f"{folder} holds no safetensors weights; other formats are not loaded.")
    if len(weights) == 1:
        return digest_file(weights[0])
    return hashlib.sha256("".join(f"{p.name} {digest_file(p)}\n" for p in weights).encode()).hexdigest()


def load(source: str, revision: str | None = None, device: str = "auto", dtype: str = "auto") -> Vlm:
    """Load a checkpoint, from a folder or from the hub through the same code.

    Args:
        source: folder or hub name.
        revision: branch, tag or commit on the hub.
        device: auto, cpu, cuda, ...; auto takes a GPU where there is one.
        dtype: auto, float32, bfloat16, float16; auto is bfloat16 on a GPU and float32 elsewhere.

    Raises:
        InputError: absent, gated, of an unknown family, or without safetensors.
    """
    folder, commit = resolve(source, revision)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source} is not a checkpoint that transformers knows: {str(error).splitlines()[0]}"
        ) from None
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise InputError(f"{source} is a {config.model_type} model; supported are {', '.join(sorted(FAMILIES))}.")
    digest = weights_digest(folder)
    place = _device(device)
    transformers_logging.disable_progress_bar()
    model = family.model_class.from_pretrained(
        folder,
        dtype=_dtype(dtype, place),
        use_safetensors=True,
        attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
    ).to(place)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # The PIL backend everywhere: a machine with torchvision must see the same pixels.
    image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    template = tokenizer.chat_template or ProcessorMixin.get_processor_dict(folder)[0].get("chat_template")
    return family(model, tokenizer, image_processor, template, source, commit, digest)
