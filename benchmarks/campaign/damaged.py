"""Damaged files: the properties of the suite, with other inputs in every campaign, and many of them."""

from collections import Counter
from itertools import cycle
from pathlib import Path

import yaml
from hostile import PROPERTIES, Place
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from small_datasets import write_small_dataset

from campaign.record import Record, drawn, over
from headimpact.lifecycle import layout

PART = "files"
ONE_RUN = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
_AT_ONCE = 50
PROMISE = "it is taken or refused in a sentence, and what is taken is sound"


def files(record: Record, folder: Path, project: Path, until: float) -> None:
    """Try every property in turn until a moment (``time.monotonic``).

    Args:
        record: of what held.
        folder: for what is written.
        project: the root of the project, for its params.yaml.
        until: when no other one is begun.
    """
    values = yaml.safe_load((project / layout.PARAMS).read_text(encoding="utf-8"))
    place = Place(write_small_dataset(folder / "dataset"), folder, values)
    draw, counts = drawn(record.seed, PART), Counter[str]()
    for name in cycle(PROPERTIES):
        if over(until):
            break
        number = draw.randrange(2**32)
        tries, failure = _tried(place, name, number)
        counts[name] += tries
        record.tried["fuzzed files"] += tries
        record.held(PART, f"{name.replace('_', ' ')}: {PROMISE}", failure, tries)
    print("; ".join(f"{name}: {count}" for name, count in counts.items()), flush=True)


def _tried(place: Place, name: str, number: int) -> tuple[int, str]:
    tries = 0

    @settings(ONE_RUN, max_examples=_AT_ONCE)
    @seed(number)
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        nonlocal tries
        PROPERTIES[name](place, data)
        tries += 1

    try:
        holds()
    except HypothesisException as error:
        return tries, f"{name} with seed {number}: {type(error).__name__}"
    except Exception as error:  # whatever is raised is what is looked for
        return tries, f"{name} with seed {number}: {type(error).__name__}: {str(error)[:200]}"
    return tries, ""
