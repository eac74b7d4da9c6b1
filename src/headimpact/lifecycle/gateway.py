"""What stands before MLflow's scoring server: limits that hold for the whole request, before anything of it is parsed.

MLflow's server reads a body of any size, parses JSON of any depth, has six threads for all requests (a seventh waits
for one without an end), and sends stack traces. This wrapper of ASGI, which :mod:`headimpact.lifecycle.serving` puts
around it, refuses a request that is too large, too slow, of another type or another form with a 4xx of one sentence
that repeats nothing of the input, lets one request at a time through, and lets no other wait longer than it may.
"""

import asyncio
import base64
import json
import math
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

PATH = "/invocations"
IMAGES = ("image/png", "image/jpeg", "image/webp")
FORMS = ("dataframe_records", "dataframe_split", "instances", "inputs")
NUMBERS: Mapping[str, Callable[[str], float]] = {"max_new_tokens": int, "temperature": float}
MAX_ROWS = 8
LONGEST_MESSAGE = 300
_FAILED = "The model failed on this input; the server's log says why."
_BUSY = "The model is busy with other requests: try again later."
_CODES = {400: "INVALID_PARAMETER_VALUE", 500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE"}


class RefusedError(Exception):
    """A request that is not let through."""

    def __init__(self, status: int, sentence: str) -> None:
        """Refuse with an HTTP status and what the caller is told."""
        super().__init__(sentence)
        self.status = status


class Gateway:
    """An ASGI application around another one.

    Args:
        app: MLflow's server.
        max_body_bytes: of a request.
        max_wait_seconds: for the body to come, and for the model to be free, each.
    """

    def __init__(self, app: App, max_body_bytes: float, max_wait_seconds: float) -> None:
        """Stand before ``app``."""
        self._app, self._most, self._patience = app, max_body_bytes, max_wait_seconds
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request; whatever is no question to the model goes through as it is."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        try:
            body = await self._read(receive)
            question = await asyncio.to_thread(read_question, _header(scope, b"content-type"), scope, body)
            del body
            status, answer = await self._ask(scope, question)
        except RefusedError as refused:
            status, answer = refused.status, as_error(refused.status, str(refused))
        await _send(send, status, answer)

    async def _read(self, receive: Receive) -> bytes:
        """The body, as long as it is neither too large nor too slow.

        What is too large is still taken, and dropped: a caller who is at sending reads no answer.
        """
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError(400, "The request was cut off.")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._most:
                        parts.clear()
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise RefusedError(408, f"The request did not come within {self._patience:g} s.") from None
        if size > self._most:
            raise RefusedError(413, f"The request is larger than {self._most / 1e6:g} MB.")
        return b"".join(parts)

    async def _ask(self, scope: Message, question: bytes) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(self._patience):
                await self._turn.acquire()
        except TimeoutError:
            raise RefusedError(503, _BUSY) from None
        try:
            return await _collected(self._app, scope, question)
        finally:
            self._turn.release()


async def _collected(app: App, scope: Message, body: bytes) -> tuple[int, bytes]:
    """Status and body of what ``app`` answers; of an error, one sentence."""
    sent: list[Message] = []
    given = asyncio.Event()

    async def receive() -> Message:
        if given.is_set():
            await asyncio.Event().wait()  # the caller is not gone
        given.set()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await app({**scope, "headers": headers, "query_string": b""}, receive, send)
    status = next(message["status"] for message in sent if message["type"] == "http.response.start")
    answer = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    return (status, answer) if status < 400 else (status, as_error(status, _sentence(answer)))


def _sentence(answer: bytes) -> str:
    """The message of an error of ours; of any other, that there was one."""
    try:
        content = json.loads(answer)
        message = None if "stack_trace" in content else content.get("message")
    except (ValueError, TypeError, AttributeError, RecursionError):
        message = None
    return message[:LONGEST_MESSAGE] if isinstance(message, str) else _FAILED


def as_error(status: int, sentence: str) -> bytes:
    """The body of an answer that is none, in MLflow's form."""
    return json.dumps({"error_code": _CODES.get(status, _CODES[400]), "message": sentence}).encode()


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 408:  # the rest of the request is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _header(scope: Message, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name), "")


# ---- what is asked, in one form


def read_question(content_type: str, scope: Mapping[str, Any], body: bytes) -> bytes:
    """A request in the one form that is passed on: JSON with ``dataframe_records`` and ``params``.

    Args:
        content_type: the header; JSON, or an image whose prompt and parameters stand in the query.
        scope: of ASGI, for the query.
        body: of the request.

    Raises:
        RefusedError: another type (415), or another form (400).
    """
    kind, _, options = content_type.partition(";")
    kind = kind.strip().lower()
    if kind in IMAGES:
        return _dump(*_of_image(scope, body))
    charset = options.strip().lower().removeprefix("charset=").strip('"')
    if kind != "application/json" or charset not in ("", "utf-8"):
        raise RefusedError(
            415, f"Send application/json in UTF-8, or an image ({', '.join(IMAGES)}) with its prompt as ?prompt=..."
        )
    try:
        content = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):  # no JSON, no UTF-8, a number of thousands of digits; or it nests too deeply
        raise RefusedError(400, "The body is not JSON in UTF-8.") from None
    return _dump(*_of_json(content))


def _dump(rows: list[dict[str, Any]], params: Any) -> bytes:
    return json.dumps({"dataframe_records": rows, "params": params}).encode()


def _of_image(scope: Mapping[str, Any], body: bytes) -> tuple[list[dict[str, Any]], dict[str, float]]:
    query = urllib.parse.parse_qsl(scope.get("query_string", b"").decode("latin-1"), max_num_fields=len(NUMBERS) + 1)
    given = dict(query)
    if len(given) < len(query) or not given.keys() <= {"prompt", *NUMBERS}:
        raise RefusedError(
            400, f"Beside an image the query has prompt, and may have {' and '.join(NUMBERS)}, each once."
        )
    try:
        params = {name: NUMBERS[name](text) for name, text in given.items() if name in NUMBERS}
    except ValueError:
        raise RefusedError(400, f"{' and '.join(NUMBERS)} are numbers.") from None
    row = {"image": base64.b64encode(body).decode()} | {name: given[name] for name in ("prompt",) if name in given}
    return [row], params


def _of_json(content: Any) -> tuple[list[dict[str, Any]], Any]:
    if not isinstance(content, dict):
        raise RefusedError(400, "The body is no JSON object.")
    params = content.pop("params", {})
    forms = [name for name in FORMS if name in content]
    if not forms:  # a plain object: a row and its parameters
        own = {name: content.pop(name) for name in NUMBERS if name in content}
        return _checked([content]), params or own
    if len(forms) > 1 or len(content) > 1:
        raise RefusedError(400, f"Beside params there is one of {', '.join(FORMS)}, and nothing else.")
    given = content[forms[0]]
    if forms[0] == "dataframe_split":
        return _checked(_of_split(given)), params
    if forms[0] == "inputs" and isinstance(given, dict):
        return _checked(_of_columns(given)), params
    return _checked(given), params


def _of_split(given: Any) -> list[dict[str, Any]]:
    columns, data = (given.get("columns"), given.get("data")) if isinstance(given, dict) else (None, None)
    if (
        not isinstance(columns, list)
        or not isinstance(data, list)
        or not given.keys() <= {"columns", "data", "index"}
        or not all(isinstance(name, str) for name in columns)
        or len(set(columns)) < len(columns)
        or not all(isinstance(row, list) and len(row) == len(columns) for row in data)
    ):
        raise RefusedError(400, "dataframe_split has columns, and data with a value of every row for each.")
    return [dict(zip(columns, row, strict=True)) for row in data]


def _of_columns(given: dict[str, Any]) -> Any:
    lists = [value for value in given.values() if isinstance(value, list)]
    if not lists:
        return [given]
    if len(lists) < len(given) or len({len(column) for column in lists}) > 1:
        raise RefusedError(400, "inputs has a list for every column, all of one length, or one value for every column.")
    return [dict(zip(given, row, strict=True)) for row in zip(*lists, strict=True)]


def _checked(rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RefusedError(400, "The rows are a list of objects with image and prompt.")
    if not 1 <= len(rows) <= MAX_ROWS:
        raise RefusedError(400, f"A request has 1 to {MAX_ROWS} rows, not {len(rows)}.")
    if any(isinstance(value, float) and not math.isfinite(value) for row in rows for value in row.values()):
        raise RefusedError(400, "A value is no finite number.")
    return rows
