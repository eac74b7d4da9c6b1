"""A tracking server of the campaign's own, and one before it that fails when it is told to."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_STARTS = 600.0  # s; on a quiet machine it takes ten
_SLOW = 0.5  # s before each answer of a slow server
_OF_BODY = ("content-length", "transfer-encoding")  # headers that follow from how a body is sent
_TELL = "/campaign/"  # before the name of a failure: it begins
FAILURES = ("500s", "cut off", "slow", "started again")


class Server:
    """A tracking server of the campaign's own, on SQLite.

    Args:
        folder: where it keeps everything.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.database, self.url = folder / "server.db", f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        stores = [
            "--backend-store-uri",
            f"sqlite:///{self.database}",
            "--artifacts-destination",
            str(self._folder / "a"),
        ]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), *stores]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1"],
                cwd=self._folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # else eight processes more
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(f"{self.url}/health", _STARTS)

    @property
    def group(self) -> int:
        """The group of its processes."""
        assert self._process
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        assert self._process
        with suppress(ProcessLookupError):  # a command has killed it
            os.killpg(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()


def wait_for(url: str, seconds: float) -> None:
    """Wait until an address answers.

    Raises:
        TimeoutError: it did not in this time (s).
    """
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise TimeoutError(f"{url} does not answer") from None
            time.sleep(0.5)


class Failing:
    """A server before another one, which hands on what it is asked until it is told to fail.

    Args:
        server: the other one.
    """

    def __init__(self, server: Server) -> None:
        self.server, self.failure = server, ""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def begin(self, failure: str) -> None:
        """Fail in one of the ways of ``FAILURES`` from now on."""
        if failure == "started again":
            self.server.send(signal.SIGKILL)
            self.server.start()
        else:
            self.failure = failure


def _handler(failing: Failing) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self._body()
            if self.path.startswith(_TELL):
                failing.begin(self.path.removeprefix(_TELL).replace("%20", " "))
                return self._send(200, [], b"")
            if failing.failure == "cut off":
                return self.connection.shutdown(socket.SHUT_RDWR)
            if failing.failure == "500s":
                return self._send(500, [], b"Internal Server Error")
            if failing.failure == "slow":
                time.sleep(_SLOW)
            other = http.client.HTTPConnection("127.0.0.1", failing.server.port, timeout=120)
            try:
                headers = {name: text for name, text in self.headers.items() if name.lower() not in _OF_BODY}
                other.request(self.command, self.path, body, headers)
                answer = other.getresponse()
                self._send(answer.status, answer.getheaders(), answer.read())
            except (OSError, http.client.HTTPException):
                self._send(502, [], b"Bad Gateway")
            finally:
                other.close()

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

        def _send(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in (*_OF_BODY, "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # who asked has gone
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    return Handler


def tell(url: str, failure: str) -> None:
    """Let the server of an address fail from now on."""
    with urllib.request.urlopen(f"{url}{_TELL}{failure.replace(' ', '%20')}", timeout=_STARTS):
        pass


@contextmanager
def served(folder: Path) -> Iterator[Failing]:
    """A tracking server, and one before it."""
    server = Server(folder)
    try:
        server.start()
        yield Failing(server)
    finally:
        server.send(signal.SIGKILL)
