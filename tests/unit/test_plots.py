"""Figures: what is drawn, not how it looks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from headimpact.errors import InputError
from headimpact.report import figures

# Three layers of two heads: layer means 0.2, 0.4, 0.6 (slope 0.2), head means 0.3 and 0.5.
HI = [[0.1, 0.3], [0.3, 0.5], [0.5, 0.7]]


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": np.repeat(np.arange(3), 2),
            "head": np.tile(np.arange(2), 3),
            "hi": np.ravel(HI),
            "chance": [0.1, 0.2, 0.1, 0.2, 0.2, 0.2],
        }
    )


def lines(figure: Figure, axes: int = 0) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in figure.axes[axes].lines}


def test_heatmap_has_layers_down_and_heads_across(table: pd.DataFrame) -> None:
    figure = figures.heatmap(table, "tiny")
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), HI)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("head", "layer", "tiny")
    assert figure.axes[1].get_ylabel() == "Head Impact"


def test_heatmap_refuses_a_table_with_a_missing_head(table: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="every layer x head once"):
        figures.heatmap(table.drop(index=3))


def test_layer_profile_draws_means_band_regression_and_chance(table: pd.DataFrame) -> None:
    figure = figures.layer_profile(table)
    drawn = lines(figure)
    np.testing.assert_allclose(drawn["Head Impact"], [[0, 0.2], [1, 0.4], [2, 0.6]])
    np.testing.assert_allclose(drawn["regression"], [[0, 0.2], [1, 0.4], [2, 0.6]])
    np.testing.assert_allclose(drawn["chance level"], [[0, 0.15], [1, 0.15], [2, 0.2]])
    # Two heads 0.2 apart: standard deviation 0.2 / sqrt(2), standard error 0.1.
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in np.round(band, 6)} >= {(0, 0.1), (0, 0.3), (2, 0.5), (2, 0.7)}


def test_regression_is_a_line_through_uneven_means(table: pd.DataFrame) -> None:
    table["hi"] = [0.0, 0.0, 0.6, 0.6, 0.3, 0.3]  # means 0, 0.6, 0.3: slope 0.15 through (1, 0.3)
    np.testing.assert_allclose(lines(figures.layer_profile(table))["regression"], [[0, 0.15], [1, 0.3], [2, 0.45]])


def test_head_profile_averages_over_layers(table: pd.DataFrame) -> None:
    drawn = lines(figures.head_profile(table))
    np.testing.assert_allclose(drawn["Head Impact"], [[0, 0.3], [1, 0.5]])
    assert "chance level" not in drawn


def test_profiles_puts_layers_above_heads(table: pd.DataFrame) -> None:
    figure = figures.profiles(table, "tiny")
    assert [axes.get_xlabel() for axes in figure.axes] == ["layer", "head"]
    np.testing.assert_allclose(lines(figure, 1)["Head Impact"], [[0, 0.3], [1, 0.5]])


def test_one_layer_has_no_regression(table: pd.DataFrame) -> None:
    assert "regression" not in lines(figures.layer_profile(table[table["layer"] == 0]))


def test_history_draws_the_two_curves_by_step() -> None:
    frame = pd.DataFrame(
        {
            "step": [2, 1, 2, 1],
            "epoch": [1, 0, 1, 0],
            "metric": ["train/loss", "train/loss", "val/perplexity", "train/lr"],
            "value": [1.0, 2.0, 5.0, 0.1],
        }
    )
    figure = figures.history(frame)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata(), [[1, 2.0], [2, 1.0]])
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_xydata(), [[2, 5.0]])
    assert [axes.get_ylabel() for axes in figure.axes] == ["train/loss", "val/perplexity"]


def test_learning_curve_has_the_phases_side_by_side_and_held_out_shares_below() -> None:
    curve = pd.DataFrame(
        [
            ("vision", 1, "loss", 3.0),
            ("vision", 2, "loss", 2.0),
            ("joint", 1, "loss", 1.0),
            ("joint", 1, "accuracy", 0.5),
            ("joint", 1, "perplexity", 9.0),
        ],
        columns=["phase", "step", "metric", "value"],
    )
    vision, joint, vision_shares, joint_shares = figures.learning_curve(curve, "tiny").axes
    np.testing.assert_array_equal(vision.lines[0].get_xydata(), [[1, 3.0], [2, 2.0]])
    np.testing.assert_array_equal(joint.lines[0].get_xydata(), [[1, 1.0]])
    assert len(vision_shares.lines) == 0
    assert [(line.get_label(), line.get_xydata().tolist()) for line in joint_shares.lines] == [("accuracy", [[1, 0.5]])]
    assert (vision.get_title(), joint.get_title()) == ("vision", "joint")


def test_saved_twice_is_the_same_png_without_metadata(table: pd.DataFrame, tmp_path: Path) -> None:
    for name in ("a", "b"):
        figures.save(figures.layer_profile(table), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert set(image.info) <= {"dpi"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_stability_draws_a_way_a_line_and_a_k_an_axes() -> None:
    rows = [
        (way, k, n, 0.9 * k, 0.5 * k, k, 0.1 * k) for way in ("disjoint", "bootstrap") for k in (1, 4) for n in (5, 9)
    ]
    curve = pd.DataFrame(rows, columns=["way", "k", "n", "overlap", "low", "high", "expected"])
    figure = figures.stability(curve, "tiny")
    assert len(figure.axes) == 2
    for axes, k in enumerate((1, 4)):
        drawn = lines(figure, axes)
        np.testing.assert_allclose(drawn["disjoint"], [[5, 0.9 * k], [9, 0.9 * k]])
        np.testing.assert_allclose(drawn["bootstrap"], drawn["disjoint"])
        np.testing.assert_allclose(drawn["chance level"][:, 1], 0.1 * k)
    assert figure.axes[1].get_xlabel() == "images in each of two sets"
