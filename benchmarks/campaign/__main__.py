"""Runs the campaign, prints what it found, and writes ``benchmarks/campaign.json``."""

import argparse
import os
import secrets
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from campaign.damaged import files
from campaign.disk import disk
from campaign.kills import kills
from campaign.outages import outages
from campaign.project import Project, copy, settle_environment
from campaign.record import SHARES, Record, deadlines
from campaign.served import requests

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run the parts of the campaign one after the other; the exit status says whether every promise held."""
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="for all parts, once the copy is made")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all that is drawn")
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES), help="writes nothing if not all")
    given = parser.parse_args()
    # Ended from outside, it ends its servers and takes its disk down.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    record = Record(given.seed, given.minutes)
    print(f"seed {given.seed}, {given.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="headimpact-campaign-") as name:
        project = Project(copy(ROOT, Path(name) / "project"), Path(name) / "log")
        settle_environment(project.folder)
        takes = project.prepare()
        record.facts |= {"processors": os.cpu_count() or 1} | {f"{of} takes, s": round(s) for of, s in takes.items()}
        print("; ".join(f"{of} takes {seconds:.0f} s" for of, seconds in takes.items()), flush=True)
        parts = {
            "kills": lambda until: kills(project, record, takes, until),
            "disk": lambda until: disk(project, record, until),
            "outages": lambda until: outages(project, record, takes, until),
            "files": lambda until: files(record, Path(name), ROOT, until),
            "requests": lambda until: requests(project, record, until),
        }
        for part, until in deadlines(given.parts, given.minutes, time.monotonic()):
            print(f"-- {part}, {until - time.monotonic():.0f} s", flush=True)
            try:
                parts[part](until)
            except Exception as error:  # what the others found is kept
                traceback.print_exc()
                record.held(part, "the part goes on to its end", f"{type(error).__name__}: {error}")
    sys.exit(_told(record, whole=set(given.parts) == set(SHARES)))


def _told(record: Record, whole: bool) -> int:
    from headimpact.files import write_json
    from headimpact.lifecycle import layout, reliability

    if whole:
        write_json(ROOT / layout.CAMPAIGN, record.as_json())
    for columns, rows in (reliability.tried(record.as_json()), reliability.promises(record.as_json())):
        print()
        for row in (columns, *rows):
            print(" | ".join(row))
    if whole:
        print(f"\n{layout.CAMPAIGN} is written; headimpact write writes docs/reliability.md from it.")
    return any(promise.failed for promise in record.promises.values())


if __name__ == "__main__":
    main()
