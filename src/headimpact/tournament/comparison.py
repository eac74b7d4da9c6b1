"""Rules for choosing layers set against each other: gain, forgetting, and what may be claimed of them.

A figure of a rule at one K is a mean over its runs (a run is one adapter), taken on the same test images. It
varies for two reasons, and every interval here covers both: other test images, and other runs of the same rule.
:mod:`headimpact.tournament.variance` says how much, :mod:`headimpact.tournament.intervals` what interval that makes.

Rules that took the same layers share their runs and are one group: see :mod:`headimpact.tournament.design`.

Assumed: images are independent of each other, the runs of different groups too. Where one seed moves two rules
alike, or a random draw is a run that another rule has as well, their comparison is surer than said here. The
figures of a rule's runs are about normal.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from headimpact.errors import InputError
from headimpact.evaluation.metrics import Metric
from headimpact.tournament.design import Design, design_of
from headimpact.tournament.intervals import (
    corrected_half_width,
    corrected_p_value,
    critical_values,
    single_half_width,
)
from headimpact.tournament.runs import RuleAtK, Runs
from headimpact.tournament.variance import Moments, moments, shared_spread


@dataclass(frozen=True)
class Change:
    """A metric of a rule at one K, adapter minus original, with the confidence interval of this figure alone.

    ``runs`` counts seeds, or draws where the rule draws. Less perplexity is gain; less accuracy or AnsProb
    is forgetting.
    """

    rule: str
    k: int
    metric: str
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
    metric: str
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

    Intervals and p-values of comparisons are corrected by Bonferroni for all K, metrics and rivals of the
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
    design = design_of(runs)
    pairs = [
        (ours, rival)
        for ours in design.group_of
        for rival in design.group_of
        if ours[0] == champion and rival[0] != champion and ours[1] == rival[1]
    ]
    if not pairs:
        raise InputError(f"There is nothing to compare: no other rule has been run at the same K as {champion!r}.")
    measured = [(metric, moments(runs, design, metric)) for metric in gain_first().values()]
    tests = _tests(design, pairs, len(measured))
    level = 1 - confidence
    return Tournament(
        changes=tuple(
            change for metric, of_groups in measured for change in _changes(metric, of_groups, design, level)
        ),
        comparisons=tuple(
            comparison
            for metric, of_groups in measured
            for comparison in _comparisons(metric, of_groups, design, pairs, level, tests)
        ),
    )


def _changes(metric: Metric, of_groups: Moments, design: Design, level: float) -> list[Change]:
    images = of_groups.images
    # By source: the runs, the images.
    variance = np.stack([of_groups.spread / design.counts, np.maximum(np.diag(of_groups.covariance), 0)], 1)
    freedom = np.stack([design.counts - 1, np.full(len(variance), images - 1)], 1)
    se = np.sqrt(variance.sum(1))
    half = single_half_width(critical_values(freedom, level), variance)
    return [
        Change(
            *rule_at_k,
            metric=metric.name,
            value=float(of_groups.change[group]),
            se=float(se[group]),
            low=float(of_groups.change[group] - half[group]),
            high=float(of_groups.change[group] + half[group]),
            runs=int(design.counts[group]),
            images=images,
        )
        for rule_at_k, group in design.group_of.items()
    ]


def _tests(design: Design, pairs: Sequence[tuple[RuleAtK, RuleAtK]], metrics: int) -> Int[np.ndarray, " pairs"]:
    """By how many comparisons each pair's error probability is divided."""
    indices = [(design.group_of[ours], design.group_of[rival]) for ours, rival in pairs]
    drawn = [design.groups[rival].drawn for _, rival in indices]
    distinct = dict(zip(indices, drawn, strict=True))
    families = Counter(is_drawn for (ours, rival), is_drawn in distinct.items() if ours != rival)
    return np.array([max(1, len(families) * families[is_drawn]) * metrics for is_drawn in drawn])


def _comparisons(
    metric: Metric,
    of_groups: Moments,
    design: Design,
    pairs: Sequence[tuple[RuleAtK, RuleAtK]],
    level: float,
    tests: Int[np.ndarray, " pairs"],
) -> list[Comparison]:
    ours, rivals = (np.array([design.group_of[pair[side]] for pair in pairs]) for side in (0, 1))
    better = of_groups.change if metric.higher_is_better else -of_groups.change
    advantage = better[ours] - better[rivals]
    covariance = of_groups.covariance
    by_image = covariance[ours, ours] + covariance[rivals, rivals] - 2 * covariance[ours, rivals]
    spread, df = shared_spread(of_groups, design)
    luck = spread / design.counts
    # By source: the runs of the champion, those of the rival, the images. Between the same runs nothing varies.
    variance = np.stack([luck[ours], luck[rivals], np.maximum(by_image, 0)], 1) * (ours != rivals)[:, None]
    freedom = np.stack([df[ours], df[rivals], np.full(len(pairs), of_groups.images - 1.0)], 1)
    by_run, alone = variance[:, :2].sum(1), of_groups.alone / design.counts
    both = np.minimum(alone[ours] + alone[rivals], by_run)
    t = critical_values(freedom, level / tests[:, None])
    half = corrected_half_width(t, variance)
    t_runs = corrected_half_width(t[:, :2], variance[:, :2]) / np.sqrt(np.where(by_run > 0, by_run, 1))
    se = np.sqrt(variance.sum(1))
    p_value = np.minimum(tests * corrected_p_value(np.abs(advantage), variance, freedom), 1)
    return [
        Comparison(
            rule=rule,
            rival=rival,
            k=k,
            metric=metric.name,
            advantage=float(advantage[i]),
            se=float(se[i]),
            low=float(advantage[i] - half[i]),
            high=float(advantage[i] + half[i]),
            p_value=float(p_value[i]),
            images=of_groups.images,
            runs=int(design.counts[ours[i]]),
            rival_runs=int(design.counts[rivals[i]]),
            twins=tuple(other for other in design.groups[rivals[i]].rules if other != rival),
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
