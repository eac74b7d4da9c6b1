"""Tables and verdicts of tournaments."""

from dataclasses import replace

import pandas as pd
import pytest
from tournaments import comparison, make, seeded, tables

from headimpact.errors import InputError
from headimpact.tournament.comparison import Comparison, Tournament, analyse
from headimpact.tournament.power import images_needed, smallest_visible
from headimpact.tournament.standings import changes_table, comparisons_table, headlines, standings, verdicts

N = "(n: 300 test images, 3 seeds)."
N_DRAWS = "(n: 300 test images, 3 seeds, 5 draws)."


def told(*comparisons: Comparison) -> list[str]:
    return verdicts(Tournament((), comparisons))


def test_a_verdict_claims_what_the_intervals_exclude():
    assert told(comparison("draw")) == [
        f"Gain (perplexity): top-4 by HI beats random draws by 0.12 [0.05 to 0.19] {N_DRAWS}"
    ]
    assert told(comparison("last", low=-0.19, high=-0.05)) == [
        f"Gain (perplexity): top-4 by HI is beaten by last-4 by 0.12 [0.05 to 0.19] {N}"
    ]
    assert told(comparison("draw", metric="ans_prob")) == [
        f"Forgetting (AnsProb): top-4 by HI keeps more AnsProb than random draws by 0.12 [0.05 to 0.19] {N_DRAWS}"
    ]
    assert told(comparison("full", low=-0.19, high=-0.05, metric="accuracy")) == [
        f"Forgetting (accuracy): top-4 by HI keeps less accuracy than full-4 by 0.12 [0.05 to 0.19] {N}"
    ]


def test_a_verdict_names_no_winner_where_the_interval_holds_zero():
    open_ = (comparison("middle", low=-0.08, high=0.03), comparison("last", low=0.0, high=0.06))
    assert told(*open_) == [
        "Gain (perplexity): no difference larger than 0.08 can be claimed at this n between top-4 by HI and middle-4 "
        f"and last-4 [-0.08 to 0.06] {N}"
    ]


def test_random_draws_come_first_and_alone_and_every_k_and_metric_has_a_sentence():
    mixed = [
        comparison("middle"),
        comparison("first", low=-0.3, high=-0.1),
        comparison("last", low=-0.1, high=0.2),
        comparison("draw", low=-0.4, high=0.3),
        comparison(k=1),
        comparison(metric="accuracy"),
    ]
    sentences = told(*mixed)
    assert sentences[1:3] == [
        "Gain (perplexity): no difference larger than 0.4 can be claimed at this n between top-4 by HI and random "
        f"draws [-0.4 to 0.3] {N_DRAWS}",
        "Gain (perplexity): top-4 by HI beats middle-4 by 0.12 [0.05 to 0.19]; top-4 by HI is beaten by first-4 by 0.2 "
        "[0.1 to 0.3]; no difference larger than 0.2 can be claimed at this n between top-4 by HI and last-4 "
        f"[-0.1 to 0.2] {N_DRAWS}",
    ]
    assert sentences[0].startswith("Gain (perplexity): top-1 by HI beats random-1")
    assert sentences[3].startswith("Forgetting (accuracy): top-4 by HI keeps more accuracy than random-4")
    assert len(sentences) == 4


def test_rules_that_took_the_same_layers_are_named_together_and_those_of_the_champion_apart():
    same = comparison("excess", low=0.0, high=0.0, twins=("top", "auroc"))
    assert told(
        same,
        replace(same, rival="auroc", twins=("top", "excess")),
        comparison("last", twins=("knockout",)),
        comparison("knockout", twins=("last",)),
    ) == [
        "top-4 by HI took the same layers as excess-4 and auroc-4: nothing to compare.",
        f"Gain (perplexity): top-4 by HI beats knockout-4 = last-4 by 0.12 [0.05 to 0.19] {N}",
    ]
    assert told(same) == ["top-4 by HI took the same layers as excess-4: nothing to compare."]


WANTED = {"perplexity": 0.1, "accuracy": 0.05, "ans_prob": 0.02}


def test_a_headline_names_who_is_better_and_who_is_worse_and_counts_the_rest():
    won, lost = comparison("last"), comparison("full", low=-0.19, high=-0.05)
    open_, same = comparison("draw", low=-0.1, high=0.2), replace(comparison("first"), twins=("mass", "top"))
    found = comparisons_table(Tournament((), (won, lost, open_, same)), {"perplexity": 0.1})
    (headline,) = headlines(found.assign(model="tiny")).items()
    perplexity = "perplexity: better than last, worse than full, 1 undecided"
    assert headline == (("tiny", 4), perplexity)
    (headline,) = headlines(found[found["rival"] == "first"].assign(model="tiny")).values()
    assert headline == "perplexity: nothing to compare"


def test_tables_hold_a_row_a_figure():
    found = analyse(make([*seeded("top", "a", "b"), *seeded("top", "a", k=1)]))
    changes = changes_table(found)
    assert list(changes) == ["rule", "k", "metric", "value", "se", "low", "high", "runs", "images"]
    assert len(changes) == 5 * 3
    compared = comparisons_table(found, WANTED)
    assert len(compared) == 3 * 3
    assert "spread" not in compared
    for row, comparison_ in zip(compared.itertuples(), found.comparisons, strict=True):
        assert row.winner == comparison_.winner or pd.isna(row.winner)
        assert row.images_needed == images_needed(comparison_, WANTED[comparison_.metric])
        assert row.visible == smallest_visible(comparison_)


def test_a_metric_without_a_difference_is_told():
    tournament = analyse(make(seeded("top", "a")))
    with pytest.raises(
        InputError, match=r"^tournament\.differences\.ans_prob is not set: give the difference of ans_prob"
    ):
        comparisons_table(tournament, {"perplexity": 0.1, "accuracy": 0.05})


def test_standings_are_those_of_each_model():
    both = {"tiny": make(seeded("top", "last"), seed=1), "other": make(seeded("top", "last"), seed=2)}
    made = {model: tables(runs) for model, runs in both.items()}
    found = standings(
        {model: table for model, (table, _) in made.items()},
        {model: original for model, (_, original) in made.items()},
        WANTED,
    )
    assert found.changes["model"].tolist() == ["tiny"] * 6 + ["other"] * 6
    assert found.changes.index.is_unique
    for model, runs in both.items():
        alone = analyse(runs)
        rows = found.comparisons[found.comparisons["model"] == model]
        assert rows["advantage"].tolist() == pytest.approx([c.advantage for c in alone.comparisons])
        assert found.verdicts[model] == verdicts(alone)
    with pytest.raises(InputError, match=r"^other: There is nothing to compare: no other rule .* as 'top'"):
        standings(
            {model: table[(table["rule"] == "top") | (model == "tiny")] for model, (table, _) in made.items()},
            {model: original for model, (_, original) in made.items()},
            WANTED,
        )
