"""Kruskal-Wallis tests of Head Impact: table 2's degrees of freedom, the formula, planted differences."""

import numpy as np
import pytest
from scipy import stats

from headimpact.errors import InputError
from headimpact.impact.kruskal_wallis import kruskal_wallis


@pytest.mark.parametrize(
    ("layers", "heads", "layer_test", "head_test"),
    [  # table 2 with its columns put right: (statistic, p-value) across layers and across heads
        (28, 12, (92.93, 3.62e-9), (12.94, 0.30)),  # Qwen2-VL
        (24, 32, (103.56, 3.40e-12), (31.86, 0.42)),  # SmolVLM
        (26, 8, (75.28, 6.15e-7), (6.81, 0.449)),  # PaliGemma 2
    ],
)
def test_degrees_of_freedom_are_those_of_table_2(
    layers: int, heads: int, layer_test: tuple[float, float], head_test: tuple[float, float]
):
    result = kruskal_wallis(np.random.default_rng(0).random((layers, heads)))
    for ours, (statistic, p_value) in ((result.layers, layer_test), (result.heads, head_test)):
        assert stats.chi2.sf(statistic, ours.df) == pytest.approx(p_value, rel=0.015)
    assert (result.layers.df, result.heads.df) == (layers - 1, heads - 1)


def test_kruskal_wallis_equals_the_formula():
    hi = np.random.default_rng(3).random((4, 5))
    result = kruskal_wallis(hi)
    ranks = stats.rankdata(hi).reshape(hi.shape)
    for ours, axis, groups in ((result.layers, 1, 4), (result.heads, 0, 5)):
        members = 20 // groups
        statistic = 12 / (20 * 21) * (ranks.sum(axis) ** 2 / members).sum() - 3 * 21
        assert ours.statistic == pytest.approx(statistic)
        assert ours.p_value == pytest.approx(stats.chi2.sf(statistic, groups - 1))


def test_kruskal_wallis_finds_layers_and_not_heads():
    rng = np.random.default_rng(0)
    result = kruskal_wallis(np.arange(12)[:, None] / 12 + 0.01 * rng.random((12, 8)))
    assert result.layers.p_value < 1e-6
    assert result.heads.p_value > 0.05
    assert result.to_dict()["heads"] == {
        "statistic": result.heads.statistic,
        "df": 7,
        "p_value": result.heads.p_value,
    }


def test_kruskal_wallis_refuses_what_it_cannot_compare():
    with pytest.raises(InputError, match="1 layers x 4 heads are too few"):
        kruskal_wallis(np.ones((1, 4)))
    with pytest.raises(InputError, match=r"Every head has the same Head Impact \(0\.5\)"):
        kruskal_wallis(np.full((3, 4), 0.5))
    with pytest.raises(InputError, match="some are not numbers"):
        kruskal_wallis(np.array([[0.1, np.nan], [0.2, 0.3]]))
