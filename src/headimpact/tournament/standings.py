"""What a tournament's runs say: tables of changes and comparisons, and verdicts that follow from them alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, cast

import numpy as np
import pandas as pd

from headimpact.errors import InputError
from headimpact.selection.rules import CHAMPION
from headimpact.text import listed
from headimpact.tournament.comparison import (
    MEASURES,
    Comparison,
    Measure,
    Runs,
    Tournament,
    analyse,
    images_needed,
    smallest_visible,
)

DRAWS = "draw"
_RUN = ["rule", "k", "seed", "draw"]
_OBJECT = ["image_id", "object_id"]
_COLUMNS = [measure.column for measure in MEASURES.values()]
_VERBS = {"gain": ("beats", "is beaten by"), "forgetting": ("keeps more {} than", "keeps less {} than")}


@dataclass(frozen=True)
class Standings:
    """Every model's tournament.

    Attributes:
        changes: one row a model, rule, K and measure: the columns of :class:`comparison.Change`.
        comparisons: one row a model, rival, K and measure: see :func:`comparisons_table`.
        verdicts: by model, what may be claimed: see :func:`verdicts`.
    """

    changes: pd.DataFrame
    comparisons: pd.DataFrame
    verdicts: dict[str, list[str]]


def standings(
    runs: Mapping[str, pd.DataFrame], originals: Mapping[str, pd.DataFrame], differences: Mapping[str, float]
) -> Standings:
    """Every rule against the original and top against every other rule, model by model.

    Each model is a tournament of its own: intervals and p-values are corrected for all comparisons of that model.

    Args:
        runs: by model, as for :func:`read_runs`.
        originals: the same of the original.
        differences: by measure, the difference that somebody wants to see.

    Raises:
        InputError: as for :func:`read_runs`, :func:`comparison.analyse` and :func:`comparison.images_needed`; the
            message names the model.
    """
    found = {model: _analysed(model, table, originals[model]) for model, table in runs.items()}
    return Standings(
        changes=_stacked({model: changes_table(tournament) for model, tournament in found.items()}),
        comparisons=_stacked({model: comparisons_table(one, differences) for model, one in found.items()}),
        verdicts={model: verdicts(tournament) for model, tournament in found.items()},
    )


def _analysed(model: str, table: pd.DataFrame, original: pd.DataFrame) -> Tournament:
    try:
        return analyse(read_runs(table, original), CHAMPION)
    except InputError as error:
        raise InputError(f"{model}: {error}") from None


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(
        [table.assign(model=model)[["model", *table]] for model, table in tables.items()], ignore_index=True
    )


def read_runs(table: pd.DataFrame, original: pd.DataFrame) -> Runs:
    """Runs from one long table: rule, k, seed, draw, image_id, object_id, nll, correct, ans_prob.

    Args:
        table: one row a run and object, in any order; ``correct`` may be a share (mean over orders of options).
            ``k`` is the K whose budget the run has, so that ``full`` at a matching rank stands beside top-K.
            ``draw`` tells the draws of a rule apart, and is one number, such as 0, for a rule that draws nothing.
        original: one row an object, without the first four columns.

    Raises:
        InputError: a column is missing, a figure is not finite, an object comes twice, or a run holds other
            objects than the original.
    """
    _require(table, [*_RUN, *_OBJECT, *_COLUMNS], "The table of runs")
    _require(original, [*_OBJECT, *_COLUMNS], "The table of the original")
    if table[_RUN].isna().to_numpy().any():
        raise InputError("The table of runs has a run without a rule, K, seed or draw: write 0 where nothing is drawn.")
    before = _figures(original, "The original")
    adapted: dict[tuple[Any, ...], np.ndarray] = {}
    for key, group in table.groupby(_RUN, sort=False):
        run = cast(tuple[Any, ...], key)
        name = f"{run[0]}-{run[1]} (seed {run[2]}, draw {run[3]})"
        found = _figures(group, name)
        if len(found) != len(before) or not found.index.isin(before.index).all():
            raise InputError(f"{name} was evaluated on other objects than the original: evaluate both again.")
        adapted[run] = found.loc[before.index].to_numpy()
    if not adapted:
        raise InputError("There is no run to compare: run the tournament first.")
    rules, ks, seeds, draws = zip(*adapted, strict=True)
    stacked = np.stack(list(adapted.values()))
    return Runs(
        rules=tuple(map(str, rules)),
        ks=np.array(ks, dtype=np.int64),
        seeds=np.array(seeds, dtype=np.int64),
        draws=np.array(draws, dtype=np.int64),
        images=before.index.get_level_values("image_id").to_numpy(dtype=np.int64),
        adapted={name: stacked[:, :, i] for i, name in enumerate(_COLUMNS)},
        original={name: before[name].to_numpy() for name in _COLUMNS},
    )


def _require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    if missing := [column for column in columns if column not in table.columns]:
        raise InputError(f"{what} lacks the columns {', '.join(missing)}: evaluate again.")


def _figures(table: pd.DataFrame, name: str) -> pd.DataFrame:
    found = table.set_index(_OBJECT)[_COLUMNS].astype(np.float64)
    if found.index.has_duplicates:
        raise InputError(f"{name} holds object {found.index[found.index.duplicated()][0]} twice: evaluate it again.")
    if not np.isfinite(found.to_numpy()).all():
        raise InputError(f"{name} holds a figure that is not a finite number: evaluate it again.")
    return found


def changes_table(tournament: Tournament) -> pd.DataFrame:
    """One row a rule, K and measure; the columns are those of :class:`comparison.Change`."""
    return pd.DataFrame([asdict(change) for change in tournament.changes])


def comparisons_table(tournament: Tournament, differences: Mapping[str, float], power: float = 0.8) -> pd.DataFrame:
    """One row a comparison: the columns of :class:`comparison.Comparison` but ``spread``, and what could be seen.

    ``twins`` are the rules that took the rival's layers, as in ``mass, auroc``. Further columns: ``winner``;
    ``visible``, the true difference that would be claimed with probability ``power``; ``images_needed`` to see the
    measure's ``difference`` with it. Both are infinite against a rule that took the champion's layers.

    Raises:
        InputError: as for :func:`comparison.images_needed`.
        KeyError: a measure has no difference.
    """
    return pd.DataFrame(
        {name: value for name, value in asdict(comparison).items() if name != "spread"}
        | {
            "twins": ", ".join(comparison.twins),
            "winner": comparison.winner,
            "visible": smallest_visible(comparison, power),
            "difference": differences[comparison.measure],
            "images_needed": images_needed(comparison, differences[comparison.measure], power),
        }
        for comparison in tournament.comparisons
    )


def headlines(comparisons: pd.DataFrame) -> dict[tuple[str, int], str]:
    """By model and K what can be claimed, in a line, from a table of :attr:`Standings.comparisons`."""
    told = {}
    for key, own in comparisons.groupby(["model", "k"]):
        headline = (f"{measure.name}: {_headline(own[own['measure'] == name])}" for name, measure in MEASURES.items())
        told[cast(tuple[str, int], key)] = "; ".join(headline)
    return told


def _headline(comparisons: pd.DataFrame) -> str:
    better, worse, undecided = dict[str, None](), dict[str, None](), dict[str, None]()
    for row in comparisons.to_dict("records"):
        rules = sorted([row["rival"], *filter(None, row["twins"].split(", "))])
        if row["rule"] not in rules:
            group = better if row["winner"] == row["rule"] else worse if row["winner"] == row["rival"] else undecided
            group[" = ".join(rules)] = None
    told = [f"{word} than {listed(list(group))}" for word, group in (("better", better), ("worse", worse)) if group]
    return ", ".join([*told, *([f"{len(undecided)} undecided"] if undecided else [])]) or "nothing to compare"


def verdicts(tournament: Tournament) -> list[str]:
    """What may be claimed of the champion, K by K: which rules took its layers; then a sentence a measure.

    First against random draws, then against the other rules, from the simultaneous intervals alone. Where the
    interval holds 0 no rule is called better; what is said then is the largest difference, either way, that the
    intervals leave possible, or that they leave everything possible.
    """
    told = []
    for k in sorted({comparison.k for comparison in tournament.comparisons}):
        own = [comparison for comparison in tournament.comparisons if comparison.k == k]
        champion = own[0].rule
        draws = next((f", {comparison.rival_runs} draws" for comparison in own if comparison.rival == DRAWS), "")
        size = f"{own[0].images} test images, {own[0].runs} seeds{draws}"
        if same := dict.fromkeys(_name(comparison.rival, k) for comparison in own if comparison.same):
            told.append(f"{_name(champion, k)} took the same layers as {listed(list(same))}: nothing to compare.")
        compared = [comparison for comparison in own if not comparison.same]
        drawn = [comparison for comparison in compared if comparison.rival == DRAWS]
        others = [comparison for comparison in compared if comparison.rival != DRAWS]
        for rivals, (name, measure) in product((drawn, others), MEASURES.items()):
            if group := [comparison for comparison in rivals if comparison.measure == name]:
                told.append(_verdict(measure, group, size))
    return told


def _verdict(measure: Measure, group: Sequence[Comparison], size: str) -> str:
    champion = _name(group[0].rule, group[0].k)
    better, worse = (verb.format(measure.name) for verb in _VERBS[measure.aspect])
    won = [comparison for comparison in group if comparison.winner == comparison.rule]
    lost = [comparison for comparison in group if comparison.winner == comparison.rival]
    undecided = [comparison for comparison in group if comparison.winner is None]
    told = [f"{champion} {verb} {_decided(found)}" for verb, found in ((better, won), (worse, lost)) if found]
    if undecided:
        low, high = min(c.low for c in undecided), max(c.high for c in undecided)
        bound = max(-low, high)
        claim = f"no difference larger than {bound:.3g}" if bound < measure.largest else "nothing"
        told.append(
            f"{claim} can be claimed at this n between {champion} and {listed(list(_rivals(undecided)))} "
            f"[{low:.3g} to {high:.3g}]"
        )
    return f"{measure.aspect.capitalize()} ({measure.name}): {'; '.join(told)} (n: {size})."


def _decided(group: Sequence[Comparison]) -> str:
    told = []
    for name, comparison in _rivals(group).items():
        low, high = sorted((abs(comparison.low), abs(comparison.high)))
        told.append(f"{name} by {abs(comparison.advantage):.3g} [{low:.3g} to {high:.3g}]")
    return listed(told)


def _rivals(group: Sequence[Comparison]) -> dict[str, Comparison]:
    """One comparison a set of layers, by the names of all rules that took it."""
    named: dict[str, Comparison] = {}
    for comparison in group:
        rules = sorted([comparison.rival, *comparison.twins])
        named.setdefault(" = ".join(_name(rule, comparison.k) for rule in rules), comparison)
    return named


def _name(rule: str, k: int) -> str:
    if rule == DRAWS:
        return "random draws"
    return f"{rule}-{k} by HI" if rule == CHAMPION else f"{rule}-{k}"
