"""What a tournament's runs say: tables of changes and comparisons, and verdicts that follow from them alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import cast

import pandas as pd

from headimpact.errors import InputError
from headimpact.evaluation.metrics import Metric, gain_first
from headimpact.selection.rules import CHAMPION
from headimpact.text import listed
from headimpact.tournament.comparison import Comparison, Tournament, analyse
from headimpact.tournament.power import images_needed, smallest_visible
from headimpact.tournament.runs import from_tables

DRAWS = "draw"


@dataclass(frozen=True)
class Standings:
    """Every model's tournament.

    Attributes:
        changes: one row a model, rule, K and metric: the columns of :class:`comparison.Change`.
        comparisons: one row a model, rival, K and metric: see :func:`comparisons_table`.
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
        runs: by model, one row a contestant and object: see :func:`runs.from_tables`.
        originals: the same of the original.
        differences: by metric, the difference that somebody wants to see.

    Raises:
        InputError: as for :func:`runs.from_tables` and :func:`comparison.analyse`, then the message names the model;
            or as for :func:`comparisons_table`.
    """
    tournaments = {model: _analysed(model, table, originals[model]) for model, table in runs.items()}
    return Standings(
        changes=_stacked({model: changes_table(tournament) for model, tournament in tournaments.items()}),
        comparisons=_stacked({m: comparisons_table(tournament, differences) for m, tournament in tournaments.items()}),
        verdicts={model: verdicts(tournament) for model, tournament in tournaments.items()},
    )


def _analysed(model: str, table: pd.DataFrame, original: pd.DataFrame) -> Tournament:
    try:
        return analyse(from_tables(table, original), CHAMPION)
    except InputError as error:
        raise InputError(f"{model}: {error}") from None


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(
        [table.assign(model=model)[["model", *table]] for model, table in tables.items()], ignore_index=True
    )


def changes_table(tournament: Tournament) -> pd.DataFrame:
    """One row a rule, K and metric; the columns are those of :class:`comparison.Change`."""
    return pd.DataFrame([asdict(change) for change in tournament.changes])


def comparisons_table(tournament: Tournament, differences: Mapping[str, float], power: float = 0.8) -> pd.DataFrame:
    """One row a comparison: the columns of :class:`comparison.Comparison` but ``spread``, and what could be seen.

    ``twins`` are the rules that took the rival's layers, as in ``mass, auroc``. Further columns: ``winner``;
    ``visible``, the true difference that would be claimed with probability ``power``; ``images_needed`` to see the
    metric's ``difference`` with it. Both are infinite against a rule that took the champion's layers.

    Raises:
        InputError: as for :func:`power.images_needed`, or a metric has no difference.
    """
    for comparison in tournament.comparisons:
        if comparison.metric not in differences:
            raise InputError(
                f"tournament.differences.{comparison.metric} is not set: give the difference of {comparison.metric} "
                "that matters. The tournament says how many test images it takes to see it."
            )
    return pd.DataFrame(
        {name: value for name, value in asdict(comparison).items() if name != "spread"}
        | {
            "twins": ", ".join(comparison.twins),
            "winner": comparison.winner,
            "visible": smallest_visible(comparison, power),
            "difference": differences[comparison.metric],
            "images_needed": images_needed(comparison, differences[comparison.metric], power),
        }
        for comparison in tournament.comparisons
    )


def headlines(comparisons: pd.DataFrame) -> dict[tuple[str, int], str]:
    """By model and K what can be claimed, in a line, from a table of :attr:`Standings.comparisons`."""
    lines = {}
    for key, of_model in comparisons.groupby(["model", "k"]):
        measured = {name: metric for name, metric in gain_first().items() if (of_model["metric"] == name).any()}
        claims = (f"{m.label}: {_headline(of_model[of_model['metric'] == name])}" for name, m in measured.items())
        lines[cast(tuple[str, int], key)] = "; ".join(claims)
    return lines


def _headline(comparisons: pd.DataFrame) -> str:
    better, worse, undecided = dict[str, None](), dict[str, None](), dict[str, None]()
    for row in comparisons.to_dict("records"):
        rules = sorted([row["rival"], *filter(None, row["twins"].split(", "))])
        if row["rule"] not in rules:
            group = better if row["winner"] == row["rule"] else worse if row["winner"] == row["rival"] else undecided
            group[" = ".join(rules)] = None
    claims = [f"{word} than {listed(list(group))}" for word, group in (("better", better), ("worse", worse)) if group]
    return ", ".join([*claims, *([f"{len(undecided)} undecided"] if undecided else [])]) or "nothing to compare"


def verdicts(tournament: Tournament) -> list[str]:
    """What may be claimed of the champion, K by K: which rules took its layers; then a sentence a metric.

    First against random draws, then against the other rules, from the simultaneous intervals alone. Where the
    interval holds 0 no rule is called better; what is said then is the largest difference, either way, that the
    intervals leave possible, or that they leave everything possible.
    """
    sentences = []
    for k in sorted({comparison.k for comparison in tournament.comparisons}):
        at_k = [comparison for comparison in tournament.comparisons if comparison.k == k]
        champion = at_k[0].rule
        draws = next((f", {comparison.rival_runs} draws" for comparison in at_k if comparison.rival == DRAWS), "")
        size = f"{at_k[0].images} test images, {at_k[0].runs} seeds{draws}"
        if same := dict.fromkeys(_name(comparison.rival, k) for comparison in at_k if comparison.same):
            sentences.append(f"{_name(champion, k)} took the same layers as {listed(list(same))}: nothing to compare.")
        differing = [comparison for comparison in at_k if not comparison.same]
        drawn = [comparison for comparison in differing if comparison.rival == DRAWS]
        others = [comparison for comparison in differing if comparison.rival != DRAWS]
        for rivals, metric in product((drawn, others), gain_first().values()):
            if group := [comparison for comparison in rivals if comparison.metric == metric.name]:
                sentences.append(_verdict(metric, group, size))
    return sentences


def _verdict(metric: Metric, group: Sequence[Comparison], size: str) -> str:
    champion = _name(group[0].rule, group[0].k)
    better, worse = _verbs(metric)
    won = [comparison for comparison in group if comparison.winner == comparison.rule]
    lost = [comparison for comparison in group if comparison.winner == comparison.rival]
    undecided = [comparison for comparison in group if comparison.winner is None]
    claims = [f"{champion} {verb} {_decided(of)}" for verb, of in ((better, won), (worse, lost)) if of]
    if undecided:
        low, high = min(c.low for c in undecided), max(c.high for c in undecided)
        bound = max(-low, high)
        claim = f"no difference larger than {bound:.3g}" if bound < metric.largest else "nothing"
        claims.append(
            f"{claim} can be claimed at this n between {champion} and {listed(list(_rivals(undecided)))} "
            f"[{low:.3g} to {high:.3g}]"
        )
    return f"{str(metric.aspect).capitalize()} ({metric.label}): {'; '.join(claims)} (n: {size})."


def _verbs(metric: Metric) -> tuple[str, str]:
    """What the better rule does to a rival, and what the worse one does."""
    if metric.aspect == "gain":
        return "beats", "is beaten by"
    better, worse = ("more", "less") if metric.higher_is_better else ("less", "more")
    return f"keeps {better} {metric.label} than", f"keeps {worse} {metric.label} than"


def _decided(group: Sequence[Comparison]) -> str:
    differences = []
    for name, comparison in _rivals(group).items():
        low, high = sorted((abs(comparison.low), abs(comparison.high)))
        differences.append(f"{name} by {abs(comparison.advantage):.3g} [{low:.3g} to {high:.3g}]")
    return listed(differences)


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
