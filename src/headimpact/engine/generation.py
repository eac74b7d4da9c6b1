"""Pictures and prompts in, generated answers out."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from PIL import Image

from headimpact.engine.forward import WINDOW, Engine
from headimpact.engine.stream import stream
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.packing import Tokens

T = TypeVar("T")


def generate(
    engine: Engine, items: Sequence[T], ask: Callable[[T], tuple[Image.Image, str]], max_new_tokens: int
) -> Iterator[str]:
    """What a model says, greedily, to prompts about pictures, in their order.

    Args:
        engine: the base.
        items: whatever ``ask`` knows.
        ask: gives the picture and the prompt of one; it runs in a worker process.
        max_new_tokens: longer answers are cut off.

    Raises:
        InputError: as ``ask``, or the device's memory is too small for a single prompt.
    """

    def prepare(item: T) -> tuple[Tokens, EncodedImage]:
        picture, prompt = ask(item)
        encoded = engine.vlm.encode_image(picture)
        return engine.vlm.prompt(prompt, encoded.grid), encoded

    settings = engine.settings
    prepared = stream(items, prepare, settings.workers, settings.prefetch, engine.vlm.device.type == "cuda")
    while window := list(islice(prepared, WINDOW)):
        yield from _together(engine, window, max_new_tokens)


def _together(engine: Engine, window: Sequence[tuple[Tokens, EncodedImage]], max_new_tokens: int) -> list[str]:
    texts: dict[int, str] = {}

    def forward(group: Sequence[int]) -> None:
        prompts = [window[index] for index in group]
        found = engine.vlm.generate_together(prompts, max_new_tokens=max_new_tokens, do_sample=False)
        texts.update(zip(group, found, strict=True))

    lengths = [len(tokens.ids) + max_new_tokens for tokens, _ in window]
    engine.in_groups(lengths, forward, lambda index: "a prompt and its answer")
    return [texts[index] for index in range(len(window))]
