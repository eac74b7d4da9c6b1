"""Tournaments made up for the tests of comparison and standings."""

import numpy as np
import pandas as pd

from headimpact.tournament.comparison import Comparison, Spread
from headimpact.tournament.runs import Runs

COLUMNS = ("nll", "correct", "ans_prob")


def make(
    keys: list[tuple[str, int, int, int]],
    images: int = 40,
    image_sd: float = 0.3,
    run_sd: float = 0.1,
    both_sd: float = 0.1,
    per_image: tuple[int, int] = (1, 4),
    seed: int = 0,
    twins: bool = False,
) -> Runs:
    """Runs (rule, K, seed, draw) whose rules, runs and images all matter; ``twins``: runs of a rule are the same."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(rng.permutation(images) * 7, rng.integers(per_image[0], per_image[1] + 1, images))
    shared = rng.normal(0, image_sd, images * 7)[clusters] + rng.normal(0, image_sd, len(clusters))
    cells: dict[tuple[str, int], np.ndarray] = {}
    adapted: dict[str, list[np.ndarray]] = {column: [] for column in COLUMNS}
    for column, figures in adapted.items():
        cells = {}
        for rule, k, _, _ in keys:
            if (rule, k) not in cells:
                cells[rule, k] = shared + rng.normal(0, image_sd, images * 7)[clusters] + rng.normal(0, 0.1)
            own = rng.normal(0, run_sd) + rng.normal(0, both_sd, images * 7)[clusters]
            figures.append(1 + cells[rule, k] + (0 if twins else own))
        assert len(figures) == len(keys), column
    rules, ks, seeds, draws = zip(*keys, strict=True)
    return Runs(
        rules=rules,
        ks=np.array(ks),
        seeds=np.array(seeds),
        draws=np.array(draws),
        images=clusters,
        adapted={column: np.stack(figures) for column, figures in adapted.items()},
        original={column: 1.5 + 0.5 * shared for column in COLUMNS},
    )


def seeded(*rules: str, k: int = 4, seeds: int = 3) -> list[tuple[str, int, int, int]]:
    return [(rule, k, seed, 0) for rule in rules for seed in range(seeds)]


def only(found: tuple, **wanted: object):
    """The one row that has the wanted values."""
    (one,) = [row for row in found if all(getattr(row, name) == value for name, value in wanted.items())]
    return one


def tables(runs: Runs) -> tuple[pd.DataFrame, pd.DataFrame]:
    ids = {"image_id": runs.images, "object_id": np.arange(len(runs.images))}
    parts = []
    for i, (rule, k, seed, draw) in enumerate(zip(runs.rules, runs.ks, runs.seeds, runs.draws, strict=True)):
        figures = {column: runs.adapted[column][i] for column in COLUMNS}
        parts.append(pd.DataFrame({"rule": rule, "k": k, "seed": seed, "draw": draw} | ids | figures))
    return pd.concat(parts, ignore_index=True), pd.DataFrame(ids | dict(runs.original))


def comparison(
    rival: str = "random",
    low: float = 0.05,
    high: float = 0.19,
    metric: str = "perplexity",
    k: int = 4,
    twins: tuple[str, ...] = (),
) -> Comparison:
    spread = Spread(images=4e-4, both=1e-4, runs=0.0, t_images=3.0, t_runs=3.0)
    se = (high - low) / 6
    return Comparison("top", rival, k, metric, (low + high) / 2, se, low, high, 0.02, 300, 3, 5, twins, spread)
