"""What was measured of a model, and what may be claimed of it: from a tournament, or from evaluated setups.

Of a tournament the claims are its own: the intervals of the advantage of the champion over every rival hold all at
once, so two rules of one K differ where these intervals do not overlap. Of setups that were evaluated (one adapter
each) every pair is compared on the same objects, and p-values are corrected by Holm's method for all pairs and metrics.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from headimpact.evaluation.beside_original import same_objects
from headimpact.evaluation.metrics import Metric
from headimpact.report.outputs import ORIGINAL, Pair, TournamentFiles
from headimpact.report.rows import records
from headimpact.selection.rules import CHAMPION, RULES
from headimpact.statistics import Difference
from headimpact.tournament.decision import CLAIMS, COLUMNS, FORGETTING, GAIN, Decision, decide

LEVEL = 0.05
"""The probability of any wrong claim of a model."""
DEFAULT = "full-4"
"""What the embedded tournament's evidence supports (docs/results.md): taken where there is no tournament to ask."""
_ASKED = (GAIN, FORGETTING)
_Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of one model.

    Attributes:
        source: what decides; a tournament goes before evaluations, since it covers training seeds.
        measured: what decides, one row a setup: the columns of :data:`decision.COLUMNS`, ``names`` (of all rules that
            took the same layers), ``runs`` and ``images``.
        claims: of these: :data:`decision.CLAIMS`.
        others: setups that were evaluated beside a tournament that has not got them; the same columns.
    """

    source: Literal["tournament", "evaluations", "nothing"]
    measured: pd.DataFrame
    claims: pd.DataFrame
    others: pd.DataFrame


def evidence(
    model: str,
    results: Mapping[Pair, Mapping[str, Any]],
    objects: Mapping[Pair, pd.DataFrame],
    tournament: TournamentFiles | None,
) -> Evidence:
    """The evidence of a model.

    Args:
        model: its name.
        results: by model and setup, the content of results.json.
        objects: by model and setup, the results of every test object.
        tournament: the files of a tournament; it counts if the model took part, on the objects of today's test part
            and, where the original was evaluated on them, with its results.
    """
    evaluated, claims = _of_evaluations(model, results, objects)
    if tournament is None or not _counts(model, objects, tournament):
        return Evidence("evaluations" if len(evaluated) else "nothing", evaluated, claims, evaluated.iloc[:0])
    measured, claims = _of_tournament(model, tournament)
    known = {name for names in measured["names"] for name in names.split(" = ")}
    return Evidence("tournament", measured, claims, evaluated[~evaluated["setup"].isin(known)])


def default_setup(tournament: TournamentFiles | None, bound: float) -> str:
    """What a tournament says of most of its models: taken for a model that has no evidence of its own."""
    if tournament is None:
        return DEFAULT
    chosen = [
        decide(*_of_tournament(model, tournament), bound, DEFAULT).setup
        for model in dict.fromkeys(tournament.changes["model"])
    ]
    chosen = [setup for setup in chosen if setup != ORIGINAL]
    return max(chosen, key=chosen.count) if chosen else DEFAULT


def decision_of(found: Evidence, bound: float, default: str) -> Decision:
    """What the evidence of a model decides."""
    return decide(found.measured, found.claims, bound, default)


def _counts(model: str, objects: Mapping[Pair, pd.DataFrame], tournament: TournamentFiles) -> bool:
    """Whether a tournament is about this model on this test part."""
    if tournament.elsewhere or model not in set(tournament.changes["model"]):
        return False
    here, there = objects.get((model, ORIGINAL)), tournament.originals.get(model)
    if here is None or there is None or GAIN.column not in here:
        return True
    there = there.sort_values("object_id", ignore_index=True)
    here = here.sort_values("object_id", ignore_index=True)
    return same_objects(here, there) and np.allclose(here[GAIN.column], there[GAIN.column], rtol=1e-2, atol=1e-3)


# ---- a tournament


def _of_tournament(model: str, files: TournamentFiles) -> tuple[pd.DataFrame, pd.DataFrame]:
    changes = files.changes[files.changes["model"] == model]
    comparisons = files.comparisons[files.comparisons["model"] == model]
    cells = files.cells[files.cells["model"] == model]
    trainable = cells.groupby(["rule", "k"])["trainable"].max()
    rows: list[dict[str, Any]] = []
    for rules, k in _groups(changes, comparisons):
        of_rule = changes[(changes["rule"] == rules[0]) & (changes["k"] == k)].set_index("metric")
        row = {"setup": f"{rules[0]}-{k}", "names": " = ".join(f"{rule}-{k}" for rule in rules)}
        row |= {"trainable": int(trainable[rules[0], k]), "choosable": not RULES[rules[0]].draws}
        row |= {name: int(of_rule[name].iloc[0]) for name in ("runs", "images")}
        figures = {metric: dict(of_rule.loc[metric.name]) for metric in _ASKED if metric.name in of_rule.index}
        rows.append(row | _columns(figures) | {"rule": rules[0], "k": k})
    measured = pd.DataFrame(rows)
    advantages = _advantages(comparisons)
    claims = [
        (*parted, metric.name)
        for a, b in combinations(rows, 2)
        for metric in _ASKED
        if (parted := _apart(a, b, metric, advantages))
    ]
    return measured.drop(columns=["rule", "k"]), pd.DataFrame(claims, columns=CLAIMS)


def _groups(changes: pd.DataFrame, comparisons: pd.DataFrame) -> Iterator[tuple[list[str], int]]:
    """Rules that took the same layers, at every K from the largest; first the one that the registry of rules has first.

    Rules that are no longer there are left out.
    """
    order = list(RULES)
    for k in sorted(set(changes["k"]), reverse=True):
        rules = sorted({rule for rule in changes[changes["k"] == k]["rule"] if rule in RULES}, key=order.index)
        twins = {rule: {rule} for rule in rules}
        for row in records(comparisons[comparisons["k"] == k]):
            names = {row["rival"], *filter(None, str(row["twins"]).split(", "))} & set(rules)
            for rule in names:
                twins[rule] |= names
        for rule in rules:
            together = [name for name in rules if name in twins[rule]]
            if together[0] == rule:
                yield together, int(k)


def _advantages(comparisons: pd.DataFrame) -> dict[tuple[str, int, str], _Interval]:
    """By rule, K and metric, how much better a rule is than the champion, in intervals that hold all at once."""
    intervals: dict[tuple[str, int, str], _Interval] = {}
    for row in records(comparisons):
        intervals[row["rival"], row["k"], row["metric"]] = (-row["high"], -row["low"])
        intervals[CHAMPION, row["k"], row["metric"]] = (0.0, 0.0)
    return intervals


def _apart(
    a: Mapping[str, Any], b: Mapping[str, Any], metric: Metric, advantages: Mapping[tuple[str, int, str], _Interval]
) -> tuple[str, str] | None:
    """The better and the worse of two rules; None where nothing may be claimed.

    At one K by the intervals of their advantages; at different ones by those of each change alone.
    """
    if a["k"] == b["k"]:
        found = [advantages.get((row["rule"], row["k"], metric.name)) for row in (a, b)]
    else:
        ends = [(row[f"{metric.name}_low"], row[f"{metric.name}_high"]) for row in (a, b)]
        found = [end if metric.higher_is_better else (-end[1], -end[0]) for end in ends]
    if found[0] is None or found[1] is None:
        return None
    if found[0][0] > found[1][1]:
        return a["setup"], b["setup"]
    return (b["setup"], a["setup"]) if found[1][0] > found[0][1] else None


# ---- evaluations


def _of_evaluations(
    model: str, results: Mapping[Pair, Mapping[str, Any]], objects: Mapping[Pair, pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    original, rows = objects.get((model, ORIGINAL)), []
    tables = {}
    for name, setup in results:
        table = objects.get((name, setup))
        if name != model or setup == ORIGINAL or table is None or original is None:
            continue
        changes = {metric: change for metric in _ASKED if (change := _difference(metric, table, original))}
        if GAIN in changes:
            tables[setup] = table
            trainable = results[model, setup].get("parameters", {}).get("trainable", 0)
            row = {"setup": setup, "names": setup, "trainable": trainable, "choosable": True}
            row |= {"runs": 1, "images": changes[GAIN].clusters}
            rows.append(row | _columns({metric: vars(change) for metric, change in changes.items()}))
    pairs = [
        (a, b, metric, difference)
        for a, b in combinations(tables, 2)
        for metric in _ASKED
        if (difference := _difference(metric, tables[a], tables[b]))
    ]
    claims = [
        (a, b, metric.name) if (difference.value > 0) == metric.higher_is_better else (b, a, metric.name)
        for (a, b, metric, difference), claimed in zip(pairs, holm([d.p_value for *_, d in pairs], LEVEL), strict=True)
        if claimed
    ]
    columns = [*COLUMNS, "names", "runs", "images"]
    return pd.DataFrame(rows, columns=columns), pd.DataFrame(claims, columns=CLAIMS)


def _difference(metric: Metric, table: pd.DataFrame, other: pd.DataFrame) -> Difference | None:
    """The paired difference over the objects of which both have the metric; None where there are too few.

    An evaluation that is older than a metric lacks it, and so does an object of which nothing can be asked.
    """
    if not same_objects(table, other) or not {*metric.columns} <= {*table} & {*other}:
        return None
    both = (table[[*metric.columns]].notna() & other[[*metric.columns]].notna()).all(axis=1)
    if table.loc[both, "image_id"].nunique() < 2:
        return None
    return metric.difference(table[both], other[both])


def _columns(figures: Mapping[Metric, Mapping[str, Any]]) -> dict[str, float]:
    """The columns of the metrics, from value, low and high of those that are known."""
    return {
        f"{metric.name}{end}": float(figures[metric][name]) if metric in figures else float("nan")
        for metric in _ASKED
        for end, name in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Which of several claims hold at once: the probability of any wrong one is at most ``level`` (Holm, 1979)."""
    claimed = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - rank):
            break
        claimed[index] = True
    return claimed
