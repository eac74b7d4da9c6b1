"""The served model: damaged requests by the thousand, beside clients who ask right and know the answer."""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostile import request
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from campaign.commands import left
from campaign.damaged import ONE_RUN
from campaign.project import MODEL, REGISTERED, SETUP, Project
from campaign.record import Record, drawn, over
from campaign.servers import wait_for

PART = "requests"
_CLIENTS = 32
_AT_ONCE = 16  # damaged requests
_RESTS = 8.0  # times what an answer took, so that damaged requests are not all of the time behind right ones
_BATCH = 250
_LONGEST_ANSWER = 2000  # bytes
_BUSY = 503
_TOO_LARGE = (17, 50, 200)  # MB, where 16 are taken
_STARTS = 600.0  # s
REFUSED = "a damaged request is answered, or refused with a 4xx of one sentence, without a stack trace"
RIGHT = "a right request gets the known answer, or is told that the model is busy"
LARGE = "a body of 17 to 200 MB is refused with a 413 of one sentence, and the connection is not cut"
ALIVE = "afterwards the server gives the known answer as before"
LEFT = "no process is left when the server was stopped"
Answer = tuple[int, bytes]


def requests(project: Project, record: Record, until: float) -> None:
    """Serve the registered adapter and ask until a moment (``time.monotonic``)."""
    picture = sorted((project.folder / "data/dataset/images").glob("*.png"))[0].read_bytes()
    row = {"image": base64.b64encode(picture).decode(), "prompt": "What is this photo?"}
    right = json.dumps(row | {"max_new_tokens": 4}).encode()
    with _served(project, record) as port:
        known = _ask(port, right)
        if known[0] != 200:
            raise RuntimeError(f"the served model says {known[1]!r:.300}")
        stop = threading.Event()
        with ThreadPoolExecutor(_CLIENTS + _AT_ONCE) as pool:
            clients = [pool.submit(_client, port, right, stop) for _ in range(_CLIENTS)]
            record.tried["clients with right requests"] = _CLIENTS
            draw = drawn(record.seed, PART)
            try:
                while not over(until):
                    bodies = _damaged(draw.randrange(2**32), row)
                    for body, answer in zip(bodies, pool.map(lambda body: _ask(port, body), bodies), strict=True):
                        record.tried["fuzzed requests"] += 1
                        record.tried["fuzzed requests that were refused"] += 400 <= answer[0] < 500
                        record.held(PART, REFUSED, _wrong(body, answer, known))
            finally:
                stop.set()
            for answer in (answer for client in clients for answer in client.result()):
                record.tried["right requests"] += 1
                record.tried["right requests that were told that the model is busy"] += answer[0] == _BUSY
                fits = answer == known or (answer[0] == _BUSY and not _wrong(right, answer, known))
                record.held(PART, RIGHT, "" if fits else f"{answer[0]}: {answer[1]!r:.200}")
        for megabytes in _TOO_LARGE:
            answer = _ask(port, _large(row, megabytes))
            refused = answer[0] == 413 and not _wrong(right, answer, known)
            record.held(PART, LARGE, "" if refused else f"{megabytes} MB: {answer[0]}: {answer[1]!r:.200}")
        again = _ask(port, right)
        record.held(PART, ALIVE, "" if again == known else f"{again[0]}: {again[1]!r:.200}")


def _damaged(number: int, row: dict[str, Any]) -> list[bytes]:
    """Bodies in which something is changed."""
    bodies: list[bytes] = []

    @settings(ONE_RUN, max_examples=_BATCH)
    @seed(number)
    @given(data=st.data())
    def collect(data: st.DataObject) -> None:
        bodies.append(request(data, row))

    collect()
    return bodies


def _large(row: dict[str, Any], megabytes: int) -> bytes:
    return json.dumps(row | {"image": "A" * megabytes * 10**6}).encode()


def _client(port: int, body: bytes, stop: threading.Event) -> list[Answer]:
    answers = []
    while not stop.is_set():
        asked = time.monotonic()
        answers.append(_ask(port, body))
        stop.wait(_RESTS * (time.monotonic() - asked))
    return answers


def _ask(port: int, body: bytes) -> Answer:
    """Status and body of what the server answers; status 0 and why, where it answers nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, f"{type(error).__name__}: {error}".encode()
    finally:
        connection.close()


def _wrong(body: bytes, answer: Answer, known: Answer) -> str:
    """What is wrong with the answer to a damaged request; empty where nothing is."""
    status, text = answer
    said = f"{status} for {body!r:.120}: {text!r:.200}"
    try:
        content = json.loads(text)
    except ValueError:
        return f"no JSON: {said}"
    if status == 200:
        return "" if "predictions" in content else f"no prediction: {said}"
    short = isinstance(content.get("message"), str) and len(text) < _LONGEST_ANSWER and b"Traceback" not in text
    return "" if short and (400 <= status < 500 or status == _BUSY) else said


@contextmanager
def _served(project: Project, record: Record) -> Iterator[int]:
    """The registered adapter behind MLflow's server, on a port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", f"models:/{REGISTERED}@{SETUP}", "--env-manager", "local"]
    variables = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{project.database}"}
    variables.pop("PYTHONPATH")  # the version brings its code along
    log = Path(f"{project.log}.served")
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "-h", "127.0.0.1", "-p", str(port)],
            cwd=project.folder,
            env=variables,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", _STARTS)
        print(f"{MODEL} is served", flush=True)
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        record.held(PART, LEFT, ", ".join(left(server.pid)))
