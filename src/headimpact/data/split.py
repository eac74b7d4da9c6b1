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


LEAST = {"impact": 2, "test": 2}
"""Images that a part needs, where it is not one: the chance level takes masks of another image, and a standard error
takes two."""


def least_of(parts: Iterable[str]) -> dict[str, int]:
    """Images that each of the parts needs."""
    return {part: LEAST.get(part, 1) for part in parts}


def split_in_proportion(
    ids: Iterable[int] | Int[np.ndarray, " images"], sizes: Mapping[str, int | float], seed: int
) -> dict[str, list[int]]:
    """Like ``split``: exactly ``sizes``, or their proportions where there are fewer images.

    Sizes that are all below 1 are shares of the images there are. Proportions are by largest remainder; a part that
    would get fewer than ``LEAST`` takes from the largest part.

    Raises:
        InputError: there are fewer images than the parts need.
    """
    everything = np.unique(np.fromiter(ids, np.int64))
    return split(everything, sizes_of(sizes, len(everything)), seed)


def sizes_of(sizes: Mapping[str, int | float], images: int) -> dict[str, int]:
    """How many of some images each part has: see :func:`split_in_proportion`.

    Raises:
        InputError: there are fewer images than the parts need.
    """
    shares = max(sizes.values()) < 1
    if not shares and images >= sum(sizes.values()):
        return {part: int(size) for part, size in sizes.items()}
    least = least_of(sizes)
    if images < sum(least.values()):
        needs = ", ".join(f"{count} for {part}" for part, count in least.items())
        raise InputError(
            f"There are {images} images with a usable object; a dataset needs at least {sum(least.values())}: {needs}. "
            "Add images."
        )
    # Shares as whole numbers, so that no rounding decides.
    weights = {part: round(size * 10**6) if shares else int(size) for part, size in sizes.items()}
    total = 10**6 if shares else sum(weights.values())
    wanted = max(round(images * sum(weights.values()) / total), sum(least.values()))
    counts = {part: weight * images // total for part, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda part: -(weights[part] * images % total))
    for part in by_remainder[: wanted - sum(counts.values())]:
        counts[part] += 1
    for part, needed in least.items():
        while counts[part] < needed:
            if sum(counts.values()) >= wanted:
                counts[max(counts, key=lambda other: counts[other] - least[other])] -= 1
            counts[part] += 1
    return counts
