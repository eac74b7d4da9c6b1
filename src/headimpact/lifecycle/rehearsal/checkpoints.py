"""A checkpoint of true architecture and size with random weights, made on the device without a download.

What is published of the checkpoints in params.yaml lies in ``published/``: config, image processor settings and
parameter count, a file each. Their tokenizers do not: that of the tiny base of the family stands in, whose vocabulary
is smaller, while the embedding keeps its size. To rehearse another checkpoint without a download, add its file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import AutoConfig

from headimpact.files import read_json
from headimpact.tiny import bases
from headimpact.vlm import attention, loading
from headimpact.vlm.base import Vlm
from headimpact.vlm.families import family_class, family_name

PUBLISHED = Path(__file__).parent / "published"


@dataclass(frozen=True)
class Published:
    """What is published of a checkpoint.

    Attributes:
        source: its name on the hub.
        parameters: how many it has.
        tiny: the tiny base whose tokenizer stands in for its own.
        config: the content of its config.json, as far as the architecture goes.
        image_processor: the settings of its image processor that are not the defaults of its class.
        tokens: special tokens of its own tokenizer that a conversation needs and that of the tiny base lacks.
    """

    source: str
    parameters: int
    tiny: str
    config: dict[str, Any]
    image_processor: dict[str, Any]
    tokens: list[str] = field(default_factory=list)

    @property
    def family(self) -> type[Vlm]:
        """The class of its family."""
        return family_class(family_name(self.source, self.config))

    def settings(self) -> tuple[Any, Any]:
        """The model's configuration and the image processor."""
        config = AutoConfig.for_model(**self.config)
        return config, self.family.image_processor_class(**self.image_processor)


@cache
def published() -> dict[str, Published]:
    """What is published, by source."""
    found = [Published(**read_json(path)) for path in sorted(PUBLISHED.glob("*.json"))]
    return {of_checkpoint.source: of_checkpoint for of_checkpoint in found}


def stands_in(source: str) -> str | None:
    """The tiny base whose tokenizer stands in for that of a checkpoint; None: it has its own."""
    return published()[source].tiny if source in published() else None


def build(source: str, revision: str | None, device: torch.device, dtype: torch.dtype) -> Vlm:
    """A checkpoint with random weights on a device, made there in its precision.

    Args:
        source: folder or hub name. Of one that is in ``published/`` nothing is fetched, of others the small files.
        revision: branch, tag or commit on the hub.
        device: where to make it.
        dtype: its precision.

    Raises:
        InputError: as for :func:`headimpact.vlm.loading.skeleton`.
    """
    if source not in published():
        vlm = loading.skeleton(source, revision)
        vlm.model = random_model(type(vlm), vlm.model.config, device, dtype).eval()
        return vlm
    known = published()[source]
    config, image_processor = known.settings()
    tokenizer = make_tokenizer(known.tiny, known.tokens)
    family = known.family
    config.image_token_id = tokenizer.get_vocab()[family.image_token]
    model = random_model(family, config, device, dtype)
    return family(model, tokenizer, image_processor, family.own_template, source, revision, "")


def make_tokenizer(tiny: str, special: Sequence[str] = ()) -> Any:
    """The tokenizer of a tiny base, for images of real size, with more special tokens."""
    _, tokenizer, _ = bases.TINY[tiny]()
    if tiny == "tiny-smolvlm":  # which cuts images into fewer crops
        special = [*special, *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def random_model(family: type[Vlm], config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A model of a family with random weights, the same every time on a kind of device."""
    config._attn_implementation = {"text_config": attention.NAME, "vision_config": "sdpa"}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _made_in(dtype), device:
        torch.manual_seed(0)
        return family.model_class(config)


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """Within the block weights are made in a precision: made first and converted then, they would need two copies."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
