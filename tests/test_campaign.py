"""The campaign's parts that need no project: what it draws, how it shares its time, and the page that it fills."""

import time
from importlib import import_module
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

import pytest
from campaign.places import PLACES, Event, Place
from campaign.record import LANES, SHARES, Record, deadlines, drawn

from headimpact.errors import InputError
from headimpact.files import write_json
from headimpact.lifecycle import layout, pages, reliability


def test_a_part_draws_the_same_whatever_the_others_did() -> None:
    assert drawn(3, "disk").random() == drawn(3, "disk").random()
    assert len({drawn(seed, part).random() for seed in (3, 4) for part in SHARES}) == 2 * len(SHARES)


def test_every_place_is_in_the_code() -> None:
    for place in {place for places in PLACES.values() for place in places}:
        module, _, name = place.function.partition(":")
        assert callable(attrgetter(name)(import_module(module))), place


def test_something_happens_at_the_second_call_and_the_call_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "alias", lambda setup: setup.upper(), raising=False)
    happened: list[int] = []
    Event(Place("write", "headimpact.lifecycle.layout:alias", 2), lambda: happened.append(1)).prepare()
    assert [(layout.alias("top-4"), len(happened)) for _ in range(3)] == [("TOP-4", 0), ("TOP-4", 1), ("TOP-4", 1)]


def test_parts_share_the_time_and_what_one_leaves_goes_to_the_others() -> None:
    assert sorted(part for lane in LANES for part in lane) == sorted(SHARES)
    started = time.monotonic()
    ends = [until - started for _, until in deadlines(SHARES, 10, started)]  # none takes any time
    assert ends[-1] == pytest.approx(600, abs=1)
    assert all(earlier < later for earlier, later in pairwise(sorted(ends)))
    assert [part for part, _ in deadlines(["requests", "disk"], 10, started)] == ["disk", "requests"]
    assert all(until <= time.monotonic() for _, until in deadlines(SHARES, 10, started - 601))


def test_the_page_has_promises_tries_and_failures(tmp_path: Path) -> None:
    names = ("campaign", "campaigntried", "campaignfailures", "campaignfacts")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("".join(f"<!-- {n}:start -->\n<!-- {n}:end -->\n" for n in names))
    assert pages.pages(tmp_path)[Path("README.md")].count("Not there yet: `make campaign` makes it.") == 4
    record = Record(7, 30)
    record.tried["kills"] += 21
    record.facts["processors"] = 2
    record.held("kills", "it is sound", tries=50)
    write_json(tmp_path / layout.CAMPAIGN, {"kills": record.as_json()})
    assert "No promise failed." in pages.pages(tmp_path)[Path("README.md")]
    record.held("kills", "no process is left", "score: 12 python")
    write_json(tmp_path / layout.CAMPAIGN, {"kills": record.as_json()})
    text = pages.pages(tmp_path)[Path("README.md")]
    assert "| kills | 21 | 20 |" in text
    assert "| outages | 0 | 6 |" in text
    assert reliability.short({"kills": record.as_json()}) == []
    assert reliability.short({"disk": record.as_json()}) == ["full disks that stopped the command: 0 of 10"]
    assert "| kills | it is sound | 50 | 0 |" in text
    assert "| kills | no process is left | 1 | 1 |" in text
    assert "- no process is left: score: 12 python" in text
    assert "- kills: seed 7, a campaign of 30 minutes; processors: 2" in text


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "campaign.json").write_text("[]")
    with pytest.raises(InputError, match="holds no JSON object"):
        reliability.read(tmp_path / "campaign.json")
