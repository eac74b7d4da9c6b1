"""Fetching files over HTTP: a few at a time, retried, checked, whole or absent, continued after an interruption."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from pathlib import Path, PurePosixPath
from threading import Event
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from PIL import Image, UnidentifiedImageError
from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from headimpact.data.images import DEEP, FORMATS, MAX_PIXELS
from headimpact.errors import InputError
from headimpact.files import atomic_file, digest_file, leaves_folder

MAX_BYTES = 50 * 2**20
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
GIVE_UP_AFTER = 20
"""So many files in a row that no server answers for: there is no network, or the server is down."""

_CONTINUE = "Run the same command again: only what is missing is fetched."
_FAILURES_NAMED = 3
_CHUNK_BYTES = 2**16
_HEADERS = {"User-Agent": "headimpact (dataset download)", "Accept-Encoding": "identity"}
# What files.atomic_file writes to.
_ASIDE = re.compile(r"\..+\.\d+\.tmp")


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch.

    Attributes:
        url: http or https.
        path: where it goes, relative to the folder, parts divided by "/".
        size: in bytes, if it is known.
        sha256: in hexadecimal, if it is known.
    """

    url: str
    path: str
    size: int | None = None
    sha256: str | None = None


class _Refused(Exception):  # noqa: N818
    """Why a file cannot be had. Asking again would not help."""


class _Passing(_Refused):
    """Why a file could not be had this time. Asking again may help."""


class _Unreachable(_Refused):
    """No server answered, however often it was asked."""


@dataclass(frozen=True)
class _Rules:
    folder: Path
    verify: Callable[[Path], str | None]
    max_bytes: int
    attempts: int
    timeout: float
    halt: Event


def _accept(path: Path) -> None:
    """No fault is known of any file."""


def fetch(
    files: Sequence[RemoteFile],
    folder: Path,
    verify: Callable[[Path], str | None] = _accept,
    max_bytes: int = MAX_BYTES,
    workers: int = 4,
    attempts: int = 5,
    timeout: float = 30.0,
    progress: Callable[[Sequence[RemoteFile]], Iterable[RemoteFile]] = iter,
) -> int:
    """Fetch what is missing of ``files`` into ``folder``; give how many files that were.

    A file that is there and whole is kept: of the size and hash that are known, and without a fault. One that is
    not whole is removed and fetched again. Dropped connections, timeouts, server errors and damaged content are
    retried with growing waits. One process may write to a folder at a time: what a killed one left half-written
    is removed first.

    Args:
        files: no two of the same path.
        folder: made if it does not exist.
        verify: gives the fault of a file, or None. It is called in several threads.
        max_bytes: a larger file is refused, whatever its server says.
        workers: files fetched at the same time.
        attempts: for one file, the first included.
        timeout: longest wait for an answer, or for its next bytes, in seconds.
        progress: wraps the files while they are fetched.

    Raises:
        InputError: an address is not http or https; a path leaves the folder or is there twice; some files could
            not be fetched (all others were); no server answers; the disk is full.
    """
    _check(files, folder)
    _remove_leftovers(folder)
    halt = Event()
    rules = _Rules(folder, verify, max_bytes, attempts, timeout, halt)
    with ThreadPoolExecutor(workers) as pool:
        try:
            outcomes = _outcomes(pool, files, rules, at_once=4 * workers)
            return _collect(zip(progress(files), outcomes, strict=True), files, folder)
        finally:
            halt.set()
            pool.shutdown(cancel_futures=True)


def _check(files: Sequence[RemoteFile], folder: Path) -> None:
    paths: set[str] = set()
    for file in files:
        if not _is_http(file.url):
            raise InputError(f"{file.url!r} is no http or https address of a file. Correct it in the list of files.")
        path = PurePosixPath(file.path)
        if leaves_folder(file.path) or not path.parts or "\0" in file.path:
            raise InputError(
                f"{file.url}: its path {file.path!r} leaves {folder}. Name the file relative to that folder."
            )
        if path.as_posix() in paths:
            raise InputError(f"{file.url}: another file has the path {file.path!r} too. Give each a path of its own.")
        paths.add(path.as_posix())


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.rglob(".*.tmp"):
        if _ASIDE.fullmatch(path.name):
            path.unlink()


def _outcomes(
    pool: ThreadPoolExecutor, files: Sequence[RemoteFile], rules: _Rules, at_once: int
) -> Iterator[tuple[RemoteFile, "Future[bool]"]]:
    """Each file as it is done. Few are handed out at once, so that memory does not grow with their number."""
    running: dict[Future[bool], RemoteFile] = {}
    for file in files:
        if len(running) == at_once:
            yield from _done(running)
        running[pool.submit(_ensure, file, rules)] = file
    while running:
        yield from _done(running)


def _done(running: dict["Future[bool]", RemoteFile]) -> Iterator[tuple[RemoteFile, "Future[bool]"]]:
    """Take out what is done, one at least; in the order of the files, so that an error names the first that failed."""
    done = wait(running, return_when=FIRST_COMPLETED).done
    for future in [future for future in running if future in done]:
        yield running.pop(future), future


def _collect(
    outcomes: Iterable[tuple[RemoteFile, tuple[RemoteFile, "Future[bool]"]]], files: Sequence[RemoteFile], folder: Path
) -> int:
    fetched = unreachable = 0
    refusals: dict[str, str] = {}
    for _, (file, future) in outcomes:
        try:
            fetched += future.result()
        except _Refused as refusal:
            refusals[file.path] = f"{file.url}: {refusal}"
            unreachable = unreachable + 1 if isinstance(refusal, _Unreachable) else 0
            if unreachable == GIVE_UP_AFTER:
                raise InputError(
                    f"{unreachable} files in a row could not be reached, the last one {refusals[file.path]}. "
                    f"Check the network and the address, then: {_CONTINUE}"
                ) from None
        except OSError as error:
            raise InputError(
                f"{folder / file.path} could not be stored: {error.strerror or error}. Everything fetched before is "
                f"kept. Make room on that disk, or correct the folder's permissions, then: {_CONTINUE}"
            ) from None
        else:
            unreachable = 0 if future.result() else unreachable
    if refusals:
        # In the order of the files, not in the one that they ended in.
        reasons = [refusals[file.path] for file in files if file.path in refusals]
        raise InputError(_failure(reasons, len(files), folder))
    return fetched


def _failure(reasons: Sequence[str], files: int, folder: Path) -> str:
    named = "; ".join(reasons[:_FAILURES_NAMED])
    more = f"; and {len(reasons) - _FAILURES_NAMED} more" if len(reasons) > _FAILURES_NAMED else ""
    others = f", the other {files - len(reasons)} are in {folder}" if files > len(reasons) else ""
    return f"{len(reasons)} of {files} files could not be fetched{others}: {named}{more}. {_CONTINUE}"


def _ensure(file: RemoteFile, rules: _Rules) -> bool:
    """Whether the file had to be fetched.

    Raises:
        _Refused: it could not be fetched.
        OSError: it could not be stored.
    """
    target = rules.folder / file.path
    if target.is_file():
        if _difference(target, file) is None and rules.verify(target) is None:
            return False
        target.unlink()
    retrying = Retrying(
        stop=stop_after_attempt(rules.attempts) | stop_when_event_set(rules.halt),
        wait=wait_random_exponential(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS),
        sleep=sleep_using_event(rules.halt),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        retrying(_attempt, file, rules)
    except requests.Timeout:
        raise _Unreachable(f"no answer within {rules.timeout:g} s") from None
    except requests.ConnectionError as error:
        raise _Unreachable(f"the connection failed ({error})") from None
    except requests.exceptions.ChunkedEncodingError:
        raise _Refused("the connection dropped in the middle of the file") from None
    except requests.RequestException as error:
        raise _Refused(f"the answer is malformed ({error})") from None
    return True


def _may_pass(error: BaseException) -> bool:
    passing = (_Passing, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, passing)


def _attempt(file: RemoteFile, rules: _Rules) -> None:
    with atomic_file(rules.folder / file.path) as aside:
        with (
            aside.open("wb") as stream,
            requests.get(file.url, headers=_HEADERS, timeout=rules.timeout, stream=True) as response,
        ):
            _check_status(response.status_code)
            _write(stream, response.iter_content(_CHUNK_BYTES), file, rules)
        if (difference := _difference(aside, file)) is not None:
            raise _Refused(difference)
        if (fault := rules.verify(aside)) is not None:
            raise _Passing(fault)


def _check_status(status: int) -> None:
    if status == HTTPStatus.OK:
        return
    reason = f"{status} {responses.get(status, '')}".rstrip()
    if status >= 500 or status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS):
        raise _Passing(reason)
    raise _Refused(reason)


def _write(stream: BinaryIO, chunks: Iterable[bytes], file: RemoteFile, rules: _Rules) -> None:
    """Write until the end, the limit or the halt of all work, whatever length the server announces."""
    limit = rules.max_bytes if file.size is None else min(rules.max_bytes, file.size)
    written = 0
    for chunk in chunks:
        if rules.halt.is_set():
            raise _Refused("stopped")
        written += len(chunk)
        if written > limit:
            raise _Refused(f"larger than {limit} bytes")
        stream.write(chunk)


def _difference(path: Path, file: RemoteFile) -> str | None:
    """How a file differs from what is known of it."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"{size} bytes, expected {file.size}"
    if file.sha256 is not None and (digest := digest_file(path)) != file.sha256.lower():
        return f"wrong hash: SHA-256 {digest}, expected {file.sha256.lower()}"
    return None


def mirrored(url: str, mirror: str | None) -> str:
    """The address with ``mirror`` in the place of its server, if there is one."""
    return url if mirror is None else mirror.rstrip("/") + urlsplit(url).path


def image_fault(path: Path) -> str | None:
    """What is wrong with an image, or None: it is PNG or JPEG, decodes to its end, has ``MAX_PIXELS`` at most."""
    try:
        # images.open_image changes the warnings' filters, which threads share.
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return _too_large()
            if image.mode.startswith(DEEP):
                return "an image of more than 8 bits a channel"
            image.load()
    except UnidentifiedImageError:
        return f"not a {' or '.join(FORMATS)} image"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return _too_large()
    except (OSError, SyntaxError, ValueError) as error:
        return f"damaged or truncated image ({error})"
    return None


def _too_large() -> str:
    return f"an image of more than {MAX_PIXELS // 10**6} megapixels"
