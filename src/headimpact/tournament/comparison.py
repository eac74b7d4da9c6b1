"""Rules for choosing layers set against each other: gain, forgetting, and what may be claimed of them.

A figure of a rule at one K is a mean over its runs (a run is one adapter), taken on the same test images. It
varies for two reasons, and every interval here covers both: other test images, and other runs of the same rule.

* *Images.* As in :mod:`headimpact.statistics`, an object's figures are linearised (perplexity by the delta method),
  summed over the objects of its image, and give the covariance of all runs under resampling of images.
* *Runs.* A rule's runs are its training seeds or, where it draws layers at random, its draws, each draw the mean
  over its seeds. The spread of the runs' own figures already holds what images and runs do jointly.

With R runs, spread s2 and mean covariance c of two different runs, the variance of the rule's mean is
s2 / R + c: the crossed random effects of *Hypothesis testing of diagnostic accuracy for multiple readers and
multiple tests* (1995), whose readers are our runs and whose cases are our images. With images of equal size and a
plain mean it is (MS runs + MS images - MS both) / (R G).

Few runs and many images have different t quantiles. The interval of a single figure weights the quantiles with the
parts' variances (*Experimental Designs*, 1950): in simulations with three runs it covers 95 % to 97.1 %, the most where
runs and images matter alike; Satterthwaite's degrees of freedom go down to 92 %. Corrected intervals, whose
quantiles lie far apart, take the root of the sum of the parts' squared half widths, which never covers too little
(*On confidence interval for two-means problem*, 1961) and never shrinks when a part grows.

Rules that took the same layers share their runs, whose figures are then equal to the last digit: they are one
*group*, with the runs of all of them, and there is nothing to compare between them.

Assumed: images are independent of each other, the runs of different groups too. Where one seed moves two rules
alike, or a random draw is a run that another rule has as well, their comparison is surer than said here. The
figures of a rule's runs are about normal.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special

from headimpact.errors import InputError

_MANY = 1e9  # test images that nobody will ever have
Entry = tuple[str, int]
"""A rule and its K."""


@dataclass(frozen=True)
class Measure:
    """What is measured: its column in a table of objects, its name, which way is better (+1: more), and the largest
    difference that there can be."""

    column: str
    name: str
    aspect: str
    better: int
    largest: float = 1.0


MEASURES = {
    "perplexity": Measure("nll", "perplexity", "gain", -1, np.inf),
    "accuracy": Measure("correct", "accuracy", "forgetting", 1),
    "ans_prob": Measure("ans_prob", "AnsProb", "forgetting", 1),
}


@dataclass(frozen=True, eq=False)
class Runs:
    """Every run of one model on the same test objects.

    Attributes:
        rules: the rule of each run, such as ``top``.
        ks: its number of layers.
        seeds: its training seed.
        draws: which draw of layers it is, where a rule draws several; else any one number.
        images: the image of each object.
        adapted: by column (``nll`` in nats, ``correct``, ``ans_prob`` in 0..1) the runs' figures.
        original: the same of the original.
    """

    rules: tuple[str, ...]
    ks: Int[np.ndarray, " runs"]
    seeds: Int[np.ndarray, " runs"]
    draws: Int[np.ndarray, " runs"]
    images: Int[np.ndarray, " objects"]
    adapted: Mapping[str, Float[np.ndarray, "runs objects"]]
    original: Mapping[str, Float[np.ndarray, " objects"]]


@dataclass(frozen=True)
class Change:
    """A rule at one K, adapter minus original, with the confidence interval of this figure alone.

    ``runs`` counts seeds, or draws where the rule draws. Less perplexity is gain; less accuracy or AnsProb
    is forgetting.
    """

    rule: str
    k: int
    measure: str
    value: float
    se: float
    low: float
    high: float
    runs: int
    images: int


@dataclass(frozen=True)
class Spread:
    """Where the variance of a comparison comes from, and its critical values.

    Attributes:
        images: from test images that move all runs of a rule alike; falls as 1 / images.
        both: from images that move single runs, averaged over the runs; falls as 1 / images.
        runs: from runs alone; no number of images lessens it.
        t_images: critical value (in standard errors) at the corrected level, of the image part.
        t_runs: the same of the other parts.
    """

    images: float
    both: float
    runs: float
    t_images: float
    t_runs: float


@dataclass(frozen=True)
class Comparison:
    """How much better a rule does than a rival at the same K, on the same images; negative: worse.

    ``low`` to ``high`` is simultaneous: all intervals of one tournament hold the truth at once with the asked
    confidence. ``p_value`` is corrected for the same comparisons. ``twins`` are the rules with the rival's very runs.
    """

    rule: str
    rival: str
    k: int
    measure: str
    advantage: float
    se: float
    low: float
    high: float
    p_value: float
    images: int
    runs: int
    rival_runs: int
    twins: tuple[str, ...]
    spread: Spread

    @property
    def same(self) -> bool:
        """Both rules took the same layers: the difference is exactly 0."""
        return self.rule in self.twins

    @property
    def winner(self) -> str | None:
        """The better rule; none where the simultaneous interval holds 0."""
        if self.low > 0:
            return self.rule
        return self.rival if self.high < 0 else None


@dataclass(frozen=True)
class Tournament:
    """Every rule against the original, and the champion against every other rule."""

    changes: tuple[Change, ...]
    comparisons: tuple[Comparison, ...]


def analyse(runs: Runs, champion: str = "top", confidence: float = 0.95) -> Tournament:
    """Every rule x K against the original, and ``champion`` against every other rule at the same K.

    A change rests on the rule's own runs alone: with three seeds that differ it is wide, as it must be.

    A comparison cannot rest on the few runs of two rules: at a level corrected for all comparisons, t with 2
    degrees of freedom asks for some 30 standard errors. Rules that vary by seed share their spread instead:
    each has the larger of its own s2 and the mean s2 of the rules of this K, with Satterthwaite's degrees of
    freedom for that mean (fewer where rules vary unequally). This leans on seeds moving the rules of one K about
    alike: measured, a winner where there is none comes in 1 % of tournaments or fewer, in 2 % where a rival varies
    three times as much as the others, and where the champion does so in 4 % (twice), 7 % (three times), 10 % (five
    times) and 14 % (ten times as much): with three seeds its own spread is at times far too small by luck. Draws of
    layers are another matter: a rule that draws has its own s2 and draws - 1 degrees of freedom, so a few draws prove
    little about the mean over all draws.

    Intervals and p-values of comparisons are corrected by Bonferroni for all K, measures and rivals of the
    tournament, where rivals that took the same layers count once, and those that took the champion's not at all.
    Random draws are what a rule has to beat first, and few: half of the error probability is for them, the other
    half for all other rivals.

    Args:
        runs: at least 2 runs (seeds, or draws) of every rule x K, at least 2 images.
        champion: the rule that is compared with all others.
        confidence: of every change alone, and of all comparisons at once.

    Raises:
        InputError: too few runs or images, a run that comes twice, no rival for the champion, or
            ``confidence`` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; give a share between 0 and 1, such as 0.95.")
    design = _design(runs)
    pairs = [
        (ours, rival)
        for ours in design.group_of
        for rival in design.group_of
        if ours[0] == champion and rival[0] != champion and ours[1] == rival[1]
    ]
    if not pairs:
        raise InputError(f"There is nothing to compare: no other rule has been run at the same K as {champion!r}.")
    moments = {name: _moments(runs, design, measure) for name, measure in MEASURES.items()}
    changes = [change for name, found in moments.items() for change in _changes(name, found, design, 1 - confidence)]
    tests = _tests(design, pairs)
    comparisons = [
        comparison
        for name, found in moments.items()
        for comparison in _comparisons(name, found, design, pairs, 1 - confidence, tests)
    ]
    return Tournament(tuple(changes), tuple(comparisons))


def images_needed(comparison: Comparison, difference: float, power: float = 0.8) -> float:
    """Test images with which a true ``difference`` would be claimed with probability ``power``, all runs as now.

    With g = images now / images then and the comparison's :class:`Spread`, the variance then is
    V = (images + both) g + runs and the interval's half width H = sqrt(t_images^2 images g + t_runs^2 (both g +
    runs)), at the corrected level. Wanted is H + z(power) sqrt(V) = difference, z the normal quantile: where
    ``runs`` is 0 and t the same for both, images now x (images + both) ((t + z(power)) / difference)^2. Infinite
    where the runs alone vary too much: then it takes more seeds or draws, not images.
    The spread is itself estimated from few runs, so read the answer as an order of size. Infinite, too, for rules
    that took the same layers.

    Raises:
        InputError: ``difference`` is not above 0, or ``power`` is below 0.5 or not below 1.
    """
    if not difference > 0:
        raise InputError(f"The difference to be seen is {difference}: give a number above 0.")
    if _visible(comparison, _MANY, power) > difference:
        return float("inf")
    if _visible(comparison, 2.0, power) <= difference:
        return 2.0

    def short(log_images: float) -> float:
        return _visible(comparison, np.exp(log_images), power) - difference

    images = np.exp(cast(float, optimize.brentq(short, np.log(2), np.log(_MANY))))
    return float(np.ceil(images * (1 - 1e-9)))


def smallest_visible(comparison: Comparison, power: float = 0.8) -> float:
    """The true difference that this comparison, as it is, would claim with probability ``power``.

    Raises:
        InputError: ``power`` is not between 0.5 and 1.
    """
    return _visible(comparison, float(comparison.images), power)


def _visible(comparison: Comparison, images: float, power: float) -> float:
    if not 0.5 <= power < 1:
        raise InputError(f"power is {power}; give a share from 0.5 to below 1, such as 0.8.")
    if comparison.same:
        return float("inf")
    spread, share = comparison.spread, comparison.images / images
    alike, apart = spread.images * share, spread.both * share + spread.runs
    half = np.sqrt(spread.t_images**2 * alike + spread.t_runs**2 * apart)
    return float(half + special.ndtri(power) * np.sqrt(alike + apart))


@dataclass(frozen=True, eq=False)
class _Group:
    """The runs of one rule at one K, or of several that took the same layers, by unit: a seed or a draw."""

    k: int
    drawn: bool
    entries: list[Entry] = field(default_factory=list)
    units: dict[int, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Design:
    """Which runs make up a unit, which units a group, which group is an entry's, which objects an image.

    ``order`` sorts the objects by image; ``starts`` is where each image begins then.
    """

    groups: list[_Group]
    group_of: dict[Entry, int]
    counts: np.ndarray
    units_from_runs: Float[np.ndarray, "units runs"]
    groups_from_units: Float[np.ndarray, "groups units"]
    order: Int[np.ndarray, " objects"]
    starts: Int[np.ndarray, " images"]


def _design(runs: Runs) -> _Design:
    groups = _groups(runs)
    counts = np.array([len(group.units) for group in groups])
    if (counts < 2).any():
        rule, k = groups[int(np.argmin(counts))].entries[0]
        raise InputError(
            f"{rule}-{k} has been trained once: with one run, luck cannot be told from the rule. Train it with "
            "at least 2 seeds."
        )
    order = np.argsort(runs.images, kind="stable")
    starts = np.unique(runs.images[order], return_index=True)[1]
    if len(starts) < 2:
        raise InputError(f"An interval clustered by image needs at least 2 images, not {len(starts)}.")
    units = [members for group in groups for members in group.units.values()]
    return _Design(
        groups=groups,
        group_of={
            entry: next(index for index, group in enumerate(groups) if entry in group.entries)
            for entry in zip(runs.rules, runs.ks.tolist(), strict=True)
        },
        counts=counts,
        units_from_runs=_averages(units, len(runs.rules)),
        groups_from_units=_averages(np.split(np.arange(len(units)), np.cumsum(counts)[:-1]), len(units)),
        order=order,
        starts=starts,
    )


def _averages(members: Sequence[Sequence[int] | np.ndarray], things: int) -> Float[np.ndarray, "rows things"]:
    """A matrix whose product with figures of all things gives the mean over each row's members."""
    rows = np.zeros((len(members), things))
    for row, chosen in zip(rows, members, strict=True):
        row[np.asarray(chosen)] = 1 / len(chosen)
    return rows


def _groups(runs: Runs) -> list[_Group]:
    """The runs of every rule and K; a rule that is trained by seed joins the group that has one of its runs."""
    keys = list(zip(runs.rules, runs.ks.tolist(), runs.seeds.tolist(), runs.draws.tolist(), strict=True))
    if len(set(keys)) < len(keys):
        raise InputError("A run (rule, K, seed, draw) comes twice: every run may be compared once.")
    entries: dict[Entry, list[int]] = {}
    for index, (rule, k, _, _) in enumerate(keys):
        entries.setdefault((rule, k), []).append(index)
    figures = np.concatenate([runs.adapted[measure.column] for measure in MEASURES.values()], axis=1)
    groups: list[_Group] = []
    owners: dict[tuple[int, int, bytes], _Group] = {}
    for entry, members in entries.items():
        if drawn := len({runs.draws[index] for index in members}) > 1:
            groups.append(group := _Group(entry[1], drawn))
            for index in members:
                group.units.setdefault(int(runs.draws[index]), []).append(index)
        else:
            marks = [(entry[1], int(runs.seeds[index]), figures[index].tobytes()) for index in members]
            group = next((owners[mark] for mark in marks if mark in owners), None)
            if group is None:
                groups.append(group := _Group(entry[1], drawn))
            owners |= dict.fromkeys(marks, group)
            for index in members:
                group.units.setdefault(int(runs.seeds[index]), [index])
        group.entries.append(entry)
    return groups


@dataclass(frozen=True, eq=False)
class _Moments:
    """One measure of every group: mean change, spread of its units, covariance of different units over images.

    ``alone`` is what a single unit has beyond that covariance: its own variance over images.
    """

    change: Float[np.ndarray, " groups"]
    spread: Float[np.ndarray, " groups"]
    covariance: Float[np.ndarray, "groups groups"]
    alone: Float[np.ndarray, " groups"]


def _moments(runs: Runs, design: _Design, measure: Measure) -> _Moments:
    adapted, original = runs.adapted[measure.column], runs.original[measure.column]
    values = np.vstack([original, adapted])
    mean = values.mean(1, keepdims=True)
    figure, slope = (np.exp(mean), np.exp(mean)) if measure.name == "perplexity" else (mean, 1.0)
    images = len(design.starts)
    sums = np.add.reduceat((slope * (values - mean))[:, design.order], design.starts, axis=1) / len(original)
    units = design.units_from_runs @ (figure[1:, 0] - figure[0, 0])
    influence = design.units_from_runs @ (sums[1:] - sums[0])
    of_units = images / (images - 1) * (influence @ influence.T)
    average, counts = design.groups_from_units, design.counts
    change = average @ units
    residual = units - average.T.astype(bool) @ change
    covariance = average @ of_units @ average.T
    # The mean covariance of two different units; on the diagonal the average above counts each with itself, too.
    own = average @ np.diag(of_units)
    np.fill_diagonal(covariance, (counts * np.diag(covariance) - own) / (counts - 1))
    spread = average @ residual**2 * counts / (counts - 1)
    return _Moments(change, spread, covariance, np.maximum(own - np.diag(covariance), 0))


def _changes(name: str, moments: _Moments, design: _Design, level: float) -> list[Change]:
    by_run = moments.spread / design.counts
    by_image = np.maximum(np.diag(moments.covariance), 0)
    images = len(design.starts)
    se = np.sqrt(by_run + by_image)
    # (t by_run + t by_image) / (by_run + by_image) is the critical value.
    wide = _t(design.counts - 1, level) * by_run + _t(np.full(len(se), images - 1), level) * by_image
    half = wide / np.where(se > 0, se, 1)
    return [
        Change(
            *entry,
            measure=name,
            value=float(moments.change[group]),
            se=float(se[group]),
            low=float(moments.change[group] - half[group]),
            high=float(moments.change[group] + half[group]),
            runs=int(design.counts[group]),
            images=images,
        )
        for entry, group in design.group_of.items()
    ]


def _shared_spread(
    moments: _Moments, design: _Design
) -> tuple[Float[np.ndarray, " groups"], Float[np.ndarray, " groups"]]:
    spread, df = moments.spread.copy(), design.counts - 1.0
    ks = np.array([group.k for group in design.groups])
    drawn = np.array([group.drawn for group in design.groups])
    for k in np.unique(ks):
        alike = (ks == k) & ~drawn
        if not alike.any():
            continue
        own, freedom = moments.spread[alike], design.counts[alike] - 1.0
        total = (freedom * own).sum()
        spread[alike] = np.maximum(own, total / freedom.sum())
        df[alike] = total**2 / (freedom * own**2).sum() if total > 0 else freedom.sum()
    return spread, df


def _tests(design: _Design, pairs: Sequence[tuple[Entry, Entry]]) -> Int[np.ndarray, " pairs"]:
    """By how many comparisons each pair's error probability is divided."""
    indices = [(design.group_of[ours], design.group_of[rival]) for ours, rival in pairs]
    drawn = [design.groups[rival].drawn for _, rival in indices]
    distinct = dict(zip(indices, drawn, strict=True))
    families = Counter(is_drawn for (ours, rival), is_drawn in distinct.items() if ours != rival)
    return np.array([max(1, len(families) * families[is_drawn]) * len(MEASURES) for is_drawn in drawn])


def _comparisons(
    name: str,
    moments: _Moments,
    design: _Design,
    pairs: Sequence[tuple[Entry, Entry]],
    level: float,
    tests: Int[np.ndarray, " pairs"],
) -> list[Comparison]:
    ours, rivals = (np.array([design.group_of[pair[side]] for pair in pairs]) for side in (0, 1))
    better = MEASURES[name].better * moments.change
    advantage = better[ours] - better[rivals]
    covariance = moments.covariance
    by_image = covariance[ours, ours] + covariance[rivals, rivals] - 2 * covariance[ours, rivals]
    spread, df = _shared_spread(moments, design)
    luck = spread / design.counts
    # By source: the runs of the champion, those of the rival, the images. Between the same runs nothing varies.
    variance = np.stack([luck[ours], luck[rivals], np.maximum(by_image, 0)], 1) * (ours != rivals)[:, None]
    freedom = np.stack([df[ours], df[rivals], np.full(len(pairs), len(design.starts) - 1.0)], 1)
    by_run, alone = variance[:, :2].sum(1), moments.alone / design.counts
    both = np.minimum(alone[ours] + alone[rivals], by_run)
    t = _t(freedom, level / tests[:, None])
    half = _half_width(t, variance)
    t_runs = _half_width(t[:, :2], variance[:, :2]) / np.sqrt(np.where(by_run > 0, by_run, 1))
    se = np.sqrt(variance.sum(1))
    p_value = np.minimum(tests * _p_value(np.abs(advantage), variance, freedom), 1)
    return [
        Comparison(
            rule=rule,
            rival=rival,
            k=k,
            measure=name,
            advantage=float(advantage[i]),
            se=float(se[i]),
            low=float(advantage[i] - half[i]),
            high=float(advantage[i] + half[i]),
            p_value=float(p_value[i]),
            images=len(design.starts),
            runs=int(design.counts[ours[i]]),
            rival_runs=int(design.counts[rivals[i]]),
            twins=tuple(other for other, _ in design.groups[rivals[i]].entries if other != rival),
            spread=Spread(
                images=float(variance[i, 2]),
                both=float(both[i]),
                runs=float(by_run[i] - both[i]),
                t_images=float(t[i, 2]),
                t_runs=float(t_runs[i]),
            ),
        )
        for i, ((rule, k), (rival, _)) in enumerate(pairs)
    ]


def _t(df: np.ndarray, level: np.ndarray | float) -> np.ndarray:
    """Two-sided critical values of Student's t."""
    return -special.stdtrit(df, np.asarray(level) / 2)


def _half_width(t: Float[np.ndarray, "n parts"], variance: Float[np.ndarray, "n parts"]) -> Float[np.ndarray, " n"]:
    """Of a corrected interval: root of the sum of the parts' squared half widths."""
    return np.sqrt((t**2 * variance).sum(1))


def _p_value(
    size: Float[np.ndarray, " n"], variance: Float[np.ndarray, "n parts"], df: Float[np.ndarray, "n parts"]
) -> Float[np.ndarray, " n"]:
    """The level at which the interval just reaches 0, by bisection on its logarithm; nothing below 1e-16."""
    low, high = np.full(len(size), -16.0), np.zeros(len(size))
    for _ in range(26):
        middle = (low + high) / 2
        beyond = size > _half_width(_t(df, 10 ** middle[:, None]), variance)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    # Without any spread a difference is certain, and none is none.
    return np.where(size > 0, 10**high, 1.0)
