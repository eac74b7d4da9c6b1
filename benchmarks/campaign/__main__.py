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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from campaign.damaged import files
from campaign.disk import disk
from campaign.kills import kills
from campaign.outages import outages
from campaign.project import Project, copy, settle_environment
from campaign.record import LANES, SHARES, STOPPED, Record, deadlines
from campaign.served import requests
from headimpact.files import read_json_object, write_json
from headimpact.lifecycle import layout, reliability

ROOT = Path(__file__).resolve().parents[2]
_ONE = Lock()  # writes the file at a time


def main() -> None:
    """Run the parts of the campaign, two at a time; the exit status says whether every promise held and everything was
    tried as often as it should be."""
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=14.0, help="for all parts, once the copy is made")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all that is drawn")
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES))
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: STOPPED.set())
    print(f"seed {given.seed}, {given.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="headimpact-campaign-") as name:
        project = Project(Path(name) / "project")
        takes = {} if given.parts == ["files"] else _prepared(project)
        begun, found = time.monotonic(), {}

        def lane(parts: Sequence[str]) -> None:
            for part, until in deadlines(parts, given.minutes, begun):
                if STOPPED.is_set():
                    return
                print(f"-- {part}, {until - time.monotonic():.0f} s", flush=True)
                record = Record(given.seed, given.minutes)
                record.facts |= {"processors": os.cpu_count() or 1}
                _run(part, project, record, takes, until)
                record.facts["minutes taken"] = round((time.monotonic() - begun) / 60, 1)
                found[part] = record.as_json()
                _keep(part, found[part])

        lanes = [parts for lane in LANES if (parts := [part for part in lane if part in given.parts])]
        with ThreadPoolExecutor(len(lanes)) as pool:
            list(pool.map(lane, lanes))
    for columns, rows in (reliability.tried(found), reliability.promises(found)):
        print("\n" + "\n".join(" | ".join(row) for row in (columns, *rows)))
    short = reliability.short(found)
    print("\n" + ("Tried less often than it should be: " + "; ".join(short) if short else "Everything was tried."))
    print(f"{layout.CAMPAIGN} is written; headimpact write writes docs/reliability.md from it.")
    failed = any(promise["failed"] for part in found.values() for promise in part["promises"])
    sys.exit(failed or bool(short))


def _prepared(project: Project) -> dict[str, float]:
    """Make the copy and its first results; gives how long each command takes (s)."""
    copy(ROOT, project.folder)
    settle_environment(project.folder)
    return project.prepare()


def _run(part: str, project: Project, record: Record, takes: dict[str, float], until: float) -> None:
    folder = project.folder.parent
    parts = {
        "kills": lambda own: kills(own, record, until),
        "disk": lambda own: disk(own, record, until),
        "outages": lambda own: outages(own, record, takes, until),
        "requests": lambda own: requests(own, record, until),
    }
    try:
        if part == "files":
            files(record, folder, ROOT, until)
        else:
            parts[part](project.copied(folder / part / "project"))
    except Exception as error:  # what the others find is kept
        traceback.print_exc()
        record.held(part, "the part goes on to its end", f"{type(error).__name__}: {error}")


def _keep(part: str, found: dict[str, Any]) -> None:
    path = ROOT / layout.CAMPAIGN
    with _ONE:
        before = read_json_object(path) if path.exists() else {}
        write_json(path, {name: found if name == part else before[name] for name in SHARES if name in {*before, part}})


if __name__ == "__main__":
    main()
