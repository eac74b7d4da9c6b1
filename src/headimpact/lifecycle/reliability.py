"""The tables of docs/reliability.md, from what the campaign wrote: promises, tries and failures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headimpact.files import read_json_object

Table = tuple[list[str], list[list[str]]]
"""Columns and rows."""

AIMS = {
    "kills": {"kills": 20},
    "outages": {"outages": 6},
    "disk": {"full disks that stopped the command": 10},
    "files": {"fuzzed files": 2500},
    "requests": {"fuzzed requests": 2500, "clients with right requests": 32},
}
"""By part, what a campaign should try at least."""


def read(path: Path) -> dict[str, Any]:
    """What the campaign wrote: by part, its seed, minutes, facts, what was tried, and promises.

    Raises:
        FileNotFoundError: there was none.
        InputError: the file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    return read_json_object(path)


def tried(campaign: Mapping[str, Any]) -> Table:
    """What was done, beside what should be at least."""
    aims = {name: aim for part in AIMS.values() for name, aim in part.items()}
    counts = dict.fromkeys(aims, 0)
    for part in campaign.values():
        counts |= part["tried"]
    rows = [[name, str(count), str(aims.get(name, ""))] for name, count in counts.items()]
    return ["tried", "times", "at least"], rows


def short(campaign: Mapping[str, Any]) -> list[str]:
    """What was tried less often than it should be, because the time of its part was over."""
    counts = [
        (name, part["tried"].get(name, 0), aim) for of, part in campaign.items() for name, aim in AIMS[of].items()
    ]
    return [f"{name}: {count} of {aim}" for name, count, aim in counts if count < aim]


def promises(campaign: Mapping[str, Any]) -> Table:
    """Every promise, a row each."""
    rows = [
        [name, promise["text"], str(promise["tries"]), str(promise["failed"])]
        for name, part in campaign.items()
        for promise in part["promises"]
    ]
    return ["part", "promise", "tries", "failures"], rows


def failures(campaign: Mapping[str, Any]) -> str:
    """What happened where a promise did not hold, a line each."""
    lines = [
        f"- {promise['text']}: {failure}"
        for part in campaign.values()
        for promise in part["promises"]
        for failure in promise["failures"]
    ]
    return "\n".join(lines) or "No promise failed."


def facts(campaign: Mapping[str, Any]) -> str:
    """Under what every part was held, a line each."""
    return "\n".join(
        f"- {name}: seed {part['seed']}, a campaign of {part['minutes']:g} minutes"
        + "".join(f"; {fact}: {value}" for fact, value in part["facts"].items())
        for name, part in campaign.items()
    )
