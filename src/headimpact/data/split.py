"""Images divided into the parts of a dataset: by image, drawn by seed."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Int

from headimpact.errors import InputError


def split(ids: Iterable[int] | Int[np.ndarray, " images"], sizes: Mapping[str, int], seed: int) -> dict[str, list[int]]:
    """Image ids of each part, ascending: disjoint, drawn by seed, whatever the order of ``ids``.

    Raises:
        InputError: there are fewer ids than the parts need.
    """
    everything = np.unique(np.fromiter(ids, np.int64))
    needed = sum(sizes.values())
    if len(everything) < needed:
        raise InputError(
            f"The parts need {needed} images, there are {len(everything)}. Make the parts smaller in params.yaml."
        )
    shuffled = np.random.default_rng(seed).permutation(everything)
    parts = {}
    for part, size in sizes.items():
        parts[part], shuffled = np.sort(shuffled[:size]).tolist(), shuffled[size:]
    return parts


def split_in_proportion(
    ids: Iterable[int] | Int[np.ndarray, " images"], sizes: Mapping[str, int], seed: int
) -> dict[str, list[int]]:
    """Like ``split``: exactly ``sizes``, or their proportions where there are fewer images.

    Proportions are by largest remainder; a part that would get no image takes one from the largest part.

    Raises:
        InputError: there are fewer images than parts.
    """
    everything = np.unique(np.fromiter(ids, np.int64))
    if len(everything) < sum(sizes.values()):
        sizes = _shrink(sizes, len(everything))
    return split(everything, sizes, seed)


def _shrink(sizes: Mapping[str, int], images: int) -> dict[str, int]:
    """Sizes in the same proportions that add up to ``images``."""
    if images < len(sizes):
        raise InputError(
            f"There are {images} images with a usable object; a dataset needs at least {len(sizes)}, one for each of "
            f"its parts ({', '.join(sizes)}). Add images."
        )
    total = sum(sizes.values())
    shrunk = {part: size * images // total for part, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda part: -(sizes[part] * images % total))
    for part in by_remainder[: images - sum(shrunk.values())]:
        shrunk[part] += 1
    for part in [part for part, size in shrunk.items() if size == 0]:
        shrunk[max(shrunk, key=lambda part: shrunk[part])] -= 1
        shrunk[part] = 1
    return shrunk
