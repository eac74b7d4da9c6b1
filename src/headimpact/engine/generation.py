"""Pictures and prompts in, generated answers out."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from PIL import Image

from headimpact.engine.forward import WINDOW, Engine
from headimpact.engine.portions import spread
from headimpact.engine.stream import stream
from headimpact.engine.watch import Watch, unwatched
from headimpact.vlm.base import EncodedImage
from headimpact.vlm.packing import Tokens

T = TypeVar("T")


def generate(
    engine: Engine,
    items: Sequence[T],
    ask: Callable[[T], tuple[Image.Image, str]],
    max_new_tokens: int,
    watch: Watch = unwatched,
) -> Iterator[str]:
    """What a model says, greedily, to prompts about pictures, in their order, in every process; each does its share.

    Args:
        engine: the base.
        items: whatever ``ask`` knows.
        ask: gives the picture and the prompt of one; it runs in a worker process.
        max_new_tokens: longer answers are cut off.
        watch: shows the answers of the first process.

    Raises:
        InputError: as ``ask``, or the device's memory is too small for a single prompt.
    """

    def prepare(item: T) -> tuple[Tokens, EncodedImage]:
        picture, prompt = ask(item)
        encoded = engine.vlm.encode_image(picture)
        return engine.vlm.prompt(prompt, encoded.grid), encoded

    windows = [items[start : start + WINDOW] for start in range(0, len(items), WINDOW)]
    settings, processes = engine.settings, engine.processes

    def of(numbers: Sequence[int]) -> Iterator[list[str]]:
        own = [item for number in numbers for item in windows[number]]
        prepared = stream(own, prepare, settings.workers, settings.prefetch, engine.vlm.device.type == "cuda")
        texts = (
            text
            for number in processes.heed(numbers)
            for text in _together(engine, list(islice(prepared, len(windows[number]))), max_new_tokens)
        )
        shown = watch if processes.is_first else unwatched
        followed = iter(shown(texts, len(own), "answering"))
        return (list(islice(followed, len(windows[number]))) for number in numbers)

    for texts in spread(processes, len(windows), of):
        yield from texts


def _together(engine: Engine, window: Sequence[tuple[Tokens, EncodedImage]], max_new_tokens: int) -> list[str]:
    texts: dict[int, str] = {}

    def forward(group: Sequence[int]) -> None:
        prompts = [window[index] for index in group]
        found = engine.vlm.generate_together(prompts, max_new_tokens=max_new_tokens, do_sample=False)
        texts.update(zip(group, found, strict=True))

    lengths = [len(tokens.ids) + max_new_tokens for tokens, _ in window]
    engine.in_groups(lengths, forward, lambda index: "a prompt and its answer")
    return [texts[index] for index in range(len(window))]
