"""How much memory something takes at most."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

_SECONDS = 0.01


@dataclass
class Peak:
    """Bytes at most, once the block of :func:`watched` has ended."""

    bytes: int = 0


@contextmanager
def watched(device: torch.device) -> Iterator[Peak]:
    """Within the block memory is watched: on a GPU what is allocated on it, exactly; elsewhere the resident memory of
    the process, every hundredth of a second."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        try:
            yield peak
        finally:
            peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    process, ended = psutil.Process(os.getpid()), threading.Event()

    def look() -> None:
        peak.bytes = max(peak.bytes, process.memory_info().rss)

    def watch() -> None:
        while not ended.wait(_SECONDS):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        look()
