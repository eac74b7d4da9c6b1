"""A base from a folder or from the hub, through the same code; or from a model that is in memory already."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from headimpact import hub
from headimpact.devices import choose_device, choose_dtype
from headimpact.errors import InputError
from headimpact.vlm import attention, settings
from headimpact.vlm.base import Vlm

_UNUSED = re.compile(r"\.(inv_freq|position_ids)$|\bvision_(model|tower)\.head\.")


def skeleton(source: str, revision: str | None = None) -> Vlm:
    """A checkpoint without its weights: only its small files are fetched, and the model is on the meta device.

    Images are encoded, masks projected, conversations tokenised and parameters counted as with the weights; its
    digest is empty.

    Raises:
        InputError: absent, gated, not reachable, of an unsupported architecture, incomplete, or made of parts that
            do not fit each other.
    """
    vlm, _ = _skeleton(source, revision)
    return vlm


def _skeleton(source: str, revision: str | None) -> tuple[Vlm, Path]:
    folder, commit = hub.fetch_settings(source, revision)
    family = settings.read_family(source, folder)
    config = settings.read_config(source, folder)
    config._attn_implementation = {"text_config": attention.NAME, "vision_config": "sdpa"}
    tokenizer = settings.read_tokenizer(source, folder)
    image_processor = settings.read_image_processor(source, folder, family)
    template = settings.read_template(source, folder, tokenizer)
    with torch.device("meta"):
        model = family.model_class(config)
    vlm = family(model, tokenizer, image_processor, template, source, commit, "")
    settings.check(vlm)
    return vlm, folder


def load(source: str, revision: str | None = None, device: str = "auto", dtype: str = "auto") -> Vlm:
    """Load a checkpoint, from a folder or from the hub through the same code.

    Args:
        source: folder or hub name.
        revision: branch, tag or commit on the hub.
        device: auto, cpu, cuda, ...; auto takes a GPU where there is one.
        dtype: auto, float32, bfloat16, float16; auto is bfloat16 on a GPU (float16 on one without) and float32
            elsewhere.

    Raises:
        InputError: as for :func:`skeleton`; the device is not there; there are no safetensors weights, or they are
            damaged or do not fit the config.
    """
    place = choose_device(device)
    vlm, folder = _skeleton(source, revision)
    weights = hub.fetch_weights(source, folder, vlm.revision)
    vlm.model = _with_weights(vlm, folder, choose_dtype(dtype, place)).to(place).eval()
    vlm.digest = hub.weights_digest(weights)
    vlm.settings, vlm.settings_digest = hub.settings_digests(folder), hub.settings_digest(folder)
    return vlm


def _with_weights(vlm: Vlm, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what does not fit is said below, in a sentence
    try:
        model, report = vlm.model_class.from_pretrained(
            folder,
            config=vlm.model.config,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except SafetensorError as error:
        raise InputError(f"{vlm.source}: its weights are damaged ({error}). Fetch them again.") from None
    except NotImplementedError:  # transformers compares tied tensors, of which one did not fit and has no values
        raise InputError(
            f"{vlm.source}: its weights do not fit its config: its head and the embedding that it is tied to are of "
            "different shapes. The config belongs to another checkpoint."
        ) from None
    finally:
        transformers_logging.set_verbosity(verbosity)
    wrong = sorted(name for name, *_ in report["mismatched_keys"]) or sorted(report["missing_keys"])
    if wrong:
        raise InputError(
            f"{vlm.source}: its weights do not fit its config: {len(wrong)} tensors are missing or of another shape, "
            f"the first is {wrong[0]}. The config belongs to another checkpoint, or the weights are incomplete."
        )
    unexpected = sorted(name for name in report["unexpected_keys"] if not _is_harmless(name, model))
    if unexpected:
        raise InputError(
            f"{vlm.source}: its weights do not fit its config: {len(unexpected)} tensors have no place in the model, "
            f"the first is {unexpected[0]}. The config belongs to another checkpoint."
        )
    return model


def _is_harmless(name: str, model: torch.nn.Module) -> bool:
    """Whether a tensor that has no place in the model would change nothing if it had one.

    What transformers lists for the class of the model does not come here. Published checkpoints have more: constants
    that older versions stored, the pooling head of a vision tower, and heads of another task beside the model.
    """
    return bool(_UNUSED.search(name)) or name.partition(".")[0] not in dict(model.named_children())


def adopt(model: Any, processor: Any) -> Vlm:
    """A base from a transformers model that is in memory, which stays where it is and as precise as it is.

    The model itself is changed in two things: it is in evaluation mode, and its decoder's attention is this project's
    (:mod:`headimpact.vlm.attention`), which gives the same outputs. To undo this, set again what it was before:
    ``model.set_attn_implementation({"text_config": "sdpa"})``, with ``"eager"`` for PaliGemma 2, and ``model.train()``.

    Args:
        model: with its language model head; gets no copy.
        processor: what has its ``tokenizer``, ``image_processor`` and ``chat_template`` (a transformers processor).
            A torchvision image processor is replaced by the PIL one of the same settings.

    Raises:
        InputError: as for :func:`skeleton`; there is no such model or processor.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "set_attn_implementation"):
        raise InputError(
            f"A {type(model).__name__} is no base: give a folder, a hub name, or a transformers model with its "
            "processor."
        )
    source = config.name_or_path or "the model in memory"
    tokenizer, image_processor = (getattr(processor, name, None) for name in ("tokenizer", "image_processor"))
    if tokenizer is None or image_processor is None:
        raise InputError(
            f"{source} needs a processor with tokenizer and image_processor, not a {type(processor).__name__}: the one "
            "that transformers' AutoProcessor.from_pretrained gives."
        )
    family = settings.find_family(source, config.to_dict(), [kind.__name__ for kind in type(model).__mro__])
    template = settings.choose_template(source, getattr(processor, "chat_template", None) or tokenizer.chat_template)
    vlm = family(
        model,
        settings.check_fast(source, tokenizer),
        settings.pil_image_processor(source, image_processor, family),
        template,
        source,
        getattr(config, "_commit_hash", None),
        "",
    )
    settings.check(vlm)
    model.set_attn_implementation({"text_config": attention.NAME})
    return vlm
