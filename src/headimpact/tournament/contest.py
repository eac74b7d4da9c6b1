"""Who takes part in a tournament, and the runs that this takes: what two rules have in common is trained once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pyarrow import ArrowException

from headimpact import statistics
from headimpact.adapters.cell import Placement
from headimpact.errors import InputError
from headimpact.files import atomic_file
from headimpact.selection.selection import Selection

METRICS = ("perplexity", "accuracy", "ans_prob")

RESULTS = ["image_id", "object_id", "nll", "correct", "ans_prob"]
"""The columns of a run's objects: as :class:`headimpact.evaluation.objects.ObjectResult` has them."""


class Key(NamedTuple):
    """What tells a run from others of the same context; layers and ranks as text, as in "0,3" and "8,8".

    Without layers it is the original. Without ranks every layer has the rank of the settings.
    """

    layers: str
    ranks: str
    seed: int


@dataclass(frozen=True)
class Contestant:
    """A rule at one K, with one training seed and, where the rule draws, one draw."""

    rule: str
    k: int
    seed: int
    draw: int

    @property
    def setup(self) -> str:
        """As select knows it."""
        return f"draw-{self.k}-{self.draw}" if self.rule == "draw" else f"{self.rule}-{self.k}"


@dataclass(frozen=True)
class Run:
    """One training and its evaluation; of the original its evaluation alone."""

    adapted: Placement
    seed: int

    @property
    def key(self) -> Key:
        """What tells it from others."""
        layers, ranks = self.adapted.layers, self.adapted.ranks or {}
        return Key(",".join(map(str, layers)), ",".join(str(ranks[layer]) for layer in ranks and layers), self.seed)


_COLUMNS = ["context", *Key._fields, "trainable", *RESULTS]
ORIGINAL = Run(Placement(()), 0)


@dataclass(frozen=True)
class Contest:
    """All that takes part for one model.

    Attributes:
        model: its name.
        revision: of the base, as it was loaded.
        context: digest of what the results depend on beside the run itself: weights, dataset, settings, code.
        runs: the run of every contestant.
        selections: the selected layers by setup.
        workers: processes that can train at once.
    """

    model: str
    revision: str | None
    context: str
    runs: Mapping[Contestant, Run]
    selections: Mapping[str, Selection]
    workers: int


def contestants(rules: Sequence[str], ks: Sequence[int], seeds: Sequence[int], draws: int) -> Iterator[Contestant]:
    """Every rule at every K with every seed; each draw with one of the seeds, in turn."""
    for rule in rules:
        for k in ks:
            if rule == "draw":
                yield from (Contestant(rule, k, seeds[draw % len(seeds)], draw) for draw in range(draws))
            else:
                yield from (Contestant(rule, k, seed, 0) for seed in seeds)


def read_runs(path: Path, context: str) -> pd.DataFrame:
    """The results of the finished runs: one row a run and object. Those of another context are left out.

    Raises:
        InputError: the file is damaged.
    """
    table = _read(path)
    return table[table["context"] == context]


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=_COLUMNS)
    try:
        return pd.read_parquet(path, columns=_COLUMNS)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged ({error}). Restore it or remove it: its runs are trained again.") from None


def finished(table: pd.DataFrame) -> set[Key]:
    """The runs in a table of :func:`read_runs`."""
    return {Key(*row) for row in table[list(Key._fields)].drop_duplicates().itertuples(index=False)}


def keep(path: Path, context: str, run: Run, trainable: int, objects: pd.DataFrame) -> None:
    """Add a finished run to the file, which is whole at every moment; runs of other contexts stay."""
    found = objects[RESULTS].assign(context=context, **run.key._asdict(), trainable=trainable)
    found = found[_COLUMNS].astype({"nll": "float32", "ans_prob": "float32"})
    before = _read(path)
    with atomic_file(path) as aside:
        (pd.concat([before, found]) if len(before) else found).to_parquet(aside, index=False)


def original(table: pd.DataFrame) -> pd.DataFrame:
    """The original's results in a table of :func:`read_runs`: one row an object."""
    return table[table["layers"] == ""]


def long_table(contest: Contest, table: pd.DataFrame) -> pd.DataFrame:
    """The results of every contestant: one row a contestant and object, with rule, k, seed and draw."""
    by_run = _by_run(table)
    return pd.concat([by_run[run.key].assign(**asdict(entry)) for entry, run in contest.runs.items()])


def cells(contest: Contest, table: pd.DataFrame, rank: int) -> pd.DataFrame:
    """One row a contestant: what it adapts, its trainable parameters, and the metrics on the test part.

    ``rank`` is the one of the settings; the column of this name has "2 to 3" where layers have ranks of their own.
    """
    by_run = _by_run(table)
    rows = []
    for entry, run in contest.runs.items():
        found = by_run[run.key]
        ranks = sorted(set((run.adapted.ranks or {0: rank}).values()))
        told = " to ".join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))
        row = {"model": contest.model} | asdict(entry) | {"layers": run.key.layers, "rank": told}
        perplexity = statistics.perplexity(found["nll"].to_numpy(float), found["image_id"].to_numpy()).value
        row |= {"trainable": int(found["trainable"].iloc[0]), "perplexity": perplexity}
        rows.append(row | {"accuracy": found["correct"].mean(), "ans_prob": found["ans_prob"].mean()})
    return pd.DataFrame(rows)


def _by_run(table: pd.DataFrame) -> dict[Key, pd.DataFrame]:
    return {Key(*key): group for key, group in table.groupby(list(Key._fields), sort=False)}  # pyright: ignore
