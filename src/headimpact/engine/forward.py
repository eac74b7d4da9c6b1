"""From images and conversations about them to numbers: one stream of prepared images, and one packed forward.

Whoever needs something of a base says what there is to say about an image (:class:`Prepared`) and what to read off a
forward; how images are prepared, shared between forwards and kept is the engine's.
"""

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from headimpact import clock
from headimpact.data.samples import Sample
from headimpact.engine.frozen import Disk, Frozen, Memory, fingerprint
from headimpact.engine.stream import stream
from headimpact.errors import InputError
from headimpact.files import digest_file
from headimpact.processes import ALONE, Processes
from headimpact.vlm import packing
from headimpact.vlm.attention import RowCapture
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.packing import Packed, PackedImages, Tokens
from headimpact.vlm.tokengrid import TokenGrid

WINDOW = 64
"""Images whose conversations are sorted by length before they go through the decoder."""
MEBI = 2**20

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Prepared(Generic[T]):
    """What there is to say about an image.

    Attributes:
        sample: the image.
        conversations: about it; one at least.
        facts: whatever else the reader needs of the image.
    """

    sample: Sample
    conversations: Sequence[Tokens]
    facts: T


Prepare = Callable[[Sample, TokenGrid], Prepared[T] | None]
"""Says what there is to say about an image; None: nothing. It runs in a worker process, without the pixels."""


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A prepared image on its way to the device; without pixels where its visual features are kept."""

    prepared: Prepared[T]
    key: str
    encoded: EncodedImage | None

    def pin_memory(self) -> "Loaded[T]":
        """With the pixels in page-locked memory."""
        return Loaded(self.prepared, self.key, self.encoded.pin_memory() if self.encoded else None)


@dataclass(frozen=True)
class Seen(Generic[T]):
    """A prepared image that the device has seen; without features where they are kept."""

    prepared: Prepared[T]
    key: str
    features: Tensor | None


@dataclass(frozen=True)
class EngineSettings:
    """How much at a time.

    Attributes:
        batch_tokens: tokens in a forward of the decoder, padding included.
        workers: processes that prepare images ahead of the device.
        prefetch: images that each of them is ahead.
        memory_mb: what is kept of the frozen part of a base in memory, in MiB.
        disk_mb: the same on disk.
    """

    batch_tokens: int = 4096
    workers: int = 0
    prefetch: int = 4
    memory_mb: int = 1024
    disk_mb: int = 0


@dataclass(frozen=True)
class Forward(Generic[T]):
    """Conversations about some images, ready for the decoder.

    Attributes:
        engine: whose forward it is.
        images: the images, as ``packed.members`` numbers them; conversations of some may not be among them.
        sequences: what is packed, each with the index of its image.
        packed: the conversations.
    """

    engine: "Engine"
    images: Sequence[Seen[T]]
    sequences: Sequence[tuple[int, Packed]]
    packed: PackedImages

    def hidden(self, capture: RowCapture | None = None) -> Float[Tensor, "batch tokens width"]:
        """The decoder's last hidden states."""
        with clock.part("decoder"):
            return self._hidden(capture)

    def _hidden(self, capture: RowCapture | None) -> Float[Tensor, "batch tokens width"]:
        engine, batch = self.engine, self.packed.batch.to(self.engine.vlm.device)
        if capture is not None or not engine.first:
            features = [engine.features(self.images[image]) for image in self.packed.images]
            return engine.vlm.hidden_states(batch, engine.vlm.embeddings(batch, features), capture)
        states = [engine.entering(self.images[image], packed) for image, packed in self.sequences]
        entering = torch.nn.utils.rnn.pad_sequence([s.to(engine.vlm.device) for s in states], batch_first=True)
        return engine.vlm.hidden_states(batch, entering, first=engine.first)


@dataclass
class Engine:
    """A base on its device, and what is kept of it.

    Samples are known by their ids: two of the same id must be the same image.

    Attributes:
        vlm: the base, with whatever adapter is attached to it.
        settings: how much at a time.
        first: the lowest layer that an adapter changes; what comes below it is frozen, and kept.
        folder: where frozen tensors are kept beyond this process; None: nowhere.
        tell: says what a person should know.
        processes: who shares work on images with this base (:mod:`headimpact.engine.portions`).
    """

    vlm: Vlm
    settings: EngineSettings = field(default_factory=EngineSettings)
    first: int = 0
    folder: Path | None = None
    tell: Callable[[str], None] = print
    processes: Processes = ALONE

    def __post_init__(self) -> None:
        """Begin with nothing kept but what lies in the folder."""
        self.batch_tokens = self.settings.batch_tokens
        known = fingerprint(self.vlm) if self.folder is not None and self.settings.disk_mb else None
        disk = Disk(self.folder / known, self.settings.disk_mb * MEBI) if self.folder and known else None
        self.memory = Memory(self.settings.memory_mb * MEBI)
        self.frozen = Frozen(self.memory, disk)

    @property
    def kept(self) -> str:
        """What of the frozen part had to be computed and what was there, for a summary."""
        return f"{self.frozen.computed} tensors of the frozen part computed, {self.frozen.found} times one was there"

    # ---- from files to prepared images

    def load(self, samples: Sequence[Sample], prepare: Prepare[T], keep: bool = False) -> Iterator[Loaded[T]]:
        """Read and prepare images, in their order; of one that was kept nothing is read again.

        Args:
            samples: the images.
            prepare: says what there is to say about one.
            keep: they come round again with an equal ``prepare``, so keep what was prepared of each that the device
                has seen by the time that the next one is asked for.

        Raises:
            InputError: an image cannot be read, or as ``prepare``.
        """
        kept = {sample.id: self.memory.get((prepare, sample.id)) for sample in samples}
        missing = [sample for sample in samples if kept[sample.id] is None]
        pin = self.vlm.device.type == "cuda"
        fresh = stream(
            missing, lambda sample: self._load(sample, prepare), self.settings.workers, self.settings.prefetch, pin
        )
        for sample in samples:
            with clock.part("data"):
                loaded = kept[sample.id] or next(fresh)
            if loaded is None:
                continue
            yield loaded
            if keep and kept[sample.id] is None:
                self._keep(loaded, prepare)

    def _load(self, sample: Sample, prepare: Prepare[T]) -> Loaded[T] | None:
        prepared = prepare(sample, self.vlm.grid(sample.width, sample.height))
        if prepared is None:
            return None
        key = digest_file(sample.path) if self.frozen.disk is not None else f"image {sample.id}"
        if not prepared.conversations or self.frozen.has(_features_key(key)):
            return Loaded(prepared, key, None)
        return Loaded(prepared, key, self.vlm.encode_image(sample.image()))

    def _keep(self, loaded: Loaded[T], prepare: Prepare[T]) -> None:
        if not self.frozen.has(_features_key(loaded.key)):
            return
        prepared = loaded.prepared
        size = sum(tokens.ids.nbytes + tokens.positions.nbytes for tokens in prepared.conversations)
        self.memory.put((prepare, prepared.sample.id), Loaded(prepared, loaded.key, None), size)

    # ---- what is frozen

    def see(self, loaded: Loaded[T]) -> Seen[T]:
        """Put an image through the vision tower, alone, so that its features do not depend on its company."""
        if loaded.encoded is None or self.frozen.has(_features_key(loaded.key)):
            return Seen(loaded.prepared, loaded.key, None)
        return Seen(loaded.prepared, loaded.key, self._look(loaded.key, loaded.encoded))

    def _look(self, key: str, encoded: EncodedImage) -> Float[Tensor, "visual width"]:
        with _kept_for_later(), clock.part("vision"):
            (features,) = self.vlm.image_features([encoded])
        self.frozen.put(_features_key(key), features, shared=True)
        return features

    def features(self, image: Seen[T]) -> Float[Tensor, "visual width"]:
        """Embeddings of an image's visual tokens."""
        if image.features is not None:
            return image.features
        kept = self.frozen.get(_features_key(image.key))
        if kept is not None:
            return kept
        # A file that cannot be read any more: the image is.
        return self._look(image.key, self.vlm.encode_image(image.prepared.sample.image()))

    def entering(self, image: Seen[T], packed: Packed) -> Float[Tensor, "tokens width"]:
        """The hidden states of one sequence that enter the layer :attr:`first`, computed without any other."""
        key = f"states entering {self.first} {image.key} {_name(packed.ids)}"
        states = self.frozen.get(key)
        if states is None:
            with _kept_for_later():
                batch = packing.collate([packed]).to(self.vlm.device)
                embeddings = self.vlm.embeddings(batch, [self.features(image)])
                states = self.vlm.states_entering(self.first, batch, embeddings)[0]
            self.frozen.put(key, states, shared=False)
        return states

    # ---- from prepared images to numbers

    def read(
        self, images: Iterable[Loaded[T]], read: Callable[[Forward[T]], Sequence[R]]
    ) -> Iterator[tuple[Prepared[T], list[R]]]:
        """Put the conversations about images through the decoder, and read something off each.

        Args:
            images: prepared images.
            read: gives one value a conversation of a forward, in the order of ``packed.members``. Where the device's
                memory is too small it is called again with fewer conversations, so it has no effect before it ends.

        Returns:
            Image by image, in order, what was read off each of its conversations.

        Raises:
            InputError: the device's memory is too small for a single sequence.
        """
        window: list[Seen[T]] = []
        for image in images:
            window.append(self.see(image))
            if len(window) == WINDOW:
                yield from self._read(window, read)
                window = []
        if window:
            yield from self._read(window, read)

    def _read(
        self, window: Sequence[Seen[T]], read: Callable[[Forward[T]], Sequence[R]]
    ) -> Iterator[tuple[Prepared[T], list[R]]]:
        conversations = [image.prepared.conversations for image in window]
        sequences = [
            (index, packed)
            for index, of_image in enumerate(conversations)
            for packed in packing.pack_image(of_image, self.vlm.prompt_attention)
        ]
        values: dict[tuple[int, int], R] = {}

        def forward(group: Sequence[int]) -> None:
            chosen = [sequences[index] for index in group]
            packed = packing.join(chosen, conversations)
            values.update(zip(packed.members, read(Forward(self, window, chosen, packed)), strict=True))

        lengths = [len(packed.ids) for _, packed in sequences]
        self.in_groups(lengths, forward, lambda index: f"image {window[sequences[index][0]].prepared.sample.id}")
        for index, image in enumerate(window):
            of_image = range(len(image.prepared.conversations))
            yield image.prepared, [values[index, conversation] for conversation in of_image]

    def in_groups(
        self, lengths: Sequence[int], forward: Callable[[Sequence[int]], None], name: Callable[[int], str]
    ) -> None:
        """Work through sequences in groups of like length, as many together as :attr:`batch_tokens` allows.

        Args:
            lengths: tokens of each sequence.
            forward: does what there is to do for some sequences, given by their indices. Where the device's memory is
                too small it is called again with fewer, so it has no effect before it ends.
            name: of a sequence, for an error.

        Raises:
            InputError: the device's memory is too small for a single sequence.
        """
        groups = packing.forwards(lengths, self.batch_tokens)
        while groups:
            # The longest first: where memory is too small, that shows at once.
            group = groups[-1]
            try:
                forward(group)
            except torch.OutOfMemoryError as error:
                if len(group) == 1:
                    raise InputError(
                        f"The device's memory is too small for one sequence of {lengths[group[0]]} tokens "
                        f"({name(group[0])}): {error}"
                    ) from None
                self._halve(lengths[group[-1]] * (len(group) // 2))
                left = [index for group in groups for index in group]
                again = packing.forwards([lengths[index] for index in left], self.batch_tokens)
                groups = [[left[index] for index in group] for group in again]
                continue
            groups.pop()

    def _halve(self, tokens: int) -> None:
        self.batch_tokens = tokens
        self.tell(f"The device's memory is too small: from here on at most {tokens} tokens in a forward.")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _kept_for_later() -> Iterator[None]:
    """Without gradients, and also within ``inference_mode`` in such a way that a backward can go through it later."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _features_key(image: str) -> str:
    return f"features {image}"


def _name(ids: Tensor) -> str:
    return hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:16]
