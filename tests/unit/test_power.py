"""How many images a comparison takes, and what it sees: against the formula where only one thing varies."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tournaments import comparison, make, seeded

from headimpact.errors import InputError
from headimpact.tournament.comparison import Spread, analyse
from headimpact.tournament.power import images_needed, smallest_visible


def test_images_needed_is_the_formula_where_only_images_matter():
    z = stats.norm.ppf(0.8)
    assert images_needed(comparison(), 0.05) == np.ceil(300 * 5e-4 * ((3 + z) / 0.05) ** 2)
    assert images_needed(comparison(), 0.025) == pytest.approx(4 * images_needed(comparison(), 0.05), abs=4)
    assert images_needed(comparison(), 0.05, power=0.9) > images_needed(comparison(), 0.05)
    assert images_needed(comparison(), 100.0) == 2


def test_no_number_of_images_helps_where_the_runs_vary():
    varying = replace(comparison(), spread=Spread(4e-4, 1e-4, 1e-3, 3.0, 5.0))
    limit = (5 + stats.norm.ppf(0.8)) * np.sqrt(1e-3)
    assert images_needed(varying, limit * 0.99) == np.inf
    assert np.isfinite(images_needed(varying, limit * 1.01))


def test_what_is_visible_now_needs_the_images_of_now():
    for found in analyse(make(seeded("top", "a", "b"))).comparisons:
        assert images_needed(found, smallest_visible(found)) == found.images
        half = (found.high - found.low) / 2
        assert smallest_visible(found) == pytest.approx(half + stats.norm.ppf(0.8) * found.se)
        assert smallest_visible(found, power=0.5) == pytest.approx(half)


def test_odd_wishes_are_refused():
    with pytest.raises(InputError, match=r"The difference to be seen is 0\.0: give a number above 0\."):
        images_needed(comparison(), 0.0)
    with pytest.raises(InputError, match=r"power is 80\.0; give a share from 0\.5 to below 1"):
        images_needed(comparison(), 0.1, power=80.0)
    with pytest.raises(InputError, match=r"power is 1\.0; give a share from 0\.5 to below 1"):
        smallest_visible(comparison(), power=1.0)
