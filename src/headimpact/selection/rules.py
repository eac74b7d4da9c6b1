"""The rules that choose layers, each one object in ``RULES``, and what they rank layers by, each one in ``MEASURES``.

A rule is one of two things. A *ranking* gives every layer a priority, and the K layers of the highest are taken: the
measures and the plain positions. The others take a set: evenly spaced layers, random draws, every layer. Ties go to
the lower index everywhere.

Every command reads these tables when it starts, to know which setups there are: nothing large is imported here,
and scores are plain numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headimpact.selection.grammar import FULL


@dataclass(frozen=True)
class Measure:
    """Something that every layer is measured by; higher is what a rule looks for.

    Attributes:
        name: as in files and columns.
        words: as a reason calls it.
        in_impact_table: whether it is a column of the HI table; else the step measure computes it.
    """

    name: str
    words: str
    in_impact_table: bool = False


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("hi", "mean HI", in_impact_table=True),
        Measure("excess", "chance-corrected HI", in_impact_table=True),
        Measure("auroc", "AUROC of attention against the mask", in_impact_table=True),
        Measure("mass", "attention share on the object over its area share", in_impact_table=True),
        Measure("share", "attention share on the image"),
        Measure("gradient", "gradient of the caption loss"),
        Measure("knockout", "loss of the phrase's log-probability without the layer's visual attention"),
        Measure("localisation", "share of objects that its heads localise"),
        Measure("kappa", "reciprocal condition number of the weights"),
    )
}
"""Every measure by name."""

HI = MEASURES["hi"]
"""The measure of the paper."""


@dataclass(frozen=True)
class Group:
    """Rules that go by the same kind of thing, and look alike in figures.

    Attributes:
        label: as a legend calls them.
        colour: one that the colour-blind can tell from those of the other groups.
        marker: the shape of a point, as matplotlib names it.
        note: what a reason begins with where the score is not what chose the layer; may hold ``{rule}`` and ``{seed}``.
    """

    label: str
    colour: str
    marker: str
    note: str = ""


BY_MEASURE = Group("by a measure", "#009e73", "o")
BY_POSITION = Group("by position", "#0072b2", "s", note="by position ({rule}); ")
DRAWN = Group("random draws", "#cc79a7", "X", note="drawn with seed {seed}; ")
ALL_LAYERS = Group("all layers", "#000000", "D")
GROUPS = (BY_MEASURE, BY_POSITION, DRAWN, ALL_LAYERS)
"""Every group, in the order of legends."""


@dataclass(frozen=True)
class Candidates:
    """The layers of a model, and how many of them a rule is to choose.

    Attributes:
        scores: one a layer: of the rule's measure, or the mean HI where it has none.
        count: the K of the setup; 0 where it has none.
        seed: from 0.
        draw: the S of ``<rule>-K-S``; else 0.
    """

    scores: tuple[float, ...]
    count: int
    seed: int = 0
    draw: int = 0

    def highest(self, priority: Sequence[float]) -> list[int]:
        """The K layers of the highest priority, from the highest; of equal ones the lower index."""
        return sorted(range(len(priority)), key=lambda layer: -priority[layer])[: self.count]

    @property
    def between(self) -> list[int]:
        """The layers that are neither among the K of the highest scores nor among the K of the lowest, ascending."""
        lowest = self.highest([-score for score in self.scores])
        return sorted(set(range(len(self.scores))) - {*self.highest(self.scores), *lowest})


@dataclass(frozen=True)
class Rule:
    """A rule that chooses K layers. It has either ``ranks`` or ``takes``.

    Attributes:
        name: as setups and files have it; lower case letters.
        words: what it chooses, as a selection tells it; may hold ``{k}``, ``{layers}`` (their number), ``{seed}``,
            ``{draw}`` and ``{between}`` (the number of :attr:`Candidates.between`).
        group: the rules that it belongs to, with their colour.
        measure: what it goes by; None where that is no measure.
        ranks: the priority of every layer, from its score.
        takes: the layers that it takes, for a rule that is no ranking.
        alone: the words for the setup without K, for a rule that may stand without.
        draws: whether it draws several times, so that its setups are ``<rule>-K-S``.
        lacks: from K and the number of layers, what a model of at least K layers has too little of, as an error goes
            on after the setup's name; None where it has enough.
    """

    name: str
    words: str
    group: Group
    measure: Measure | None = None
    ranks: Callable[[Sequence[float]], Sequence[float]] | None = None
    takes: Callable[[Candidates], Sequence[int]] | None = None
    alone: str | None = None
    draws: bool = False
    lacks: Callable[[int, int], str | None] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a rule that has both ``ranks`` and ``takes``, or neither."""
        if (self.ranks is None) == (self.takes is None):
            raise ValueError(f"The rule {self.name} must either rank layers or take a set of them.")

    @property
    def colour(self) -> str:
        """Its colour in figures."""
        return self.group.colour

    @property
    def marker(self) -> str:
        """Its shape in figures."""
        return self.group.marker

    @property
    def forms(self) -> tuple[str, ...]:
        """Its setups, as in ``top-K``, ``draw-K-S``, or ``full`` and ``full-K``."""
        return (*([self.name] if self.alone else []), f"{self.name}-K-S" if self.draws else f"{self.name}-K")

    @property
    def needs_measures(self) -> bool:
        """Whether it goes by something that the HI table does not hold, so that the step measure has to run."""
        return self.measure is not None and not self.measure.in_impact_table

    def choose(self, candidates: Candidates) -> list[int]:
        """The layers chosen, in any order."""
        if self.ranks is not None:
            return candidates.highest(self.ranks(candidates.scores))
        return list(self.takes(candidates)) if self.takes is not None else []

    def sentence(self, candidates: Candidates) -> str:
        """What it chooses, in words."""
        words = self.words if candidates.count or self.alone is None else self.alone
        return words.format(
            k=candidates.count,
            layers=len(candidates.scores),
            seed=candidates.seed,
            draw=candidates.draw,
            between=len(candidates.between),
        )

    def note(self, candidates: Candidates) -> str:
        """What the reason for a layer begins with; empty where the score is what chose it."""
        return self.group.note.format(rule=self.name, seed=candidates.seed)


def by_measure(name: str) -> Rule:
    """The rule of a measure, of the same name: the layers of its highest scores."""
    measure = MEASURES[name]
    return Rule(name, f"the {{k}} layers with the highest {measure.words}", BY_MEASURE, measure, ranks=_as_scored)


def _as_scored(scores: Sequence[float]) -> Sequence[float]:
    return scores


def _from_the_lowest(scores: Sequence[float]) -> list[float]:
    return [-score for score in scores]


def _from_the_first(scores: Sequence[float]) -> list[float]:
    return [-float(layer) for layer in range(len(scores))]


def _from_the_last(scores: Sequence[float]) -> list[float]:
    return [float(layer) for layer in range(len(scores))]


def _from_the_middle(scores: Sequence[float]) -> list[float]:
    return [-abs(layer - (len(scores) - 1) / 2) for layer in range(len(scores))]


def _evenly(candidates: Candidates) -> list[int]:
    return [(2 * i + 1) * len(candidates.scores) // (2 * candidates.count) for i in range(candidates.count)]


def _some_between(candidates: Candidates) -> list[int]:
    generator = _generator(candidates.seed, candidates.count)
    return generator.choice(candidates.between, size=candidates.count, replace=False).tolist()


def _too_few_between(count: int, layers: int) -> str | None:
    if 3 * count <= layers:
        return None
    return (
        f"needs {count} layers outside top-{count} and bottom-{count}, but the model has {layers} "
        f"layers, which leaves {max(0, layers - 2 * count)}: K can be at most {layers // 3}."
    )


def _some(candidates: Candidates) -> list[int]:
    """Of all layers; draws of the same S and different K are nested."""
    order = _generator(candidates.seed, candidates.draw).permutation(len(candidates.scores))
    return order[: candidates.count].tolist()


def _every(candidates: Candidates) -> list[int]:
    return list(range(len(candidates.scores)))


def _generator(*seed: int):
    from numpy.random import default_rng  # here, because every command imports this module when it starts

    return default_rng(list(seed))


CHAMPION = "top"
"""The rule of the paper, which a tournament compares with all others."""

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            FULL,
            "every layer, on the budget of {k} (evenly spaced ones where that is less than rank 1 a layer)",
            ALL_LAYERS,
            takes=_every,
            alone="every layer",
        ),
        Rule("top", "the {k} layers with the highest mean Head Impact", BY_MEASURE, HI, ranks=_as_scored),
        Rule("bottom", "the {k} layers with the lowest mean Head Impact", BY_MEASURE, HI, ranks=_from_the_lowest),
        Rule(
            "random",
            "{k} of the {between} layers outside top-{k} and bottom-{k}, drawn with seed {seed}",
            DRAWN,
            HI,
            takes=_some_between,
            lacks=_too_few_between,
        ),
        by_measure("excess"),
        by_measure("auroc"),
        by_measure("mass"),
        by_measure("share"),
        by_measure("gradient"),
        by_measure("knockout"),
        by_measure("localisation"),
        by_measure("kappa"),
        Rule("first", "the {k} first layers", BY_POSITION, ranks=_from_the_first),
        Rule("middle", "the {k} layers in the middle", BY_POSITION, ranks=_from_the_middle),
        Rule("last", "the {k} last layers", BY_POSITION, ranks=_from_the_last),
        Rule("uniform", "{k} layers spaced evenly over the depth", BY_POSITION, takes=_evenly),
        Rule(
            "draw",
            "{k} of all {layers} layers, draw {draw} with seed {seed}",
            DRAWN,
            takes=_some,
            draws=True,
        ),
    )
}
"""Every rule by name, in the order of messages and tables."""
