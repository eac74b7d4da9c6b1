"""What the steps have written, as the report reads it. ``lifecycle.outputs`` collects it from the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

ORIGINAL = "original"

Pair = tuple[str, str]
"""A model and a setup."""


@dataclass(frozen=True)
class Missing:
    """A file that is not there, or that has to be made again: why, and the command that makes it."""

    path: Path
    why: str
    command: str


@dataclass(frozen=True, eq=False)
class TournamentFiles:
    """The files of a tournament.

    Attributes:
        changes: as :attr:`headimpact.tournament.standings.Standings.changes`.
        comparisons: as :attr:`headimpact.tournament.standings.Standings.comparisons`.
        cells: one row a run: model, rule, k, seed, draw, layers as in ``0,3``, rank as in ``8`` or ``2 to 3``,
            trainable.
        cells_digest: the digest of that table, by which MLflow knows the tournament.
        verdicts: by model, what may be claimed.
        figure: gain against forgetting.
        originals: by model, the results of every test object of the original; of models whose runs are kept.
        elsewhere: whether it was held on another test part than that of the dataset in use, as far as that is known.
    """

    changes: pd.DataFrame
    comparisons: pd.DataFrame
    cells: pd.DataFrame
    cells_digest: str
    verdicts: Mapping[str, Sequence[str]]
    figure: Path
    originals: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    elsewhere: bool = False


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the steps have written for some models and setups. Any of it can be absent.

    Attributes:
        models: every model that a step has written something for.
        pairs: every one of them with each of its setups.
        identities: by model, which base it is (what identify writes).
        summaries: by model, what was scored (summary.json of score).
        impacts: by model, the HI table.
        measures: by model, the measures of every layer.
        variations: by model, HI by other definitions.
        stability: by model, HI on other images.
        variances: by model, the split into layers and heads, with the counts (variance.json of examine).
        selections: by model and setup, the selected layers.
        headers: by model and setup, the header of the adapter.
        results: by model and setup, the metrics on the test part (results.json of evaluate).
        objects: by model and setup, the results of every test object.
        answers: by model and setup, the figures of the answers (results.json of answer).
        orders: by model and setup, the answers in every order of the options.
        generated: by model and setup, the answers in the model's own words.
        tournament: the tournament's files, None where there was none.
        missing: the files that are not there or have to be made again.
        scales: by model and softened setup, gain and forgetting at every scale.
    """

    models: tuple[str, ...]
    pairs: tuple[Pair, ...]
    identities: Mapping[str, Mapping[str, Any]]
    summaries: Mapping[str, Mapping[str, Any]]
    impacts: Mapping[str, pd.DataFrame]
    measures: Mapping[str, pd.DataFrame]
    variations: Mapping[str, pd.DataFrame]
    stability: Mapping[str, pd.DataFrame]
    variances: Mapping[str, Mapping[str, Any]]
    selections: Mapping[Pair, Mapping[str, Any]]
    headers: Mapping[Pair, Mapping[str, Any]]
    results: Mapping[Pair, Mapping[str, Any]]
    objects: Mapping[Pair, pd.DataFrame]
    answers: Mapping[Pair, Mapping[str, Any]]
    orders: Mapping[Pair, pd.DataFrame]
    generated: Mapping[Pair, pd.DataFrame]
    tournament: TournamentFiles | None
    missing: tuple[Missing, ...]
    scales: Mapping[Pair, pd.DataFrame] = field(default_factory=dict)

    @property
    def setups(self) -> tuple[str, ...]:
        """Every setup of any model, once."""
        return tuple(dict.fromkeys(setup for _, setup in self.pairs))

    @property
    def trained(self) -> tuple[Pair, ...]:
        """The pairs whose setup adapts layers: all but the originals."""
        return tuple(pair for pair in self.pairs if pair[1] != ORIGINAL)

    def source(self, model: str) -> str | None:
        """What the model was loaded from: what an adapter says that was trained on it, or else what it is known by."""
        headers = (header for (name, _), header in self.headers.items() if name == model)
        return next(headers, self.identities.get(model, {})).get("source")
