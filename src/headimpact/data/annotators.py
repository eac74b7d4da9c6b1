"""What the models that annotate images have in common: how they are loaded, and what they are given."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from headimpact import devices, hub
from headimpact.data import coco, records
from headimpact.errors import InputError
from headimpact.files import digest_file

# Processes wait for each other once, at the end; how long depends on how much each had to do.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Annotator:
    """A loaded model.

    Attributes:
        folder: where the checkpoint lies.
        facts: what the results follow from: digest of the weights, commit (None for a plain folder), precision, and
            kind of device.
    """

    model: Any
    folder: Path
    facts: dict[str, Any]


def load(
    model_class: type[PreTrainedModel],
    kinds: Collection[str],
    with_tokenizer: bool,
    source: str,
    revision: str | None,
    device: str,
    dtype: str,
) -> Annotator:
    """Load a model from a folder or from the hub, safetensors only, for inference.

    Args:
        model_class: the class of transformers.
        kinds: the ``model_type`` of checkpoints that it can load.
        with_tokenizer: the model reads text.
        source: folder or hub name.
        revision: branch, tag or commit on the hub.
        device: as in ``devices.choose_device``.
        dtype: as in ``devices.choose_dtype``.

    Raises:
        InputError: absent, gated, of another kind, without safetensors, or with weights missing or of another shape.
    """
    folder, commit = hub.fetch_settings(source, revision, with_tokenizer)
    _check_kind(source, folder, kinds)
    digest = hub.weights_digest(hub.fetch_weights(source, folder, commit))
    place = devices.choose_device(device)
    transformers_logging.disable_progress_bar()
    precision = devices.choose_dtype(dtype, place)
    try:
        loaded: Any = model_class.from_pretrained(
            folder, dtype=precision, use_safetensors=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise InputError(f"{source} cannot be loaded: {str(error).splitlines()[0]}") from None
    model, report = loaded
    if report["missing_keys"]:
        raise InputError(f"{source} lacks weights that {model_class.__name__} has: {min(report['missing_keys'])}, ...")
    facts = {"weights": digest, "commit": commit, "dtype": str(precision), "device": place.type}
    return Annotator(model.to(place).eval(), folder, facts)


def launched(device: str) -> records.Processes:
    """The processes of ``accelerate launch``; this one alone where there was none. Chooses this one's GPU.

    Args:
        device: as in ``devices.choose_device``. On a CPU the processes find each other only if they are told that it is
            one: otherwise each takes itself for the only one.
    """
    state = PartialState(cpu=devices.choose_device(device).type == "cpu", timeout=_PATIENCE)
    return records.Processes(state.process_index, state.num_processes, state.wait_for_everyone)


def _check_kind(source: str, folder: Path, kinds: Collection[str]) -> None:
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source} is not a checkpoint that transformers knows: {str(error).splitlines()[0]}"
        ) from None
    if kind not in kinds:
        raise InputError(f"{source} is a {kind} model; needed is {' or '.join(sorted(kinds))}.")


def open_images(entries: Iterable[records.Record], images: Path) -> tuple[dict[int, Image.Image], dict[int, str]]:
    """The images of records in RGB, and why the others cannot be read, each by id.

    A reason names its image as the record does, wherever the folder lies.
    """
    opened, errors = {}, {}
    for entry in entries:
        path = images / entry.file_name
        try:
            opened[entry.image_id] = coco.Sample(entry.image_id, path, entry.width, entry.height, ()).image()
        except InputError as error:
            errors[entry.image_id] = str(error).replace(str(path), entry.file_name)
    return opened, errors


def images_digest(entries: Iterable[records.Record], images: Path) -> str:
    """SHA-256 over the names and sizes in bytes of the images, in hexadecimal: a fetched or repaired one changes it."""
    digest = hashlib.sha256()
    for entry in entries:
        path = images / entry.file_name
        size = path.stat().st_size if path.is_file() else None
        digest.update(f"{entry.file_name}\0{size}\n".encode())
    return digest.hexdigest()


def work(
    path: Path,
    kind: type[records.R],
    images: Path,
    facts: Mapping[str, Any],
    group_images: int,
    make: Callable[..., Sequence[records.Record]],
) -> records.Work:
    """What a model has to do with the images of a file of records.

    Args:
        path: the file; its digest and the sizes of the images are settings of the work.
        kind: its records.
        images: the folder of images.
        facts: what else the results follow from.
        group_images: images in one batch of the model.
        make: the results of a batch, given its records and the folder of images.

    Raises:
        InputError: the file is missing or damaged.
    """
    entries = partial(records.read, path, kind)
    settings = {"images": images_digest(entries(), images), "records": digest_file(path), "model": dict(facts)}
    return records.Work(entries, settings, group_images, partial(make, images=images))
