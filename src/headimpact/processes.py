"""The processes that share work, as ``accelerate launch``, ``torch.distributed.run`` or ``mpirun`` started them: which
one this is, and how they talk.

All of them run the same code on the same inputs, and each does a share of the images; what one finds, all get, so that
all go on alike. The first one alone writes, tracks and tells. One process alone needs none of the libraries.
"""

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from headimpact.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# What tells a process how many there are, and which it is: accelerate's own lists (accelerate.state).
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_LOCAL_COUNTS = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
_LOCAL_RANKS = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
# Steps of training follow each other closely, and the first process checks what is upstream before they begin.
_STEP_PATIENCE = timedelta(minutes=30)
# At the end of their shares processes wait for the slowest; one that has died is noticed at once by its connection.
_SHARE_PATIENCE = timedelta(days=1)
_ERRORS = "headimpact/errors"


class OtherEndedError(InputError):
    """The work cannot go on because another process has ended; that one has said why."""


@dataclass(frozen=True)
class Processes:
    """The processes that share the work, seen from one of them.

    Attributes:
        rank: which one this is; 0 is the first.
        count: how many there are.
        wait: returns when every process has called it.
        group: of torch.distributed, over which they talk; None: this process has nobody to talk to.
    """

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, tracks and tells."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order, in every process.

        Raises:
            OtherEndedError: another process has ended.
        """
        if self.group is None:
            return [value]
        import torch.distributed as distributed

        values: list[Any] = [None] * self.count
        with _others_there():
            distributed.all_gather_object(values, value, self.group)
        return values

    def give(self, value: T, source: int = 0) -> T:
        """The value of one process, in every process.

        Raises:
            OtherEndedError: another process has ended.
        """
        if self.group is None:
            return value
        import torch
        import torch.distributed as distributed

        values = [value if self.rank == source else None]
        with _others_there():
            distributed.broadcast_object_list(values, source, self.group, torch.device("cpu"))
        return values[0]  # type: ignore[return-value]

    def add(self, tensor: "Tensor") -> "Tensor":
        """The sum of a tensor over all processes, which has the same bytes in all; ``tensor`` may be overwritten.

        Raises:
            OtherEndedError: another process has ended.
        """
        if self.group is None:
            return tensor
        import torch.distributed as distributed

        with _others_there():
            distributed.all_reduce(tensor)
        return tensor

    def heed(self, items: Iterable[T]) -> Iterator[T]:
        """The items, as long as no other process has said that it failed: on another machine no launcher would end this
        one, which would work on until they talk again.

        Raises:
            OtherEndedError: one has.
        """
        for item in items:
            if self.group is not None and _store().check([_ERRORS]):
                raise _ended()
            yield item

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Refuse to share work on different things.

        Args:
            facts: what has to be the same in every process, by its name.

        Raises:
            InputError: names what differs.
        """
        everyone = self.gather(dict(facts))
        for rank, others in enumerate(everyone):
            if differing := [name for name in facts if others[name] != everyone[0][name]]:
                raise InputError(
                    f"Process {rank + 1} of {self.count} has another {differing[0]} than the first "
                    f"({others[differing[0]]}, not {everyone[0][differing[0]]}): bring the project's folder, its "
                    "dataset and its bases to the same state on every machine."
                )

    @contextmanager
    def folder_of_first(self, folder: Path) -> Iterator[Path]:
        """A folder of the first process, without its subfolders: in the others, which need not see it, a copy that goes
        with the block."""
        if self.group is None:
            yield folder
            return
        files: dict[str, bytes] = {}
        if self.is_first and folder.is_dir():
            files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        files = self.give(files)
        with tempfile.TemporaryDirectory(prefix="headimpact-") as name:
            copy = folder if self.is_first else Path(name)
            for file in () if self.is_first else files:
                (copy / file).write_bytes(files[file])
            yield copy


ALONE = Processes()


def count_launched() -> int:
    """How many processes were started together; 1 where nothing says so."""
    return _first_of(_COUNTS, 1)


def is_first() -> bool:
    """Whether this is the first of the processes that were started together; known before they have met."""
    return _first_of(_RANKS, 0) == 0


def _first_of(names: tuple[str, ...], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), otherwise)


def launched(device: str) -> Processes:
    """The processes that were started together, when all of them have come here; this one alone where it is. Each gets
    its own GPU, which ``cuda`` then means.

    Args:
        device: as in ``devices.choose_device``.

    Raises:
        InputError: they cannot find each other, or a machine has fewer GPUs than processes.
    """
    return _meet(device) if count_launched() > 1 else ALONE


@cache
def _meet(device: str) -> Processes:
    import torch
    import torch.distributed as distributed
    from accelerate import PartialState

    from headimpact.devices import choose_device

    on_gpu = choose_device(device).type == "cuda"
    if on_gpu and device not in ("auto", "cuda"):
        raise InputError(f"Several processes cannot share {device}: with compute.device auto or cuda each has its own.")
    if on_gpu and _first_of(_LOCAL_COUNTS, 1) > torch.cuda.device_count():
        raise InputError(
            f"{_first_of(_LOCAL_COUNTS, 1)} processes were started on a machine with {torch.cuda.device_count()} GPUs: "
            "each needs its own."
        )
    try:
        # Without a GPU the processes find each other only if they are told: each takes itself for the only one else.
        state = PartialState(cpu=not on_gpu, timeout=_STEP_PATIENCE)
        if state.num_processes != count_launched():
            raise InputError(
                f"{count_launched()} processes were started, but {state.num_processes} found each other: start them "
                "with accelerate launch or torch.distributed.run."
            )
        group: Any = distributed.new_group(backend="gloo", timeout=_SHARE_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"The processes did not find each other: {str(error).splitlines()[0]}") from None
    _end_with_the_others()

    def wait() -> None:
        with _others_there():
            distributed.barrier(group)

    return Processes(state.process_index, state.num_processes, wait, group)


def leave() -> None:
    """Part from the others when all work is done; nothing where there are none."""
    if _meet.cache_info().currsize:
        from accelerate import PartialState

        PartialState().destroy_process_group()
        _meet.cache_clear()


def _store() -> Any:
    """What all processes can write to and read from without waiting for each other."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


@contextmanager
def _others_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError:  # what torch.distributed raises for a closed connection and at the end of its patience
        raise _ended() from None


def _ended() -> OtherEndedError:
    return OtherEndedError(
        "Another process has ended before the work was done, or was ended from outside (its own output says why). What "
        "is kept of long work is kept: run the same command again."
    )


def _end_with_the_others() -> None:
    """Where one process fails the launcher ends the others: by an error, so that they leave nothing half done."""
    process = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() != process:  # a worker of this process
            os._exit(128 + number)
        raise _ended()

    signal.signal(signal.SIGTERM, end)


def told_here(error: InputError) -> str | None:
    """What this process says of an error that ends it: of all processes one speaks.

    Returns:
        None where another one has spoken.
    """
    if count_launched() == 1:
        return str(error)
    if not _meet.cache_info().currsize:
        # All of them fail alike before they have met; another machine may lack what this one has.
        return str(error) if _first_of(_LOCAL_RANKS, 0) == 0 else None
    try:
        if _store().add(_ERRORS, 1) > 1:
            return None
    except RuntimeError:  # it was kept by a process that has ended
        pass
    rank = _first_of(_RANKS, 0)
    if isinstance(error, OtherEndedError) or not rank:
        return str(error)
    return f"process {rank + 1} of {count_launched()}, on {socket.gethostname()}: {error}"
