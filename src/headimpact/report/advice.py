"""Which setup to use, in words: the recommendation with its reason, how sure it is, and the next command.

The one place that decides what a person is told to do next: the report, ``headimpact advise`` and the last line of
every step's summary take it from here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from headimpact.evaluation.metrics import Metric
from headimpact.report.cells import Row, table_of
from headimpact.report.evidence import DEFAULT, Evidence, decision_of, default_setup, evidence
from headimpact.report.outputs import ORIGINAL, Pair, TournamentFiles
from headimpact.report.page import Cell, Table
from headimpact.report.prose import advice as prose
from headimpact.report.rows import records
from headimpact.selection.grammar import alias, is_softened, softened, trained
from headimpact.text import listed
from headimpact.tournament.decision import FORGETTING, GAIN, Decision

_MANY = 4
_DECIMALS = {GAIN: 2, FORGETTING: 3}


@dataclass(frozen=True, eq=False)
class Advice:
    """What a person is told of one model.

    Attributes:
        model: its name.
        found: the evidence.
        decision: what it decides.
        sentence: what to use, and why.
        sure: how sure that is.
        notes: what else there is to know, a sentence each.
        next: the command to run next.
        missing: setups that are worth training here and were not: what is recommended and, where no tournament
            decides, the default and those of the grid.
    """

    model: str
    found: Evidence
    decision: Decision
    sentence: str
    sure: str
    notes: tuple[str, ...]
    next: str
    missing: tuple[str, ...]

    @property
    def table(self) -> Table:
        """Gain, forgetting and cost of every setup: the one to use first, then what nothing beats."""
        return _table(self.found, self.decision)


def advise(
    model: str,
    results: Mapping[Pair, Mapping[str, Any]],
    objects: Mapping[Pair, pd.DataFrame],
    tournament: TournamentFiles | None,
    bound: float,
    wanted: Sequence[str] = (),
) -> Advice:
    """What is to be used of a model, and what is to be done next.

    Args:
        model: its name.
        results: by model and setup, the content of results.json.
        objects: by model and setup, the results of every test object.
        tournament: the files of a tournament.
        bound: the fall of accuracy that is still accepted (0..1).
        wanted: setups that should have been measured.
    """
    found = evidence(model, results, objects, tournament)
    default = default_setup(tournament, bound)
    decision = decision_of(found, bound, default)
    evaluated = [setup for name, setup in results if name == model]
    # What a tournament has not got need not be measured for what it decides.
    worth = (decision.setup,) if found.source == "tournament" else (decision.setup, default, *wanted)
    missing = [setup for setup in dict.fromkeys(worth) if setup not in (*evaluated, ORIGINAL)]
    notes = []
    if more := _more_gain(found, decision):
        notes.append(more)
    if ORIGINAL not in evaluated and evaluated:
        notes.append(prose.NO_ORIGINAL.format(model=model))
    if missing and found.source != "tournament":
        notes.append(prose.NOT_MEASURED.format(setups=listed(missing)))
    return Advice(
        model=model,
        found=found,
        decision=decision,
        sentence=_sentence(found, decision, default, tournament, bound),
        sure=_sure(found, decision),
        notes=tuple(notes),
        next=_next(model, found, decision, evaluated, default),
        missing=tuple(missing),
    )


# ---- words


def _sentence(
    found: Evidence, decision: Decision, default: str, tournament: TournamentFiles | None, bound: float
) -> str:
    rows = {row["setup"]: row for row in records(found.measured)}
    row = rows.get(decision.setup)
    kind: str = decision.because
    only = ""
    if kind == "nothing compared" and row is None:
        (only,) = [setup for setup, measured in rows.items() if measured["choosable"]]
        row = rows[only]
    elif kind == "nothing compared":
        kind = "alone"
    elif kind in prose.ALONE and len(rows) == 1:
        ((only, row),) = rows.items()
        kind = prose.ALONE[kind]
    models = list(dict.fromkeys(tournament.changes["model"])) if tournament else []
    return prose.WHY[kind].format(
        setup=decision.setup,
        count=len(rows),
        gain=_change(row, GAIN, prose.GAIN) if row else "",
        forgetting=_forgetting(row, decision) if row else "",
        tied=_some([rows[setup]["names"] for setup in decision.tied]),
        tie=prose.BY_DEFAULT if decision.setup == default else prose.BY_COST,
        only=only,
        default=prose.DEFAULT.format(models=listed(models)) if models else prose.NO_TOURNAMENT,
        bound=bound,
    )


def _forgetting(row: Mapping[str, Any], decision: Decision) -> str:
    if decision.within is None:
        return prose.NOT_ASKED
    return _change(row, FORGETTING, prose.WITHIN if decision.within else prose.REACHES)


def _change(row: Mapping[str, Any], metric: Metric, words: str) -> str:
    cell = _cell(row, metric)
    return words.format(label=metric.label, change=f"{cell.text}, {cell.note}")


def _some(names: Sequence[str]) -> str:
    """All of a few names, or the first of many."""
    if len(names) <= _MANY:
        return listed(names)
    return prose.AND_MORE.format(first=", ".join(names[: _MANY - 1]), count=len(names) - _MANY + 1)


def _sure(found: Evidence, decision: Decision) -> str:
    if decision.because in ("nothing measured", "nothing compared"):
        return prose.NOT_SURE
    words = prose.SURE_TOURNAMENT if found.source == "tournament" else prose.SURE_EVALUATIONS
    rows = found.measured[found.measured["choosable"].astype(bool)]
    claims = prose.NONE_BETTER if decision.because == "not told apart" else prose.CLAIMS
    return words.format(claims=claims, images=rows["images"].max(), runs=rows["runs"].min())


def _more_gain(found: Evidence, decision: Decision) -> str | None:
    """What was evaluated beside the tournament and gains more than what the tournament chose, its interval apart."""
    chosen = found.measured[found.measured["setup"] == decision.setup]
    if not len(chosen) or not len(found.others):
        return None
    best = min(records(found.others), key=lambda row: row[GAIN.name])  # less perplexity is gain
    if best[f"{GAIN.name}_high"] >= chosen[f"{GAIN.name}_low"].iloc[0]:
        return None
    return prose.MORE_GAIN.format(
        setup=best["setup"], gain=_change(best, GAIN, prose.GAIN), trainable=best["trainable"]
    )


def _next(model: str, found: Evidence, decision: Decision, evaluated: Sequence[str], default: str) -> str:
    """The next command.

    What is served gains and keeps what the model knew. Where all setups forget, the one of largest gain is softened,
    once; where none gains, a look shows what the default has learnt.
    """
    setup = decision.setup if decision.setup != ORIGINAL else default
    if evaluated and ORIGINAL not in evaluated:
        return prose.EVALUATE.format(model=model, setup=ORIGINAL)
    if decision.because == "all forget" and (forgetful := _to_soften(found, evaluated)):
        return prose.SOFTEN.format(model=model, setup=forgetful)
    if setup not in evaluated:
        return prose.FINETUNE.format(model=model, setup=setup)
    words = prose.LOOK if decision.setup == ORIGINAL else prose.SERVE
    return words.format(model=model, setup=setup, alias=alias(setup))


def _to_soften(found: Evidence, evaluated: Sequence[str]) -> str | None:
    """The trained setup of largest gain; None where its softened adapter was evaluated and did not help."""
    rows = [row for row in records(found.measured) if row["choosable"] and not is_softened(row["setup"])]
    best = min(rows, key=lambda row: row[GAIN.name])["setup"]  # less perplexity is gain
    return None if softened(best) in evaluated else best


# ---- the table


def _table(found: Evidence, decision: Decision) -> Table:
    order = {"unbeaten": 1, "beaten": 2, "forgets": 3}
    rows = sorted(
        records(found.measured),
        key=lambda row: (row["setup"] != decision.setup, order[decision.status[row["setup"]]], row[GAIN.name]),
    )
    shown = [_row(row, _judged(row["setup"], decision), row["setup"] == decision.setup, found) for row in rows]
    others = sorted(records(found.others), key=lambda row: row[GAIN.name])
    shown += [_row(row, prose.OUTSIDE, False, None) for row in others]
    return table_of(shown)


def _row(row: Mapping[str, Any], judged: str, used: bool, found: Evidence | None) -> Row:
    several = found is not None and found.source == "tournament"
    return {
        "setup": Cell(row["names"], strong=used),
        "verdict": Cell(judged, strong=used),
        GAIN.arrow: _cell(row, GAIN),
        FORGETTING.arrow: _cell(row, FORGETTING),
        "trainable": Cell(f"{row['trainable']:,}"),
        "from": Cell(prose.TOURNAMENT_RUNS.format(runs=row["runs"]) if several else prose.ONE_ADAPTER),
    }


def _judged(setup: str, decision: Decision) -> str:
    if setup == decision.setup:
        return prose.USE
    if setup in decision.beaten_by:
        return prose.BEATEN.format(setups=_some(decision.beaten_by[setup]))
    return prose.STATUS[decision.status[setup]]


def _cell(row: Mapping[str, Any], metric: Metric) -> Cell:
    value, low, high = (row[f"{metric.name}{end}"] for end in ("", "_low", "_high"))
    if pd.isna(value):
        return Cell("")
    d = _DECIMALS[metric]
    return Cell(f"{value:+.{d}f}", f"{low:+.{d}f} to {high:+.{d}f}")


def proposed(advice: Advice | None) -> str:
    """The setup to train: what is recommended, what that is softened from, or the default where that is the original
    or nothing is known."""
    if advice is None or advice.decision.setup == ORIGINAL:
        return DEFAULT
    return trained(advice.decision.setup)
