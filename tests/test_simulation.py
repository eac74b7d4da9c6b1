"""What the comparison promises, in simulated tournaments: coverage, no false winners, power, images needed."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from jaxtyping import config
from scipy import stats

from headimpact.impact.kruskal_wallis import kruskal_wallis
from headimpact.tournament.comparison import analyse
from headimpact.tournament.power import images_needed
from headimpact.tournament.runs import Runs
from headimpact.tournament.standings import verdicts

RULES = ("top", "bottom", "first", "middle", "last", "uniform", "gradient")
DRAWS = 5
ORIGINAL, ADAPTED = 1.8, 1.0  # mean NLL


def tournament(
    rng: np.random.Generator,
    images: int = 60,
    rules: tuple[str, ...] = RULES,
    ks: tuple[int, ...] = (1, 4),
    seeds: int = 3,
    drawn: bool = True,
    run_sd: float = 0.05,
    unequal: dict[str, float] | None = None,
    planted: float = 0.0,
    twins: dict[str, str] | None = None,
) -> Runs:
    """Figures of 1 to 4 objects an image under every run; in truth all rules are one but for what is ``planted``.

    Every image has its own effect on all runs, on every rule, and on every run; every run its own luck, with the
    standard deviation ``run_sd`` (times ``unequal`` of the rule). ``planted`` lowers the NLL of top-4. ``twins`` took
    the layers of another rule and have its runs. The share of right answers is a threshold on the same kind of sum,
    AnsProb its logistic.
    """
    keys = [(rule, k, seed, 0) for k in ks for rule in rules for seed in range(seeds)]
    if drawn:
        keys += [("draw", k, 0, draw) for k in ks for draw in range(DRAWS)]
    cells = sorted({(rule, k) for rule, k, _, _ in keys})
    cell = np.array([cells.index(key[:2]) for key in keys])
    clusters = np.repeat(np.arange(images), rng.integers(1, 5, images))
    luck_sd = run_sd * np.array([(unequal or {}).get(key[0], 1.0) for key in keys])

    def effects(rows: int, sd: float) -> np.ndarray:
        return rng.normal(0, sd, (rows, images))

    def figures(scale: float) -> tuple[np.ndarray, np.ndarray]:
        before = (effects(1, 0.4 * scale)[:, clusters] + rng.normal(0, 0.4 * scale, len(clusters)))[0]
        moved = effects(1, 0.2 * scale) + effects(len(cells), 0.15 * scale)[cell] + effects(len(keys), 0.1 * scale)
        luck = rng.normal(0, scale * luck_sd)[:, None]
        return before, before + moved[:, clusters] + luck + rng.normal(0, 0.1 * scale, (len(keys), len(clusters)))

    before, nll = figures(1.0)
    top = np.array([key[:2] == ("top", 4) for key in keys])[:, None]
    answers_before, answers = figures(2.0)
    rules_, ks_, seeds_, draws_ = zip(*keys, strict=True)
    rows = [keys.index(((twins or {}).get(key[0], key[0]), *key[1:])) for key in keys]
    return Runs(
        rules=rules_,
        ks=np.array(ks_),
        seeds=np.array(seeds_),
        draws=np.array(draws_),
        images=clusters,
        adapted={
            "nll": (ADAPTED + nll - planted * top)[rows],
            "correct": (answers > -0.5).astype(float)[rows],
            "ans_prob": 1 / (1 + np.exp(-answers))[rows],
        },
        original={
            "nll": ORIGINAL + before,
            "correct": (answers_before > -0.7).astype(float),
            "ans_prob": 1 / (1 + np.exp(-answers_before)),
        },
    )


@pytest.fixture(scope="module", autouse=True)
def shapes_looked_at_once() -> Iterator[None]:
    """Those of one tournament are those of thousands."""
    analyse(tournament(np.random.default_rng(0)))
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("seeds", "run_sd"),
    [(3, 0.005), (3, 0.04), (5, 0.04), (3, 0.3)],
    ids=["images matter", "both matter, 3 seeds", "both matter, 5 seeds", "seeds matter"],
)
def test_intervals_cover_the_truth_in_93_to_97_percent(seeds: int, run_sd: float):
    rng = np.random.default_rng(20)
    times = 600
    truth = math.exp(ADAPTED + run_sd**2 / 2) - math.exp(ORIGINAL)
    covered = np.empty((times, 4))
    for i in range(times):
        runs = tournament(rng, 50, rules=RULES[:4], ks=(4,), seeds=seeds, drawn=False, run_sd=run_sd)
        changes = [change for change in analyse(runs).changes if change.metric == "perplexity"]
        covered[i] = [change.low < truth < change.high for change in changes]
    # sqrt(0.95 x 0.05 / 600) = 0.0089 if the four rules told the same, half of it if they were independent.
    error = covered.mean(1).std() / math.sqrt(times)
    print(f"{seeds} seeds, sd {run_sd}: coverage {covered.mean():.4f}, standard error {error:.4f}")
    assert 0.93 <= covered.mean() <= 0.97


@pytest.mark.parametrize(
    ("run_sd", "unequal", "twins"),
    [
        (0.01, {}, {}),
        (0.05, {}, {}),
        (0.3, {}, {}),
        (0.05, {"top": 2.0}, {}),
        (0.05, {"first": 3.0}, {}),
        (0.05, {"draw": 5.0}, {}),
        (0.05, {}, {"uniform": "top", "bottom": "first", "gradient": "first"}),
    ],
)
def test_where_no_rule_differs_at_most_5_percent_of_tournaments_have_a_winner(
    run_sd: float, unequal: dict[str, float], twins: dict[str, str]
):
    rng = np.random.default_rng(21)
    times, false = 200, 0
    for _ in range(times):
        found = analyse(tournament(rng, run_sd=run_sd, unequal=unequal, twins=twins))
        won = any(comparison.winner for comparison in found.comparisons)
        assert won == any(verb in told for told in verdicts(found) for verb in ("beats", "is beaten by", "keeps"))
        false += won
    print(f"sd {run_sd} {unequal} {twins}: winners in {false / times:.3f} of {times}")
    assert false / times <= 0.05


def test_where_the_champions_seeds_vary_much_more_than_the_others_more_tournaments_have_a_winner():
    """The known limit, which the report names: seeds are taken to move the rules of one K about alike."""
    rng, times = np.random.default_rng(5), 100
    settings = {"run_sd": 0.05, "unequal": {"top": 5.0}}
    false = sum(any(c.winner for c in analyse(tournament(rng, **settings)).comparisons) for _ in range(times))
    print(f"{settings}: winners in {false / times:.3f} of {times}")
    # 0.097 of 300 (seed 5); 0.03 is its standard error in 100
    assert false / times <= 0.097 + 3 * 0.03


def test_a_planted_difference_is_found_and_takes_the_images_that_the_formula_says():
    rng = np.random.default_rng(22)
    difference = 0.3  # perplexity
    planted = -math.log(1 - difference / math.exp(ADAPTED))
    settings = {"rules": RULES[:6], "ks": (4,), "run_sd": 0.01}

    def against_rules(runs: Runs) -> list:
        return [c for c in analyse(runs).comparisons if c.metric == "perplexity" and c.rival != "draw"]

    pilots = [c for _ in range(60) for c in against_rules(tournament(rng, 100, **settings))]
    images = {power: int(np.median([images_needed(c, difference, power) for c in pilots])) for power in (0.8, 0.97)}
    for power, number in images.items():
        runs = [tournament(rng, number, planted=planted, **settings) for _ in range(100)]
        share = np.mean([[c.winner == "top" for c in against_rules(found)] for found in runs])
        print(f"power {power}: {number} images, found {share:.3f}")
        # 100 tournaments of rivals that share a champion: a standard error of up to 0.04; the rest is the formula's.
        assert share == pytest.approx(power, abs=0.1)
        if power > 0.9:
            told = [verdicts(analyse(found))[0] for found in runs]
            assert np.mean(["top-4 by HI beats" in sentence for sentence in told]) > 0.95


def test_few_seeds_that_vary_make_wide_intervals():
    rng = np.random.default_rng(23)
    few, many = (analyse(tournament(rng, 100, ks=(4,), seeds=n, run_sd=0.3, drawn=False)) for n in (3, 12))
    width = [np.mean([c.high - c.low for c in found.changes]) for found in (few, many)]
    # t with 2 degrees of freedom over root 3 against t with 11 over root 12 is 3.9, where nothing else varies.
    assert width[0] > 2 * width[1]
    assert all(images_needed(c, 0.1) == math.inf for c in few.comparisons if c.metric == "perplexity")


def test_kruskal_wallis_is_scipys_also_with_ties():
    hi = np.random.default_rng(24).integers(0, 6, (5, 8)) / 10
    result = kruskal_wallis(hi)
    for ours, groups in ((result.layers, list(hi)), (result.heads, list(hi.T))):
        theirs = stats.kruskal(*groups)
        assert (ours.statistic, ours.p_value) == pytest.approx((theirs.statistic, theirs.pvalue))
