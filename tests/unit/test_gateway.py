"""What is refused before MLflow's server sees it, and in what form the rest is passed on."""

import asyncio
import base64
import json
from typing import Any

import pytest

from headimpact.lifecycle.gateway import MAX_ROWS, Gateway, RefusedError, read_question

ROW = {"image": "aGk=", "prompt": "What?"}
TYPE = "application/json"


def question(body: Any, content_type: str = TYPE, query: bytes = b"") -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return json.loads(read_question(content_type, {"query_string": query}, data))


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [ROW], "params": {"temperature": 0.5}},
        {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())]}, "params": {"temperature": 0.5}},
        {"instances": [ROW], "params": {"temperature": 0.5}},
        {"inputs": [ROW], "params": {"temperature": 0.5}},
        {"inputs": ROW, "params": {"temperature": 0.5}},
        {"inputs": {name: [value] for name, value in ROW.items()}, "params": {"temperature": 0.5}},
        ROW | {"params": {"temperature": 0.5}},
        ROW | {"temperature": 0.5},
        b"\xef\xbb\xbf" + json.dumps(ROW | {"temperature": 0.5}).encode(),
    ],
)
def test_every_form_is_passed_on_in_one(body: Any):
    assert question(body) == {"dataframe_records": [ROW], "params": {"temperature": 0.5}}


def test_an_image_is_passed_on_with_the_prompt_of_the_query():
    asked = question(b"\x89PNG", "image/PNG", b"prompt=What+is%20it%3F&max_new_tokens=3&temperature=0.5")
    assert asked == {
        "dataframe_records": [{"image": base64.b64encode(b"\x89PNG").decode(), "prompt": "What is it?"}],
        "params": {"max_new_tokens": 3, "temperature": 0.5},
    }
    assert question(b"x", "image/jpeg")["dataframe_records"] == [{"image": "eA=="}]  # told to be missing by the model


DEEP = b"[" * 1_000_000 + b"]" * 1_000_000
FORM = "Beside params there is one of dataframe_records, dataframe_split, instances, inputs, and nothing else."
SPLIT = "dataframe_split has columns, and data with a value of every row for each."
COLUMNS = "inputs has a list for every column, all of one length, or one value for every column."
ROWS = "The rows are a list of objects with image and prompt."


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is not JSON in UTF-8."),
        (b"{a", "The body is not JSON in UTF-8."),
        (b"\xff", "The body is not JSON in UTF-8."),
        (DEEP, "The body is not JSON in UTF-8."),
        (b"9" * 5000, "The body is not JSON in UTF-8."),
        ([ROW], "The body is no JSON object."),
        ({"dataframe_records": [ROW], "inputs": [ROW]}, FORM),
        ({"dataframe_records": [ROW], "extra": 1}, FORM),
        ({"dataframe_records": None}, ROWS),
        ({"dataframe_records": {"a": 1}}, ROWS),
        ({"dataframe_records": [None]}, ROWS),
        ({"inputs": "abc"}, ROWS),
        ({"inputs": {"image": ["a", "b"], "prompt": ["c"]}}, COLUMNS),
        ({"inputs": {"image": ["a"], "prompt": "c"}}, COLUMNS),
        ({"dataframe_split": [1]}, SPLIT),
        ({"dataframe_split": {"columns": ["image"]}}, SPLIT),
        ({"dataframe_split": {"columns": ["image", "image"], "data": [["a", "b"]]}}, SPLIT),
        ({"dataframe_split": {"columns": ["image", "prompt"], "data": [["a"]]}}, SPLIT),
        ({"dataframe_split": {"columns": [["image"]], "data": [["a"]]}}, SPLIT),
        ({"dataframe_records": [ROW] * 9}, f"A request has 1 to {MAX_ROWS} rows, not 9."),
        ({"dataframe_records": []}, f"A request has 1 to {MAX_ROWS} rows, not 0."),
        (b'{"dataframe_records": [{"image": 1e999}]}', "A value is no finite number."),
    ],
)
def test_a_body_of_another_form_is_refused_without_repeating_it(body: Any, sentence: str):
    with pytest.raises(RefusedError) as refused:
        question(body)
    assert (refused.value.status, str(refused.value)) == (400, sentence)


@pytest.mark.parametrize("kind", ["", "text/csv", "application/json; charset=latin-1", "multipart/form-data"])
def test_another_type_is_refused(kind: str):
    with pytest.raises(RefusedError, match="Send application/json in UTF-8, or an image") as refused:
        question(ROW, kind)
    assert refused.value.status == 415


@pytest.mark.parametrize("query", [b"prompt=a&prompt=b", b"promt=a", b"prompt=a&temperature=hot"])
def test_a_query_that_is_not_understood_is_refused(query: bytes):
    with pytest.raises(RefusedError, match="max_new_tokens and temperature"):
        question(b"x", "image/png", query)


# ---- as an application


class Server:
    """In MLflow's place: answers when it may, with what it was told to answer."""

    def __init__(self, status: int = 200, answer: bytes = b"{}") -> None:
        self.status, self.answer, self.asked, self.go = status, answer, [], asyncio.Event()
        self.go.set()

    async def __call__(self, scope, receive, send) -> None:
        self.asked.append((scope, await receive() if scope["type"] == "http" else None))
        await self.go.wait()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": self.answer, "more_body": False})


async def post(gateway: Gateway, *parts: bytes, more: bool = False) -> tuple[int, Any]:
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = more
    waiting, sent = iter(messages), []

    async def receive():
        return next(waiting, None) or await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    headers = [(b"Content-Type", TYPE.encode())]
    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": headers, "query_string": b""}
    await gateway(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def answered(status: int, sentence: str) -> tuple[int, Any]:
    code = {503: "TEMPORARILY_UNAVAILABLE", 500: "INTERNAL_ERROR"}.get(status, "INVALID_PARAMETER_VALUE")
    return status, {"error_code": code, "message": sentence}


BODY = json.dumps(ROW).encode()


def test_a_request_reaches_the_server_whole():
    server = Server(answer=b'{"predictions": []}')
    assert asyncio.run(post(Gateway(server, 1000, 1), BODY[:10], BODY[10:])) == (200, {"predictions": []})
    ((scope, message),) = server.asked
    assert json.loads(message["body"]) == {"dataframe_records": [ROW], "params": {}}
    assert dict(scope["headers"])[b"content-length"] == str(len(message["body"])).encode()


def test_too_large_a_request_is_refused_before_it_is_parsed():
    server = Server()
    told = answered(413, "The request is larger than 0.001 MB.")
    assert asyncio.run(post(Gateway(server, 1000, 1), b"x" * 600, b"x" * 600, b"x")) == told
    assert server.asked == []


def test_a_request_that_does_not_come_is_given_up():
    told = answered(408, "The request did not come within 0.01 s.")
    assert asyncio.run(post(Gateway(Server(), 1000, 0.01), b"{", more=True)) == told


def test_one_request_at_a_time_and_no_wait_is_longer_than_it_may_be():
    async def two() -> tuple[int, Any]:
        server = Server()
        server.go.clear()
        gateway = Gateway(server, 1000, 0.01)
        first = asyncio.create_task(post(gateway, BODY))
        second = await asyncio.create_task(post(gateway, BODY))
        server.go.set()
        assert await first == (200, {})
        assert await post(gateway, BODY) == (200, {})
        return second

    assert asyncio.run(two()) == answered(503, "The model is busy with other requests: try again later.")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b'{"message": "`prompt` is empty."}', "`prompt` is empty."),
        (json.dumps({"message": "a" * 1000}).encode(), "a" * 300),
        (b'{"message": "m", "stack_trace": "File x.py"}', "The model failed on this input; the server's log says why."),
        (b"Traceback", "The model failed on this input; the server's log says why."),
        (b"[]", "The model failed on this input; the server's log says why."),
    ],
)
def test_an_error_is_one_sentence(answer: bytes, sentence: str):
    assert asyncio.run(post(Gateway(Server(400, answer), 1000, 1), BODY)) == answered(400, sentence)


def test_what_is_no_question_goes_through():
    server = Server()

    async def ping() -> None:
        async def nothing(*_: Any) -> Any:
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "path": "/ping", "headers": []}
        await Gateway(server, 1, 1)(scope, nothing, nothing)
        await Gateway(server, 1, 1)({"type": "lifespan"}, nothing, nothing)

    asyncio.run(ping())
    assert [scope["type"] for scope, _ in server.asked] == ["http", "lifespan"]
