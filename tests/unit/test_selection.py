"""A selection as written to JSON and read back."""

import json

import numpy as np
import pytest

from headimpact.errors import InputError
from headimpact.selection.choice import select
from headimpact.selection.selection import Selection

GRID = np.random.default_rng(3).random((12, 4))
HI = {"hi": GRID}


@pytest.mark.parametrize("setup", ["original", "top-4", "random-3", "layers:1,5", "last-2", "draw-3-1"])
def test_selection_survives_json(setup: str):
    selection = select(setup, HI, seed=5)
    data = json.loads(json.dumps(selection.to_dict(), allow_nan=False))
    assert Selection.from_dict(data) == selection
    assert Selection.from_dict({**data, "model": "tiny-smolvlm", "table_digest": "00"}) == selection


@pytest.mark.parametrize("setup", ["heads:top-5", "heads:1.2,8.0,8.3"])
def test_selected_heads_survive_json(setup: str):
    selection = select(setup, HI, seed=5)
    data = json.loads(json.dumps(selection.to_dict(), allow_nan=False))
    assert Selection.from_dict(data) == selection
    with pytest.raises(InputError, match=r"^The selection names heads but gives reasons for others\. Select again\.$"):
        Selection.from_dict({**data, "heads": data["heads"][1:]})


def test_edited_json_is_refused():
    data = select("top-2", HI, seed=0).to_dict()
    with pytest.raises(InputError, match=r"^This is not a selection \(KeyError: 'rule'\)\. Select again\.$"):
        Selection.from_dict({key: value for key, value in data.items() if key != "rule"})
    with pytest.raises(InputError, match="This is not a selection"):
        Selection.from_dict({**data, "layers": ["two"]})
    with pytest.raises(InputError, match=r"names the layers \[2, 6\] but gives reasons for others"):
        Selection.from_dict({**data, "layers": [2, 6]})
