"""The DVC graph, through DVC's own library: what is stale, building it, recording a result, locks.

The library and not the command: its errors have types, and ``core.no_scm`` can be set for one call. Reading the graph
takes longer than most questions to it: within :func:`opened` it is read once, and again only when its files change.
"""

import logging
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import tenacity

from headimpact.errors import InputError
from headimpact.files import atomic_file, write_text
from headimpact.lifecycle import layout

INTERRUPTED = 130
# DVC itself gives up after 3 s: less than a `dvc status` of other stages takes, at the end of a training.
_PATIENCE = 600.0
_SAID = "HEADIMPACT_SAID"  # names the file in which a stage says why it fails
# What the stages, and what they were made from, are read from.
_FILES = (
    layout.PARAMS,
    *(path.with_suffix(suffix) for path in (layout.GRAPH, layout.JOBS) for suffix in (".yaml", ".lock")),
)


@contextmanager
def environment(**changes: str | None) -> Iterator[None]:
    """Set (or, with None, remove) variables of the environment for a while; child processes see them."""
    before = {name: os.environ.get(name) for name in changes}
    _set_variables(changes)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class _Graph:
    """A Repo of DVC, and the stages that were read with it.

    Its decorated methods have no types of use, nor have its stages.
    """

    def __init__(self, repo: Any) -> None:
        self.repo = repo
        self._content: dict[Path, bytes] | None = None
        self._stages: dict[str, Any] = {}
        self._edges: Any = None

    def stage(self, name: str) -> Any:
        """A stage as its files describe it now; nothing may be changed in it but by :func:`commit`."""
        self._read()
        if name not in self._stages:
            return self.repo.stage.collect(name)[0]  # raises what DVC has to say
        return self._stages[name]

    def with_upstream(self, names: Sequence[str]) -> list[Any]:
        """Stages, and everything upstream of them."""
        from dvc.repo.graph import collect_pipeline

        found = {stage.addressing: stage for name in names for stage in collect_pipeline(self.stage(name), self._edges)}
        return list(found.values())

    def _read(self) -> None:
        from dvc.repo.index import Index

        # By their content and not by their times: a file can be written twice within one tick of the clock.
        content = {path: path.read_bytes() for path in _FILES if path.is_file()}
        if content != self._content:
            index = Index.from_repo(self.repo)
            self._stages, self._edges = {stage.addressing: stage for stage in index.stages}, index.graph
            self._content = content


_shared: list[_Graph] = []


@contextmanager
def opened() -> Iterator[None]:
    """Whatever is asked in the block is asked of one Repo and one reading."""
    with _open() as graph:
        _shared.append(graph)
        try:
            yield
        finally:
            _shared.remove(graph)


def stale(targets: Sequence[str]) -> list[str]:
    """Those of ``targets`` and of everything upstream of them that ``dvc status`` names."""
    from dvc.repo import lock_repo

    with _open() as graph, lock_repo(graph.repo):
        return sorted(name for stage in graph.with_upstream(targets) for name in stage.status(check_updates=True))


def reproduce(targets: Sequence[str] | None = None, steps: Mapping[str, Callable[[], None]] | None = None) -> int:
    """``dvc repro`` of ``targets`` (None: of everything), in no MLflow run; the number of stages that ran.

    Args:
        targets: stages.
        steps: what the commands of stages do, to be done in this process: another one would spend most of its time
            importing what this one has.

    Raises:
        InputError: a stage failed (where it was a process, it has printed why), or another DVC command is at work.
        KeyboardInterrupt: a stage was interrupted.
    """
    logging.getLogger("dvc.repo.scm_context").setLevel(logging.WARNING)  # lists files to add to git
    logging.getLogger("dvc.stage").addFilter(_is_about_work)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # The stages say `python`: it is to be this one. They open runs of their own.
    with (
        TemporaryDirectory(prefix="headimpact-") as folder,
        environment(PATH=path, MLFLOW_RUN_ID=None, **{_SAID: str(Path(folder, "error.txt"))}),
        _done_here(steps or {}),
        _open() as graph,
    ):
        return len(graph.repo.reproduce(targets=list(targets) if targets else None))


@contextmanager
def _done_here(steps: Mapping[str, Callable[[], None]]) -> Iterator[None]:
    """In the block, DVC calls a stage's function instead of its command: it gives every command to one function."""
    from dvc.stage import run

    def here(command: Callable[..., None]) -> Callable[..., None]:
        def function(*arguments: Any, env: Mapping[str, str], **options: Any) -> None:
            stage = env["DVC_STAGE"]
            if stage not in steps:
                return command(*arguments, env=env, **options)
            with environment(DVC_STAGE=stage):
                steps[stage]()

        return function

    with _changed(run, "_run", here):
        yield


def _is_about_work(record: logging.LogRecord) -> bool:
    return "didn't change, skipping" not in record.getMessage()


def commit(stage: str) -> None:
    """``dvc commit -f``: take what lies on the disk as the result of ``stage``."""
    from dvc.repo import lock_repo
    from dvc.stage.serialize import to_lockfile

    with _open() as graph, lock_repo(graph.repo):
        described = graph.stage(stage)
        described.save()
        described.commit()
        known = described.dvcfile.lockfile_contents.get("stages", {}).get(described.name)
        if to_lockfile(described)[described.name] != known:  # writing dvc.lock takes a second: it reads it anew
            described.dvcfile.dump_stages([described], update_pipeline=False)


def inputs(stage: str) -> dict[str, Any]:
    """What ``stage`` depends on at this moment: the digest of each file, the value of each parameter."""
    with _open() as graph:
        described = graph.stage(stage)
        return {str(found): found.get_hash().value if found.exists else None for found in described.deps}


@contextmanager
def locked(read: Sequence[Path], write: Sequence[Path]) -> Iterator[None]:
    """Hold DVC's own locks on files for as long as a step runs outside of ``dvc repro``.

    Raises:
        InputError: another process writes one of them, or reads one that is to be written.
    """
    from dvc.rwlock import rwlock

    with _open() as graph:
        repo = graph.repo
        paths = [[str(path.absolute()) for path in group] for group in (read, write)]
        hardlink = repo.config["core"].get("hardlink_lock", False)
        with rwlock(repo.tmp_dir, repo.fs, " ".join(sys.argv), paths[0], paths[1], hardlink):
            yield


def say(message: str) -> None:
    """Let whoever runs this process as a stage know why it fails; nothing where nobody does."""
    if path := os.environ.get(_SAID):
        with suppress(OSError):  # who runs it has gone
            write_text(Path(path), message)


def _why(cause: Exception) -> str:
    """Why a stage failed that was a process: what it said itself, else how it ended, else what DVC says."""
    said = Path(os.environ.get(_SAID, ""))
    if said.is_file():
        return said.read_text(encoding="utf-8")
    text = str(cause)
    ended = re.search(r"exited with (-?\d+)$", text)
    # By the shell that DVC runs it in, a signal is told as 128 and its number.
    number = abs(int(ended[1])) % 128 if ended and not 0 <= int(ended[1]) <= 128 else 0
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        memory = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return f"it was ended from outside ({name}{memory})."
    return f"{text}; if it had more to say, that is printed above."


@contextmanager
def _open() -> Iterator[_Graph]:
    with _errors_told():
        if _shared:
            yield _shared[-1]
            return
        from dvc.repo import Repo

        root = Path.cwd()
        in_git = any((folder / ".git").exists() for folder in (root, *root.parents))
        settings = None if in_git else {"core": {"no_scm": True}}
        with _files_whole(), _files_parsed_cheaply(), Repo(str(root), config=settings) as repo:
            _wait_for(repo.lock)
            yield _Graph(repo)


@contextmanager
def _files_whole() -> Iterator[None]:
    """In the block, DVC writes its files aside and renames them.

    It writes dvc.lock in place, which takes most of a second: Ctrl-C or a kill within it loses the records of most
    stages without a word (measured).
    """
    from dvc.utils.serialize import _common

    def whole(dump: Callable[..., None]) -> Callable[..., None]:
        def dump_whole(path: Any, data: Any, dumper: Any, fs: Any = None, **options: Any) -> None:
            with atomic_file(Path(path)) as aside:
                dump(aside, data, dumper, **options)

        return dump_whole

    with _changed(_common, "_dump_data", whole):
        yield


@contextmanager
def _files_parsed_cheaply() -> Iterator[None]:
    """In the block, DVC parses one content of a file once, and dvc.lock without looking for comments.

    It parses params.yaml for every stage that it looks at; and dvc.lock, to which it adds a stage, in a way that keeps
    comments, of which it has none: most of a second for a whole grid, where the other way, which it takes when it only
    reads the file, takes a fifth of that and writes the same bytes.
    """
    from dvc.utils.serialize import _yaml

    def cheap(parse: Callable[..., Any]) -> Callable[..., Any]:
        @lru_cache(maxsize=8)
        def parsed(text: str) -> bytes:
            return pickle.dumps(parse(text, ""))

        def parse_cheaply(text: str, path: Any, typ: str = "safe") -> Any:
            if typ != "safe" and Path(path).suffix != ".lock":
                return parse(text, path, typ)
            try:
                return pickle.loads(parsed(text))
            except _yaml.YAMLFileCorruptedError:  # it names the file
                return parse(text, path)

        return parse_cheaply

    with _changed(_yaml, "parse_yaml", cheap):
        yield


@contextmanager
def _changed(module: Any, name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """In the block, a function of DVC is another one, which is made of it.

    For what DVC has no setting for. The functions are private to the pinned version; where one is not there, DVC does
    as it would.
    """
    function: Callable[..., Any] | None = getattr(module, name, None)
    if function is None:
        yield
        return
    setattr(module, name, change(function))
    try:
        yield
    finally:
        setattr(module, name, function)


def _wait_for(lock: Any) -> None:
    """Have DVC's lock wait for the command that holds it, and say so."""
    from dvc.lock import LockError

    def tell(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1:
            minutes = round(_PATIENCE / 60)
            print(
                f"DVC is at work in another process{_holder(lock)}: waiting for it, {minutes} minutes at most",
                file=sys.stderr,
                flush=True,
            )

    patient = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(LockError),
        stop=tenacity.stop_after_delay(_PATIENCE),
        wait=tenacity.wait_fixed(0.2),
        before_sleep=tell,
        reraise=True,
    )
    attempt = lock.lock
    lock.lock = lambda: patient(attempt)


def _holder(lock: Any) -> str:
    """Who holds DVC's lock, as far as its file tells."""
    try:
        process = psutil.Process(int(Path(lock.lockfile).read_text(encoding="utf-8")))
        return f" ({process.pid}: {' '.join(process.cmdline())[:100]})"
    except (AttributeError, OSError, ValueError, psutil.Error):
        return ""


@contextmanager
def _errors_told() -> Iterator[None]:
    from dvc.exceptions import DvcException, ReproductionError
    from dvc.lock import LockError

    try:
        yield
    except LockError as error:
        raise InputError(f"Another command is at work; wait until it has ended.\n{error}") from error
    except ReproductionError as error:
        # A stage that was interrupted before it could say so was ended by the signal itself.
        if str(error.__cause__).endswith((f"exited with {INTERRUPTED}", f"exited with {-signal.SIGINT}")):
            raise KeyboardInterrupt from error
        if isinstance(error.__cause__, InputError):
            raise InputError(f"{error.__cause__}\n{error}. Nothing after it was run.") from error
        if not isinstance(error.__cause__, DvcException):
            raise error.__cause__ or error from None  # a fault of ours, of a step in this process
        raise InputError(f"{error}: {_why(error.__cause__)} Nothing after it was run.") from error
    except DvcException as error:
        raise InputError(f"DVC: {error}") from error
