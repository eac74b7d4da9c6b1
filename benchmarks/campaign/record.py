"""What was promised, how often it was tried, and where it did not hold."""

import random
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from threading import Event
from typing import Any

SHARES = {"kills": 0.75, "files": 0.25, "outages": 0.4, "disk": 0.3, "requests": 0.3}
"""The parts of a campaign, and what each takes of the time of its lane."""
LANES = (("kills", "files"), ("outages", "disk", "requests"))
"""Parts that run one after the other; the lanes run beside each other, since one of them often waits for a server."""
STOPPED = Event()
"""Set when the campaign is ended from outside: what is at work is finished, and everything is taken down."""
_TOLD = 20  # failures of a promise that are told; the others are counted


@dataclass
class Promise:
    """A promise of the project.

    Attributes:
        part: of the campaign.
        text: what is promised.
        tries: how often it was tried.
        failed: how often it did not hold.
        failures: what happened instead, the first ones.
    """

    part: str
    text: str
    tries: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)


class Record:
    """What one part of a campaign finds.

    Args:
        seed: of everything that is drawn.
        minutes: for all parts.
    """

    def __init__(self, seed: int, minutes: float) -> None:
        self.seed, self.minutes = seed, minutes
        self.promises: dict[tuple[str, str], Promise] = {}
        self.tried: Counter[str] = Counter()
        self.facts: dict[str, Any] = {}

    def held(self, part: str, text: str, failure: str = "", tries: int = 1) -> None:
        """Note that a promise was tried; ``failure`` says what happened instead, or is empty."""
        promise = self.promises.setdefault((part, text), Promise(part, text))
        promise.tries += tries
        if failure:
            promise.failed += 1
            if len(promise.failures) < _TOLD:
                promise.failures.append(failure)
            print(f"  FAILED: {text}: {failure}", flush=True)

    def longest(self, name: str, seconds: float) -> None:
        """Note how long something took at most (s)."""
        self.facts[name] = max(self.facts.get(name, 0), round(seconds))

    def as_json(self) -> dict[str, Any]:
        """The record, as docs/reliability.md is written from it."""
        return {
            "seed": self.seed,
            "minutes": self.minutes,
            "facts": self.facts,
            "tried": dict(self.tried),
            "promises": [asdict(promise) for promise in self.promises.values()],
        }


def over(until: float) -> bool:
    """Whether nothing new is begun: a moment (``time.monotonic``) has passed, or the campaign was stopped."""
    return STOPPED.is_set() or time.monotonic() > until


def drawn(seed: int, part: str) -> random.Random:
    """What a part draws with: the same whatever the other parts did."""
    return random.Random(f"{seed} {part}")


def deadlines(parts: Collection[str], minutes: float, started: float) -> Iterator[tuple[str, float]]:
    """The parts, each with the moment (``time.monotonic``) it ends by; what one leaves goes to those after it.

    Args:
        parts: of ``SHARES``.
        minutes: for all of them.
        started: when the first one began; what has gone by goes off all parts.
    """
    shares = {part: share for part, share in SHARES.items() if part in parts}
    end, remaining = started + 60 * minutes, sum(shares.values())
    for part, share in shares.items():
        now = time.monotonic()
        yield part, now + max(0.0, end - now) * share / remaining
        remaining -= share
