"""What is said about Head Impact follows from the numbers, whichever way they fall."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from headimpact.impact import stability, variations
from headimpact.impact.variations import Scores
from headimpact.report import examined

IMAGES = np.repeat(np.arange(20), 2)


def scores(means: Any, seed: int = 0, blob: float = 0.2) -> Scores:
    iou = np.array(means) + np.random.default_rng(seed).normal(0, 0.01, (40, 5, 2))
    return Scores(iou.astype(np.float32), np.full((40, 5, 2), 0.1, np.float32), np.full(40, blob), np.full(40, 0.05))


LAYERS = np.array([[0.5], [0.4], [0.3], [0.25], [0.05]]) + np.zeros(2)
TURNED = LAYERS[::-1]
FACTS: dict[str, Any] = {
    "layers": 5,
    "heads": 2,
    "variance": {"share": 0.3, "low": 0.25, "high": 0.35},
    "kruskal_wallis": {"layers": {"p_value": 0.0003}, "heads": {"p_value": 0.56}},
}


@pytest.fixture(scope="module")
def curve() -> pd.DataFrame:
    return stability.curve(scores(LAYERS).iou, IMAGES, 0)


def sentences(curve: pd.DataFrame, otherwise: dict[str, Any]) -> list[str]:
    """What is said where HI is computed otherwise: by the name of the variation, its layers or what is added to all."""
    varied = {name: scores(value if np.ndim(value) else LAYERS + value, 1) for name, value in otherwise.items()}
    table = variations.table({variations.DEFINITION: scores(LAYERS)} | varied, IMAGES)
    return examined.sentences(table, curve, FACTS)


def about(lines: list[str], start: str) -> str:
    (line,) = [line for line in lines if line.startswith(start)]
    return line


def test_baselines(curve: pd.DataFrame) -> None:
    said = about(sentences(curve, {}), "8 of 10")
    assert "8 above a blob in the image's centre (HI 0.200)" in said
    assert "The best head reaches 0.50" in said
    assert "0.300, is above the blob" in said
    row = {"above_chance": 1, "above_blob": 0, "blob": 0.3, "mean_hi": 0.2, "best_hi": 0.25}
    assert "0 above a blob in the image's centre (HI 0.300)" in examined.baselines(row, 10)
    assert "0.200, is not above the blob" in examined.baselines(row, 10)


@pytest.mark.parametrize(
    ("shift", "expected", "rise"),
    [(0.1, "the mean HI rises by 0.1", 10), (-0.1, "the mean HI falls by 0.1", 0), (0, "no effect can be claimed", 0)],
)
def test_sinks(curve: pd.DataFrame, shift: float, expected: str, rise: int) -> None:
    said = about(sentences(curve, {"sinks: each head's removed": shift}), "Sinks: each head's")
    assert expected in said
    assert f"{rise} of 10 heads rise" in said
    assert "4 of 4 of the top layers stay" in said


def test_what_the_top_layers_depend_on(curve: pd.DataFrame) -> None:
    same = {"threshold: top-area": 0, "rows: last phrase token": 0}
    said = sentences(curve, {"threshold: median": TURNED, "mask: any overlap": 0.1} | same)
    assert about(said, "The top 4 layers depend on the threshold") == (
        "The top 4 layers depend on the threshold. The same as by the definition: median 3 of 4; top-area 4 of 4."
    )
    assert "any overlap 4 of 4" in about(said, "The top 4 layers do not depend on the token mask")
    assert "last phrase token 4 of 4" in about(said, "The top 4 layers do not depend on the query rows")


def test_a_change_that_other_images_bring_about_too_is_said_to_be_one() -> None:
    row = {"overlap": 3, "top": "0 1 2 3"}
    assert examined.depends("the threshold", {"threshold: median": row}, 3.0).startswith(
        "The top 4 layers change with the threshold, but by no more than with the images (two sets share from 3 on)."
    )
    assert examined.depends("the threshold", {"threshold: median": row}, 3.5).startswith("The top 4 layers depend on")


def test_how_many_images(curve: pd.DataFrame) -> None:
    said = examined.images(curve)
    assert "5 images are enough" in about(said, "For the top 1")
    noisy = stability.curve(np.random.default_rng(0).random((40, 8, 2), dtype=np.float32), IMAGES, 0)
    assert "10 images are not enough" in examined.images(noisy)[1]
    assert "(by chance 2.00)" in examined.images(noisy)[1]
    assert examined.images_enough(noisy)[1] == ("images enough for top-4", "more than 10")


def test_layers_against_heads(curve: pd.DataFrame) -> None:
    said = sentences(curve, {})
    assert about(said, "30% (25% to 35%)").endswith("A choice of whole layers leaves most of it aside.")
    most = examined.split({"share": 0.8, "low": 0.7, "high": 0.9})
    assert most.startswith("80% (70% to 90%)")
    assert most.endswith("A choice of whole layers takes most of it in.")
    assert examined.split({"share": None}).startswith("Heads differ by no more")
    assert "p = 0.0003" in about(said, "The paper's test across layers")
    assert "p = 0.56, which says nothing" in about(said, "The paper's test across layers")
