"""Changes and comparisons: against the metrics' intervals, scipy, textbook sums, and plain bootstraps."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tournaments import COLUMNS, make, only, seeded

from headimpact import statistics
from headimpact.errors import InputError
from headimpact.tournament.comparison import Tournament, analyse
from headimpact.tournament.power import images_needed, smallest_visible
from headimpact.tournament.runs import Runs

# --- intervals ---------------------------------------------------------------------------------------


def test_where_runs_do_not_vary_the_intervals_are_those_of_the_metrics():
    runs = make(seeded("top", "last"), twins=True)
    found = analyse(runs)
    level = 0.05 / 3  # one rival, one K, three metrics
    for metric, column, sign in (("perplexity", "nll", -1), ("ans_prob", "ans_prob", 1)):
        paired = statistics.paired_perplexity_difference if column == "nll" else statistics.paired_difference
        top, last, before = runs.adapted[column][0], runs.adapted[column][3], runs.original[column]
        change, wanted = only(found.changes, rule="top", metric=metric), paired(top, before, runs.images)
        assert (change.value, change.se) == pytest.approx((wanted.value, wanted.se))
        assert (change.low, change.high) == pytest.approx((wanted.low, wanted.high))
        comparison, against = only(found.comparisons, metric=metric), paired(top, last, runs.images, 1 - level)
        assert comparison.advantage == pytest.approx(sign * against.value)
        assert comparison.high - comparison.low == pytest.approx(against.high - against.low)
        assert comparison.p_value == pytest.approx(min(3 * against.p_value, 1), rel=1e-5)


def test_where_images_do_not_vary_the_intervals_are_those_of_the_runs():
    keys = [*seeded("top", "last", seeds=4), *(("random", 4, seed, draw) for draw in range(5) for seed in range(2))]
    runs = make(keys, image_sd=0, both_sd=0)
    found = analyse(runs)
    mean = runs.adapted["ans_prob"].mean(1) - runs.original["ans_prob"].mean()
    by_draw = mean[8:].reshape(5, 2).mean(1)  # a draw is the mean over its seeds
    for rule, units in (("top", mean[:4]), ("random", by_draw)):
        change = only(found.changes, rule=rule, metric="ans_prob")
        interval = stats.ttest_1samp(units, 0).confidence_interval(0.95)
        assert change.runs == len(units)
        assert (change.value, change.se) == pytest.approx((units.mean(), stats.sem(units)))
        assert (change.low, change.high) == pytest.approx((interval.low, interval.high))
    comparison = only(found.comparisons, metric="ans_prob", rival="random")
    own, pooled = mean[:4].var(ddof=1), (mean[:4].var(ddof=1) + mean[4:8].var(ddof=1)) / 2
    shared = max(own, pooled)
    assert comparison.advantage == pytest.approx(mean[:4].mean() - by_draw.mean())
    assert comparison.se**2 == pytest.approx(shared / 4 + by_draw.var(ddof=1) / 5)
    spreads = np.array([own, mean[4:8].var(ddof=1)])
    df = 3 * spreads.sum() ** 2 / (spreads**2).sum()
    level = 0.05 / 6
    half = np.hypot(stats.t.isf(level / 2, df) * np.sqrt(shared / 4), stats.t.isf(level / 2, 4) * stats.sem(by_draw))
    assert (comparison.low, comparison.high) == pytest.approx(
        (comparison.advantage - half, comparison.advantage + half)
    )


def test_variance_is_that_of_crossed_random_effects():
    runs = make(seeded("top", "last", seeds=4), per_image=(2, 2))
    change = only(analyse(runs).changes, rule="top", metric="accuracy")
    order = np.argsort(runs.images, kind="stable")
    cells = (runs.adapted["correct"][:4] - runs.original["correct"])[:, order].reshape(4, 40, 2).mean(2)
    rows, columns, grand = cells.mean(1, keepdims=True), cells.mean(0, keepdims=True), cells.mean()
    of_runs = 40 * ((rows - grand) ** 2).sum() / 3
    of_images = 4 * ((columns - grand) ** 2).sum() / 39
    of_both = ((cells - rows - columns + grand) ** 2).sum() / (3 * 39)
    assert change.se**2 == pytest.approx((of_runs + of_images - of_both) / (4 * 40))


def plain_bootstrap(runs: Runs, statistic, resample_runs: bool, draws: int, seed: int = 5) -> float:
    """Standard deviation of ``statistic(top, last, original)``, mean NLLs by run, image by image in loops."""
    rng = np.random.default_rng(seed)
    names = sorted(set(runs.images.tolist()))
    members = {name: [i for i, image in enumerate(runs.images) if image == name] for name in names}
    half = len(runs.rules) // 2
    nll, before = runs.adapted["nll"], runs.original["nll"]
    found = []
    for _ in range(draws):
        rows: list[int] = []
        for _ in names:
            rows += members[names[rng.integers(len(names))]]
        picked = [rng.integers(half, size=half) if resample_runs else np.arange(half) for _ in range(2)]
        top, last = nll[:half][picked[0]][:, rows].mean(1), nll[half:][picked[1]][:, rows].mean(1)
        found.append(statistic(np.exp(top).mean(), np.exp(last).mean(), np.exp(before[rows].mean())))
    return float(np.std(found, ddof=1))


@pytest.mark.slow
def test_standard_errors_are_those_of_a_plain_bootstrap_over_images():
    # 1500 draws: 1.8 % of itself, three times that, and 2 % for 60 images.
    runs = make(seeded("top", "last", seeds=2), images=60, twins=True)
    found = analyse(runs)
    change = only(found.changes, rule="top", metric="perplexity")
    by_images = plain_bootstrap(runs, lambda top, _, before: top - before, False, 1500)
    assert change.se == pytest.approx(by_images, rel=0.075)
    comparison = only(found.comparisons, metric="perplexity")
    assert comparison.se == pytest.approx(
        plain_bootstrap(runs, lambda top, last, _: last - top, False, 1500), rel=0.075
    )


@pytest.mark.slow
def test_standard_errors_are_those_of_a_plain_bootstrap_over_images_and_runs():
    # Resampling 24 runs loses 1 / 24 of their variance, and the interaction is counted once more.
    runs = make(seeded("top", "last", seeds=24), images=60, run_sd=0.3)
    found = analyse(runs)
    change = only(found.changes, rule="top", metric="perplexity")
    both = plain_bootstrap(runs, lambda top, _, before: top - before, True, 1500)
    assert change.se == pytest.approx(both, rel=0.1)
    assert both > 1.2 * plain_bootstrap(runs, lambda top, _, before: top - before, False, 500)


def test_a_rule_that_happens_to_vary_little_has_the_spread_of_all():
    runs = make([*seeded("top", "a", "b", "c"), *seeded("top", "a", k=1)], image_sd=0, both_sd=0)
    still = runs.adapted["correct"].copy()
    still[:3] = still[:3].mean(0)
    found = analyse(replace(runs, adapted=dict(runs.adapted) | {"correct": still}))
    spreads = still.mean(1).reshape(6, 3).var(1, ddof=1)[:4]
    comparison = only(found.comparisons, metric="accuracy", k=4, rival="a")
    assert spreads[0] == pytest.approx(0)
    assert comparison.se**2 == pytest.approx((spreads.mean() + max(spreads[1], spreads.mean())) / 3)
    assert only(found.changes, rule="top", k=4, metric="accuracy").se == pytest.approx(0)


def test_better_is_less_perplexity_and_more_of_the_rest():
    runs = make(seeded("top", "last"), twins=True)
    worse = {column: figures.copy() for column, figures in runs.adapted.items()}
    for figures in worse.values():
        figures[3:] = figures[:3] + 0.5
    found = analyse(replace(runs, adapted=worse))
    assert only(found.comparisons, metric="perplexity").winner == "top"
    assert only(found.comparisons, metric="accuracy").winner == "last"
    assert only(found.comparisons, metric="ans_prob").advantage == pytest.approx(-0.5)


def test_champions_mirror_each_other():
    runs = make(seeded("top", "last"))
    one, other = analyse(runs), analyse(runs, champion="last")
    for a, b in zip(one.comparisons, other.comparisons, strict=True):
        assert (a.rule, a.rival) == (b.rival, b.rule)
        assert (a.advantage, a.low, a.high, a.p_value) == pytest.approx((-b.advantage, -b.high, -b.low, b.p_value))


def test_runs_that_equal_the_original_do_not_differ():
    runs = make(seeded("top", "last"), twins=True)
    same = {column: np.tile(runs.original[column], (6, 1)) for column in COLUMNS}
    found = analyse(replace(runs, adapted=same))
    assert {(c.value, c.low, c.high) for c in found.changes} == {(0, 0, 0)}
    assert {(c.low, c.high, c.p_value, c.same, c.winner) for c in found.comparisons} == {(0, 0, 1, True, None)}
    certain = dict(same) | {"nll": same["nll"] + np.repeat([[0.0], [1.0]], 3, 0)}
    spread = analyse(replace(runs, adapted=certain, original=dict(runs.original) | {"nll": np.ones(len(runs.images))}))
    assert only(spread.comparisons, metric="accuracy").p_value == 1


# --- many comparisons --------------------------------------------------------------------------------


def test_a_winner_is_named_exactly_where_the_corrected_p_value_says_so():
    runs = make([*seeded("top", "a", "b", "c", k=1), *seeded("top", "a", "b", "c", k=4)], run_sd=0.02, images=100)
    found = analyse(runs).comparisons
    assert len(found) == 3 * 2 * 3
    claimed = [c.winner is not None for c in found]
    assert claimed == [c.p_value <= 0.05 for c in found]
    assert 0 < sum(claimed) < len(found)


# --- rules that took the same layers -----------------------------------------------------------------


def with_copy(runs: Runs, of: str, rule: str, seeds: tuple[int, ...] = (0, 1, 2), k: int = 4) -> Runs:
    """The runs with a rule that has the very runs of another; other seeds than 0 to 2 are runs of their own."""
    own = {seed: i for i, (name, seed) in enumerate(zip(runs.rules, runs.seeds, strict=True)) if name == of}
    rows = [own[seed % 3] for seed in seeds]
    shift = np.array([0.0 if seed in own else 0.01 for seed in seeds])[:, None]
    return replace(
        runs,
        rules=(*runs.rules, *(rule for _ in seeds)),
        ks=np.append(runs.ks, [k] * len(seeds)),
        seeds=np.append(runs.seeds, seeds),
        draws=np.append(runs.draws, [0] * len(seeds)),
        adapted={column: np.vstack([figures, figures[rows] + shift]) for column, figures in runs.adapted.items()},
    )


def test_the_champions_own_layers_are_no_comparison():
    plain = make([*seeded("top", "last", "a"), *(("draw", 4, 0, draw) for draw in range(5))])
    found, without = analyse(with_copy(plain, "top", "excess")), analyse(plain)
    for same in (c for c in found.comparisons if c.rival == "excess"):
        assert (same.same, same.twins, same.winner) == (True, ("top",), None)
        assert (same.advantage, same.se, same.low, same.high, same.p_value) == (0, 0, 0, 0, 1)
        assert smallest_visible(same) == images_needed(same, 0.1) == np.inf
    # The other comparisons are what they are without it: neither the correction nor the shared spread counts it.
    assert [c for c in found.comparisons if not c.same] == list(without.comparisons)
    assert [replace(c, rule="top") for c in found.changes if c.rule == "excess"] == [
        c for c in found.changes if c.rule == "top"
    ]


def test_rivals_with_the_same_layers_count_once():
    plain = make(seeded("top", "last", "a"))
    found, without = analyse(with_copy(plain, "last", "knockout")), analyse(plain)
    for metric in ("perplexity", "accuracy", "ans_prob"):
        copy, last = (only(found.comparisons, metric=metric, rival=rival) for rival in ("knockout", "last"))
        assert (copy.twins, last.twins) == (("last",), ("knockout",))
        assert replace(copy, rival="last", twins=()) == only(without.comparisons, metric=metric, rival="last")
        assert replace(last, twins=()) == only(without.comparisons, metric=metric, rival="last")


def test_rules_that_share_a_run_have_the_runs_of_both():
    found = analyse(with_copy(make(seeded("top", "last")), "top", "excess", seeds=(2, 3)))
    same, top = (only(found.changes, rule=rule, metric="accuracy") for rule in ("excess", "top"))
    assert same.runs == 4
    assert replace(same, rule="top") == top
    assert all(c.low == c.high == 0 for c in found.comparisons if c.rival == "excess")
    # The same layers at another K are none of them: full at another rank, for one.
    with pytest.raises(InputError, match=r"no other rule has been run at the same K"):
        analyse(with_copy(make(seeded("top")), "top", "last", k=1))


def test_only_the_champions_layers_everywhere_leave_nothing_to_claim():
    found = analyse(with_copy(make(seeded("top")), "top", "excess"))
    assert {(c.same, c.low, c.high) for c in found.comparisons} == {(True, 0, 0)}


def test_a_random_draw_may_be_a_run_of_the_champion():
    runs = make([*seeded("top", "last"), *(("draw", 4, draw, draw) for draw in range(5))])
    met = {column: figures.copy() for column, figures in runs.adapted.items()}
    for figures in met.values():
        figures[6] = figures[0]
    draws = [c for c in analyse(replace(runs, adapted=met)).comparisons if c.rival == "draw"]
    assert all(not c.same and c.rival_runs == 5 and c.se > 0 for c in draws)


def test_more_rivals_and_more_confidence_widen_the_intervals_of_comparisons():
    keys = seeded("top", "a")
    few, sure = analyse(make(keys)), analyse(make(keys), confidence=0.99)
    many = analyse(make([*keys, *seeded("top", "a", k=1)]))

    def width(found: Tournament) -> float:
        comparison = only(found.comparisons, k=4, metric="accuracy", rival="a")
        return (comparison.high - comparison.low) / comparison.se

    assert width(few) < width(many)
    assert width(few) < width(sure)
    assert few.changes[0].high - few.changes[0].low < sure.changes[0].high - sure.changes[0].low


def test_random_draws_have_half_of_the_error_probability():
    rules = seeded("top", "a", "b", "c")
    draws = [("draw", 4, 0, draw) for draw in range(5)]
    found, alone = analyse(make([*rules, *draws])), analyse(make(rules))
    for found_ in found.comparisons:
        level = 0.05 / 2 / 3 / (1 if found_.rival == "draw" else 3)
        assert found_.spread.t_images == pytest.approx(stats.t.isf(level / 2, 39))
    assert all(c.spread.t_images == pytest.approx(stats.t.isf(0.05 / 9 / 2, 39)) for c in alone.comparisons)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match=r"last-4 has been trained once: .* at least 2 seeds\."):
        analyse(make([*seeded("top"), ("last", 4, 0, 0)]))
    with pytest.raises(InputError, match=r"A run \(rule, K, seed, draw\) comes twice"):
        analyse(make([*seeded("top", "last"), ("last", 4, 0, 0)]))
    with pytest.raises(InputError, match=r"no other rule has been run at the same K as 'top'"):
        analyse(make([*seeded("top"), *seeded("last", k=1)]))
    with pytest.raises(InputError, match=r"clustered by image needs at least 2 images, not 1\."):
        analyse(make(seeded("top", "last"), images=1))
    with pytest.raises(InputError, match=r"confidence is 95\.0; give a share between 0 and 1"):
        analyse(make(seeded("top", "last")), confidence=95.0)
