"""Places in the work of a command, and what is made to happen there: it is killed, its disk fills up, its server fails.

A place is the call of a function, so that what is tried does not depend on how fast a machine is, and every phase of
the work has its turn.
"""

import importlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any


@dataclass(frozen=True)
class Place:
    """A place in the work of a command.

    Attributes:
        phase: what the command is doing there.
        function: what is called there, as ``module:name`` or ``module:class.name``.
        call: which call of it is meant, from 1.
    """

    phase: str
    function: str
    call: int = 1


COMPUTE = Place("compute", "headimpact.engine.forward:Engine.see", 2)
LOG = Place("log", "headimpact.lifecycle.tracking:log_files")
COMMIT = Place("commit", "headimpact.lifecycle.graph:commit")
LOCK = Place("commit", "dvc.utils.serialize._yaml:_dump")
END = Place("log", "mlflow:end_run")
_REGISTER = (
    Place("register", "headimpact.lifecycle.versions:_log_model"),
    Place("register", "headimpact.lifecycle.versions:_link_figures"),
    Place("register", "headimpact.lifecycle.versions:create"),
    Place("register", "headimpact.lifecycle.versions:link"),
)
PLACES: dict[str, tuple[Place, ...]] = {
    "data": (Place("write", "headimpact.data.scene_dataset:write_manifest"), LOG, COMMIT),
    "score": (
        COMPUTE,
        Place("compute", "headimpact.engine.portions:Kept.put"),
        Place("write", "headimpact.report.figures:save"),
        LOG,
        END,
        COMMIT,
        LOCK,
    ),
    "finetune": (
        Place("train", "headimpact.adapters.training:Training.optimize"),
        Place("train", "headimpact.adapters.training:Training._save", 2),
        Place("write", "headimpact.adapters.lora:save"),
        Place("log", "headimpact.lifecycle.tracking:log_history"),
        COMMIT,
        LOCK,
        Place("register", "headimpact.lifecycle.versions:create"),
        Place("commit", COMMIT.function, 2),
    ),
    "evaluate": (
        COMPUTE,
        Place("write", "headimpact.lifecycle.steps.evaluate:_write"),
        Place("write", "headimpact.lifecycle.steps.evaluate:keep"),
        Place("log", "headimpact.lifecycle.tracking:log_results"),
        _REGISTER[0],
        _REGISTER[2],
        COMMIT,
        LOCK,
    ),
    "register": _REGISTER,
    "soften": (COMPUTE, Place("write", "headimpact.adapters.softening:save"), LOG, COMMIT),
    "export": (Place("export", "headimpact.lifecycle.steps.export:_write_card"),),
}
"""By command, the places where something is made to happen."""


@dataclass(frozen=True)
class Event:
    """Something that happens when a command comes to a place.

    Attributes:
        place: where.
        happen: what; runs in the command's process.
        delay: how long after the call (s), beside the work; 0: before it.
    """

    place: Place
    happen: Callable[[], None]
    delay: float = 0.0

    def prepare(self) -> None:
        """Let it happen in this process."""
        module, _, name = self.place.function.partition(":")
        *path, last = name.split(".")
        owner: Any = importlib.import_module(module)
        for part in path:
            owner = getattr(owner, part)
        function, calls = getattr(owner, last), 0

        @wraps(function)
        def watched(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == self.place.call:
                self._begin()
            return function(*arguments, **options)

        setattr(owner, last, watched)

    def _begin(self) -> None:
        if not self.delay:
            return self.happen()
        timer = threading.Timer(self.delay, self.happen)
        timer.daemon = True
        timer.start()


def end_itself() -> None:
    """``kill -9`` of the process that it runs in."""
    os.kill(os.getpid(), 9)
