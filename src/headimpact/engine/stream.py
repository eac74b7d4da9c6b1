"""What comes before the device, ahead of it: items are prepared in worker processes, and come out in order."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from headimpact.errors import InputError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Refused:
    """An input error in a worker: DataLoader would raise it with the worker's stack trace in its message."""

    message: str


class _Prepared(Dataset):
    def __init__(self, items: Sequence[Any], prepare: Callable[[Any], Any]) -> None:
        self.items = items
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.prepare(self.items[index])
        except InputError as error:
            return _Refused(str(error))


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def stream(
    items: Sequence[T], prepare: Callable[[T], R], workers: int = 0, prefetch: int = 2, pin: bool = False
) -> Iterator[R]:
    """Prepare items one by one; what comes out does not depend on who prepared it.

    Args:
        items: what to prepare.
        prepare: of one item; in a worker it must not touch a GPU.
        workers: processes that prepare ahead; 0: none, and none where processes cannot be forked.
        prefetch: how many items each of them is ahead.
        pin: put tensors into page-locked memory.

    Raises:
        InputError: as ``prepare``.
    """
    if not workers or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(prepare, items)
        return
    loader = DataLoader(
        _Prepared(items, prepare),
        batch_size=None,
        num_workers=min(workers, max(1, len(items))),
        prefetch_factor=prefetch,
        pin_memory=pin,
        multiprocessing_context="fork",
        worker_init_fn=_one_thread,
    )
    for prepared in loader:
        if isinstance(prepared, _Refused):
            raise InputError(prepared.message)
        yield prepared
