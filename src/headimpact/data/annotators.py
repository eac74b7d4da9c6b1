"""What the models that annotate images have in common: how they are loaded, and how they go through a file."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from headimpact import devices, hub
from headimpact.data.images import open_image
from headimpact.data.journal import Work, complete
from headimpact.data.lines import Line, read
from headimpact.errors import InputError
from headimpact.files import digest_file
from headimpact.processes import Processes


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        folder: where the checkpoint lies.
        facts: what the results follow from: digest of the weights, commit (None for a plain folder), precision, and
            kind of device.
    """

    network: Any
    folder: Path
    facts: dict[str, Any]


@dataclass(frozen=True)
class Annotator(ABC):
    """A model that reads one kind of lines, with their images, and writes another.

    Attributes:
        reads: the kind of lines.
        model: the model.
    """

    reads: ClassVar[type[Line]]

    model: Model

    def facts(self) -> dict[str, Any]:
        """What the results follow from, besides lines and images, as JSON values."""
        return self.model.facts

    @abstractmethod
    def annotate(self, lines: Sequence[Any], images: Path) -> Sequence[Line]:
        """The lines of a batch of images, one for each; where an image cannot be worked on, its line says why."""


def load(
    model_class: type[PreTrainedModel],
    kinds: Collection[str],
    with_tokenizer: bool,
    source: str,
    revision: str | None,
    device: str,
    dtype: str,
) -> Model:
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
    target = devices.choose_device(device)
    transformers_logging.disable_progress_bar()
    precision = devices.choose_dtype(dtype, target)
    try:
        loaded: Any = model_class.from_pretrained(
            folder, dtype=precision, use_safetensors=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise InputError(f"{source} cannot be loaded: {str(error).splitlines()[0]}") from None
    network, loading = loaded
    if missing := loading["missing_keys"]:
        raise InputError(f"{source} lacks weights that {model_class.__name__} has: {min(missing)}, ...")
    facts = {"weights": digest, "commit": commit, "dtype": str(precision), "device": target.type}
    return Model(network.to(target).eval(), folder, facts)


def _check_kind(source: str, folder: Path, kinds: Collection[str]) -> None:
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source} is not a checkpoint that transformers knows: {str(error).splitlines()[0]}"
        ) from None
    if kind not in kinds:
        raise InputError(f"{source} is a {kind} model; needed is {' or '.join(sorted(kinds))}.")


def open_images(lines: Iterable[Line], images: Path) -> tuple[dict[int, Image.Image], dict[int, str]]:
    """The images of lines in RGB, and why the others cannot be read, each by id.

    A reason names its image as the line does, wherever the folder lies.
    """
    opened, errors = {}, {}
    for line in lines:
        path = images / line.file_name
        try:
            opened[line.image_id] = open_image(path, (line.width, line.height))
        except InputError as error:
            errors[line.image_id] = str(error).replace(str(path), line.file_name)
    return opened, errors


def images_digest(lines: Iterable[Line], images: Path) -> str:
    """SHA-256 over the names and sizes in bytes of the images, in hexadecimal: a fetched or repaired one changes it."""
    digest = hashlib.sha256()
    for line in lines:
        path = images / line.file_name
        size = path.stat().st_size if path.is_file() else None
        digest.update(f"{line.file_name}\0{size}\n".encode())
    return digest.hexdigest()


def annotate(
    annotator: Annotator,
    source: Path,
    images: Path,
    output: Path,
    group_images: int,
    processes: Processes,
    progress: Callable[[Iterable[list[Any]], int], Iterable[list[Any]]] = lambda groups, total: groups,
) -> bool:
    """Write what a model says of every image; what a killed run has done is kept.

    Every process of ``accelerate launch`` calls it and does its share.

    Args:
        annotator: the model.
        source: the lines that it reads; their digest and the sizes of the images are settings of the work.
        images: the folder of images.
        output: the lines that it writes, replaced if it exists.
        group_images: images in one batch of the model.
        processes: who shares the work (``processes.launched``).
        progress: wraps the groups of this process, given their number.

    Returns:
        Whether this process wrote the output: the first, after all have finished.

    Raises:
        InputError: the source is missing or damaged.
    """
    lines = partial(read, source, annotator.reads)
    settings = {
        "images": images_digest(lines(), images),
        "records": digest_file(source),  # by its first name: work that was begun under it goes on
        "model": annotator.facts(),
    }
    work = Work(lines, settings, group_images, partial(annotator.annotate, images=images))
    return complete(output, work, processes, progress)
