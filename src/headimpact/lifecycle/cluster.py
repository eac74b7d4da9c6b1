"""Independent runs on the machines of a Ray cluster: each result as it comes, and lost work done again elsewhere.

The code travels with the work. A worker goes to the project's folder as the command's own machine names it: dataset and
bases have to lie there. Everything that is known of Ray is in this file; it is imported where a cluster is asked for.
"""

import logging
import os
import platform
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import headimpact
from headimpact.errors import InputError
from headimpact.lifecycle.config import Compute

LOCAL = "local"
RETRIES = 3
"""How often work that was lost with its machine or its process is begun again."""
_SECONDS_TO_ANSWER = 10.0
Task = TypeVar("Task")
Result = TypeVar("Result")


def threads_of_run(compute: Compute) -> int:
    """The CPU threads of one run on a cluster, and the CPUs that it takes."""
    return max(1, compute.threads)


def spread(
    function: Callable[[Task], Result], tasks: Sequence[Task], compute: Compute
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in the order in which they end; see :func:`headimpact.engine.workers.work`.

    Where the cluster has GPUs each task takes one of them, and always the CPUs of :func:`threads_of_run`. Function,
    tasks and results travel between machines; the function is one of this package.

    Args:
        function: what is done to a task, in the project's folder of the machine that does it.
        tasks: independent of each other.
        compute: ``cluster`` (not None), ``device`` and ``threads`` count.

    Raises:
        InputError: Ray is not installed, or the cluster does not answer, is another version's or too small; what the
            function refused, with the machine; a task was lost more than :data:`RETRIES` times.
    """
    assert compute.cluster is not None
    if not tasks:
        return
    with _joined(compute.cluster) as ray:
        remote = ray.remote(_work).options(
            name="headimpact", max_retries=RETRIES, retry_exceptions=False, **_share(ray.nodes(), compute)
        )
        waiting = {remote.remote(str(Path.cwd()), function, task): task for task in tasks}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), _result(ray, done)


def _work(folder: str, function: Callable[[Task], Result], task: Task) -> Result:
    """On a machine of the cluster."""
    machine = platform.node()
    try:
        os.chdir(folder)
    except OSError as error:
        raise InputError(
            f"The machine {machine} of the cluster has no folder {folder} ({error.strerror}). Dataset and bases are "
            "read there on every machine: share the project's folder, or copy it to the same path."
        ) from None
    try:
        return function(task)
    except InputError as error:
        raise InputError(f"{error}\n(on the machine {machine} of the cluster, in {folder})") from None


def _result(ray: Any, done: Any) -> Any:
    lost = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    except lost as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"A run was lost {RETRIES + 1} times with the process or machine that it was on ({reason}). What was "
            "finished is kept. Is there enough memory? Run again when the cluster is well."
        ) from None
    except ray.exceptions.RuntimeEnvSetupError as error:
        raise InputError(f"A machine of the cluster could not take the code: {error}") from None


def _share(nodes: Sequence[dict[str, Any]], compute: Compute) -> dict[str, int]:
    """What of a machine one task takes."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = threads_of_run(compute)
    gpus = int(compute.device != "cpu" and any(machine.get("GPU", 0) >= 1 for machine in machines))
    if not any(machine.get("CPU", 0) >= cpus and machine.get("GPU", 0) >= gpus for machine in machines):
        largest = max((int(machine.get("CPU", 0)) for machine in machines), default=0)
        raise InputError(
            f"No machine of the cluster has {cpus} CPUs{' and a GPU' if gpus else ''} (the largest has {largest}). "
            "Lower compute.threads: a run takes as many CPUs."
        )
    return {"num_cpus": cpus, "num_gpus": gpus}


@contextmanager
def _joined(address: str) -> Iterator[Any]:
    """Ray, with the cluster behind it; what this command has begun there ends with the block."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise InputError(
            f"compute.cluster is {address}, but Ray is not installed. Install it with\n"
            "    pip install -r requirements-cluster.txt\n"
            "or set compute.cluster to null."
        ) from None
    code = {"py_modules": [str(Path(headimpact.__file__).parent)], "excludes": ["__pycache__"]}
    chosen: dict[str, Any] = {"address": address, "logging_level": logging.ERROR, "runtime_env": code}
    if address == LOCAL:
        chosen["include_dashboard"] = False
    else:
        _check_answers(address)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about Ray's own future
            ray.init(**chosen)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(f"compute.cluster is {address}, which cannot be joined: {error}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Whether something listens there: Ray itself asks for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"compute.cluster is {address}, but nothing answers there ({error}). On its first machine a cluster is "
            "started with\n"
            f"    ray start --head --port {port} --disable-usage-stats\n"
            "and every other joins it, this one included, with\n"
            f"    ray start --address {address} --disable-usage-stats"
        ) from None
