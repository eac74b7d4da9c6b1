"""Runs the campaign and prints what it found. Each part goes to ``benchmarks/campaign.json`` when it ends, in the place
of what was there of it."""

import argparse
import os
import secrets
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from campaign.damaged import files
from campaign.disk import disk
from campaign.kills import kills
from campaign.outages import outages
from campaign.project import Project, copy, settle_environment
from campaign.record import SHARES, Record, deadlines
from campaign.served import requests
from headimpact.files import read_json_object, write_json
from headimpact.lifecycle import layout, reliability

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run the parts of the campaign one after the other; the exit status says whether every promise held."""
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="for all parts, once the copy is made")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all that is drawn")
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES))
    given = parser.parse_args()
    # Ended from outside, it ends its servers and takes its disk down.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    print(f"seed {given.seed}, {given.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="headimpact-campaign-") as name:
        project = Project(Path(name) / "project", Path(name) / "log")
        takes = {} if given.parts == ["files"] else _prepared(project)
        found = {}
        for part, until in deadlines(given.parts, given.minutes, time.monotonic()):
            print(f"-- {part}, {until - time.monotonic():.0f} s", flush=True)
            record = Record(given.seed, given.minutes)
            record.facts |= {"processors": os.cpu_count() or 1}
            _run(part, project, record, takes, until)
            found[part] = record.as_json()
            _keep(part, found[part])
    for columns, rows in (reliability.tried(found), reliability.promises(found)):
        print("\n" + "\n".join(" | ".join(row) for row in (columns, *rows)))
    print(f"\n{layout.CAMPAIGN} is written; headimpact write writes docs/reliability.md from it.")
    sys.exit(any(promise["failed"] for part in found.values() for promise in part["promises"]))


def _prepared(project: Project) -> dict[str, float]:
    """Make the copy and its first results; gives how long each command takes (s)."""
    copy(ROOT, project.folder)
    settle_environment(project.folder)
    return project.prepare()


def _run(part: str, project: Project, record: Record, takes: dict[str, float], until: float) -> None:
    parts = {
        "kills": lambda: kills(project, record, takes, until),
        "disk": lambda: disk(project, record, until),
        "outages": lambda: outages(project, record, takes, until),
        "files": lambda: files(record, project.log.parent, ROOT, until),
        "requests": lambda: requests(project, record, until),
    }
    try:
        parts[part]()
    except Exception as error:  # what the others find is kept
        traceback.print_exc()
        record.held(part, "the part goes on to its end", f"{type(error).__name__}: {error}")


def _keep(part: str, found: dict[str, Any]) -> None:
    path = ROOT / layout.CAMPAIGN
    before = read_json_object(path) if path.exists() else {}
    write_json(path, {name: found if name == part else before[name] for name in SHARES if name in {*before, part}})


if __name__ == "__main__":
    main()
