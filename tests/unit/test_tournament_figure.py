"""Gain against forgetting: every rule a point with its intervals, its name readable."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.text import Text

from headimpact.selection.rules import RULES
from headimpact.tournament import figure as tournament_figure


def tournament_changes(rules: dict[str, tuple[float, float]], model: str = "tiny", k: int = 4) -> pd.DataFrame:
    """Changes of perplexity and accuracy (AnsProb changes half as much), all with intervals of 0.1 either way."""
    return pd.DataFrame(
        [
            (model, rule, k, metric, value, value - 0.1, value + 0.1)
            for rule, (gain, kept) in rules.items()
            for metric, value in (("perplexity", gain), ("accuracy", kept), ("ans_prob", kept / 2))
        ],
        columns=["model", "rule", "k", "metric", "value", "low", "high"],
    )


def points(axes: Axes) -> dict[tuple[float, float], str]:
    """The marker of every point."""
    return {
        (float(x), float(y)): str(container.lines[0].get_marker())
        for container in axes.containers
        for x, y in np.asarray(container.lines[0].get_xydata())
    }


def test_tournament_sets_gain_against_forgetting_with_intervals() -> None:
    changes = tournament_changes({"top": (-1.0, -0.2), "last": (-0.5, 0.0), "full": (-1.5, -0.4), "draw": (-0.7, -0.1)})
    accuracy, ans_prob = tournament_figure.draw(changes).axes
    assert points(accuracy) == {(-1.0, -0.2): "*", (-0.5, 0.0): "s", (-1.5, -0.4): "D", (-0.7, -0.1): "X"}
    assert set(points(ans_prob)) == {(-1.0, -0.1), (-0.5, 0.0), (-1.5, -0.2), (-0.7, -0.05)}
    across, up = (bar.get_segments()[0] for bar in accuracy.containers[0].lines[2])
    np.testing.assert_allclose(across, [[-1.1, -0.2], [-0.9, -0.2]])
    np.testing.assert_allclose(up, [[-1.0, -0.3], [-1.0, -0.1]])
    assert {text.get_text() for text in accuracy.texts} == {"top", "last", "full", "draw"}
    assert accuracy.get_title() == "tiny, K = 4"
    assert accuracy.get_ylabel().startswith("accuracy")
    assert ans_prob.get_ylabel().startswith("AnsProb")


def test_tournament_has_a_column_a_k_and_two_rows_a_model() -> None:
    some = {"top": (-1.0, -0.2), "last": (-0.5, 0.0)}
    parts = [tournament_changes(some, model, k) for model, k in (("tiny", 1), ("tiny", 4), ("other", 4))]
    axes = tournament_figure.draw(pd.concat(parts)).axes
    assert [axis.get_title() for axis in axes] == [
        *["tiny, K = 1", "tiny, K = 4"] * 2,
        *["other, K = 1", "other, K = 4"] * 2,
    ]
    assert [axis.axison for axis in axes] == [True] * 4 + [False, True] * 2


def test_rules_with_the_same_layers_are_one_point() -> None:
    changes = tournament_changes({"last": (-0.5, 0.0), "top": (-1.0, -0.2), "mass": (-1.0, -0.2)})
    axes = tournament_figure.draw(changes).axes[0]
    assert {text.get_text(): text.get_fontweight() for text in axes.texts} == {"top = mass": "bold", "last": "normal"}
    assert points(axes)[-1.0, -0.2] == "*"


def test_labels_do_not_overlap_though_the_points_do() -> None:
    rng = np.random.default_rng(0)
    others = [rule for rule in RULES if rule != "top"][:13]
    rules = {rule: (-1 + 1e-3 * rng.normal(), 1e-4 * rng.normal()) for rule in others}
    figure = tournament_figure.draw(tournament_changes(rules | {"top": (-1.0, 0.0)}))
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to the point
        assert len(boxes) == 14
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        inside = axes.get_window_extent()
        assert all(inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes)


def test_one_rule_alone_and_rules_that_are_all_alike_are_drawn() -> None:
    for rules in ({"top": (0.0, 0.0)}, {"top": (-1.0, 0.0), "last": (-1.0, -0.1)}):
        figure = tournament_figure.draw(tournament_changes(rules))
        low, high = figure.axes[0].get_xlim()
        assert low < -1.0 * (len(rules) - 1) < high
