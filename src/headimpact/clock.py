"""Where time goes: seconds by part, for who wants to know; where nobody does, a part costs next to nothing."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

_NOBODY = nullcontext()


@dataclass
class Clock:
    """Seconds of every part, without those of the parts within it.

    Attributes:
        device: what runs behind Python's back and is waited for; on a CPU nothing does.
        now: tells the time in seconds.
        seconds: by part.
    """

    device: torch.device
    now: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    def switch(self) -> None:
        """Give the time since the last switch to the part that is open."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = self.now()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Within the block time counts for a part, and not for the one around it."""
        self.switch()
        self._open.append(name)
        try:
            yield
        finally:
            self.switch()
            self._open.pop()


_clock: Clock | None = None


@contextmanager
def running(device: torch.device, now: Callable[[], float] = time.perf_counter) -> Iterator[Clock]:
    """Within the block a clock runs; what is in no part counts as ``other``.

    Args:
        device: what is waited for.
        now: tells the time in seconds, as ``time.process_time`` does where a machine is shared.

    Raises:
        RuntimeError: one runs already.
    """
    global _clock
    if _clock is not None:
        raise RuntimeError("A clock runs already.")
    _clock = Clock(device, now)
    try:
        with _clock.part("other"):
            yield _clock
    finally:
        _clock = None


def part(name: str) -> AbstractContextManager[None]:
    """Within the block time counts for a part, where a clock runs."""
    return _NOBODY if _clock is None else _clock.part(name)
