"""Who takes part in a tournament, and the runs that this takes: what two rules have in common is trained once.

A *contestant* is a rule at one K with one seed and, where the rule draws, one draw. A *run* is one training and its
evaluation: contestants that adapt the same layers with the same seed have the same run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pyarrow import ArrowException

from headimpact.adapters.cell import Placement
from headimpact.errors import InputError
from headimpact.evaluation.metrics import compared_columns, gain_first
from headimpact.files import atomic_file
from headimpact.selection.selection import Selection
from headimpact.text import listed
from headimpact.tournament.names import layers_of


class Key(NamedTuple):
    """What tells a run from others of the same context; layers and ranks as text, as in "0,3" and "8,8".

    Without layers it is the original. Without ranks every layer has the rank of the settings; after "whole" they are
    those whose parameters all projections share.
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
        """As select knows it: the setup that chooses the layers."""
        return f"draw-{self.k}-{self.draw}" if self.rule == "draw" else f"{layers_of(self.rule)}-{self.k}"


@dataclass(frozen=True)
class Run:
    """One training and its evaluation; of the original its evaluation alone.

    Attributes:
        adapted: where the adapter goes.
        seed: of its training.
        whole: it goes on all projections of these layers, with as many parameters (:mod:`headimpact.adapters.whole`).
    """

    adapted: Placement
    seed: int
    whole: bool = False

    @property
    def key(self) -> Key:
        """What tells it from others."""
        layers, ranks = self.adapted.layers, self.adapted.ranks or {}
        told = [*(["whole"] if self.whole else []), *(str(ranks[layer]) for layer in ranks and layers)]
        return Key(",".join(map(str, layers)), ",".join(told), self.seed)


ORIGINAL = Run(Placement(()), 0)
_KEY = list(Key._fields)
# Of a file of runs, beside those that the metrics need.
_COLUMNS = ["context", *_KEY, "trainable", "image_id", "object_id"]

_STORED = "stored"  # of a table's attributes: the columns that the file has


@dataclass(frozen=True)
class Contest:
    """All that takes part for one model.

    Attributes:
        model: its name.
        revision: of the base, as it was loaded.
        context: digest of what the results depend on beside the run itself: weights, dataset, settings, code.
        runs: by contestant, its run.
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
    """The results of the finished runs: one row a run and object, with the columns that the compared metrics need.

    Runs of another context are left out, and those that lack a metric: see :func:`outdated`.

    Raises:
        InputError: the file is damaged.
    """
    results = _of_context(path, context)
    return results[~_lacking(results).any(axis=1)].infer_objects()


def outdated(path: Path, context: str) -> str | None:
    """A sentence about the runs that were evaluated before one of the metrics existed; None where there is none.

    Raises:
        InputError: the file is damaged.
    """
    results = _of_context(path, context)
    lacking = _lacking(results)
    if not (count := len(finished(results[lacking.any(axis=1)]))):
        return None
    columns = set(lacking.columns[lacking.any()])
    metrics = [metric.name for metric in gain_first().values() if columns.intersection(metric.columns)]
    return (
        f"{count} of the runs in {path} were evaluated before there was the metric {listed(metrics)}: they are missing "
        "until the tournament evaluates them again. Their adapters are not kept, so it trains them again, too."
    )


def _of_context(path: Path, context: str) -> pd.DataFrame:
    """All runs of a context; a figure that a run lacks is missing (NaN)."""
    table = _read(path)
    results = table.loc[table["context"] == context].reindex(columns=[*_COLUMNS, *compared_columns()])
    results.attrs[_STORED] = list(table)
    return results


def _lacking(results: pd.DataFrame) -> pd.DataFrame:
    """For every row and column of the metrics, whether its run has no figure at all in that column.

    In a metric of questions nothing lacks where the original was evaluated and has none: there is no question.
    """
    columns = compared_columns()
    present = results[columns].notna().groupby([results[name] for name in _KEY]).transform("any").astype(bool)
    before = original(results)
    for metric in gain_first().values():
        if (
            metric.asked
            and metric.column in results.attrs[_STORED]
            and before[metric.column].isna().all()
            and len(before)
        ):
            present[metric.column] = True
    return ~present


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=[*_COLUMNS, *compared_columns()])
    try:
        table = pd.read_parquet(path)
    except (ArrowException, OSError) as error:
        raise _damaged(path, str(error)) from None
    if absent := [name for name in _COLUMNS if name not in table]:
        raise _damaged(path, f"it lacks {', '.join(absent)}")
    return table


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged ({what}). Restore it or remove it: its runs are trained again.")


def finished(table: pd.DataFrame) -> set[Key]:
    """The runs in a table of :func:`read_runs`."""
    return {Key(*row) for row in table[_KEY].drop_duplicates().itertuples(index=False)}


def keep(path: Path, context: str, run: Run, trainable: int, objects: pd.DataFrame) -> None:
    """Add a finished run to the file, which is whole at every moment; it takes the place of an outdated one.

    Runs of other contexts stay. Of ``objects`` the columns that the compared metrics need are kept, single precision.
    """
    results = objects[["image_id", "object_id", *compared_columns()]]
    results = results.astype(dict.fromkeys(results.select_dtypes("float64"), "float32"))
    results = results.assign(context=context, **run.key._asdict(), trainable=trainable)
    results = results[[*_COLUMNS, *compared_columns()]]
    before = _read(path)
    replaced = (before["context"] == context) & (before[_KEY] == list(run.key)).all(axis=1)
    before = before[~replaced]
    with atomic_file(path) as aside:
        (pd.concat([before, results]) if len(before) else results).to_parquet(aside, index=False)


def original(table: pd.DataFrame) -> pd.DataFrame:
    """The original's results in a table of :func:`read_runs`: one row an object."""
    return table[table["layers"] == ""]


def long_table(contest: Contest, table: pd.DataFrame) -> pd.DataFrame:
    """The results of every contestant: one row a contestant and object, with rule, k, seed and draw."""
    by_run = _by_run(table)
    return pd.concat([by_run[run.key].assign(**asdict(contestant)) for contestant, run in contest.runs.items()])


def cells(contest: Contest, table: pd.DataFrame, rank: int) -> pd.DataFrame:
    """One row a contestant: what it adapts, its trainable parameters, and the compared metrics on the test part.

    ``rank`` is the one of the settings; the column of this name has "2 to 3" where layers have ranks of their own,
    and "matched" where every projection has one.
    """
    by_run = _by_run(table)
    rows = []
    for contestant, run in contest.runs.items():
        results = by_run[run.key]
        ranks = sorted(set((run.adapted.ranks or {0: rank}).values()))
        row = {"model": contest.model} | asdict(contestant) | {"layers": run.key.layers}
        row["rank"] = "matched" if run.whole else " to ".join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))
        row["trainable"] = int(results["trainable"].iloc[0])
        for name, metric in gain_first().items():
            # A plain mean has the digits of its column: it is kept in single precision.
            values = metric.of(results)[metric.column]
            row[name] = metric.estimate(results).value if metric.exponential else values.mean() if len(values) else None
        rows.append(row)
    return pd.DataFrame(rows)


def _by_run(table: pd.DataFrame) -> dict[Key, pd.DataFrame]:
    return {Key(*key): group for key, group in table.groupby(_KEY, sort=False)}  # pyright: ignore
