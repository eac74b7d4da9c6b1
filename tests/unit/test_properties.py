"""Hostile input: whatever it holds, it is taken or refused in a sentence, and what is taken is sound.

Hypothesis makes the inputs, the same ones in every run.
"""

from pathlib import Path

import pytest
import yaml
from hostile import PROPERTIES, Place
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_datasets import write_small_dataset

from headimpact.lifecycle import layout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Place:
    folder = tmp_path_factory.mktemp("hostile")
    values = yaml.safe_load((project_root / layout.PARAMS).read_text(encoding="utf-8"))
    return Place(write_small_dataset(folder / "dataset"), folder, values)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPERTIES)
def test_it_is_taken_or_refused(place: Place, name: str) -> None:
    @settings(
        max_examples=25 if name == "annotations" else 60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        PROPERTIES[name](place, data)

    holds()
