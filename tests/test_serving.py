"""The served model: directly, and behind MLflow's own server."""

import base64
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc.model import PythonModelContext
from PIL import Image

from headimpact.errors import InputError
from headimpact.lifecycle import serving, tracking, versions

LIMITS = serving.Limits(0.01, 0.1, 20, 64, 0.2)
CONTEXT = PythonModelContext({}, {})


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return base64.b64encode(stream.getvalue()).decode()


def noise(width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


RED = encode(Image.new("RGB", (30, 20), "red"))


class Chat:
    """A character is a token."""

    count_tokens = staticmethod(len)


class Echo:
    """Answers with what it was asked."""

    chat = Chat()

    def generate(self, image: Image.Image, prompt: str, **generation: Any) -> str:
        return f"{image.mode} {image.size} {prompt} {generation}"


class Raises:
    chat = Chat()

    def __init__(self, error: Exception) -> None:
        self.error = error

    def generate(self, image: Image.Image, prompt: str, **generation: Any) -> str:
        raise self.error


def served(model: Any, limits: serving.Limits = LIMITS) -> serving.Captioner:
    captioner = serving.Captioner()
    captioner.start(model, limits)
    return captioner


def ask(captioner: serving.Captioner, *rows: dict[str, Any], **params: Any) -> list[str]:
    return captioner.predict(CONTEXT, pd.DataFrame(list(rows)), params)["text"].tolist()


def refused(captioner: serving.Captioner, *rows: dict[str, Any], **params: Any) -> serving.Refusal:
    with pytest.raises(serving.Refusal) as caught:
        ask(captioner, *rows, **params)
    return caught.value


def test_rows_are_answered_in_order_with_greedy_decoding_by_default() -> None:
    rows = [{"image": RED, "prompt": "one"}, {"image": encode(noise()), "prompt": "two"}]
    settings = "{'max_new_tokens': 64, 'do_sample': False}"
    assert ask(served(Echo()), *rows) == [
        f"RGB (30, 20) one {settings}",
        f"RGB (60, 40) two {settings}",
    ]


def test_parameters_reach_generate() -> None:
    (text,) = ask(served(Echo()), {"image": RED, "prompt": "a"}, max_new_tokens=3, temperature=1)
    assert text.endswith("{'max_new_tokens': 3, 'do_sample': True, 'temperature': 1.0}")


@pytest.mark.parametrize(
    "text",
    [
        "data:image/png;base64," + RED,
        "data:image/jpeg;charset=x;base64," + encode(noise(30, 20), "JPEG"),
        encode(noise(30, 20), "WEBP"),
        "\n".join(RED[start : start + 76] for start in range(0, len(RED), 76)) + "\n",
        encode(Image.new("LA", (30, 20))),
        encode(Image.new("P", (30, 20)), "PNG"),
    ],
    ids=["data-uri", "jpeg-uri", "webp", "wrapped-lines", "grey-alpha", "palette"],
)
def test_what_is_an_image(text: str) -> None:
    image = serving.read_image(text, LIMITS)
    assert (image.mode, image.size) == ("RGB", (30, 20))


def test_a_photo_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # taken with the camera on its side
    assert serving.read_image(encode(noise(60, 40), "JPEG", exif=exif), LIMITS).size == (40, 60)


def png_header(width: int, height: int) -> str:
    """A PNG that says how large it is, and holds no pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"")).decode()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def cut(text: str, share: float) -> str:
    data = base64.b64decode(text)
    return base64.b64encode(data[: int(len(data) * share)]).decode()


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (None, "`image` is missing: every row needs the columns image and prompt."),
        (float("nan"), "`image` is missing: every row needs the columns image and prompt."),
        (5, "`image` must be text, not int."),
        (["a"], "`image` must be text, not list."),
        ("  ", "`image` is empty."),
        ("%%%", "`image` is not base64."),
        ("é", "`image` is not base64."),
        ("data:image/png,abc", "`image` is a data URI without base64: write data:image/png;base64,..."),
        (base64.b64encode(b"hello").decode(), "`image` is not a PNG, JPEG or WEBP image."),
        (encode(noise(), "GIF"), "`image` is not a PNG, JPEG or WEBP image."),
        (cut(encode(noise(), "JPEG"), 0.8), "`image` is damaged or truncated."),
        (cut(encode(noise(), "PNG"), 0.8), "`image` is damaged or truncated."),
        (cut(encode(noise(), "WEBP"), 0.8), "`image` is damaged or truncated."),
        (png_header(100, 100), "`image` is damaged or truncated."),  # large enough, but nothing in it
        (png_header(101, 100), "`image` has more than 0.01 megapixels."),
        (png_header(60000, 60000), "`image` has more than 0.01 megapixels."),
        ("A" * 100_004, "The encoded images are larger than 0.1 MB."),
    ],
)
def test_bad_images(image: object, sentence: str) -> None:
    refusal = refused(served(Echo()), {"image": image, "prompt": "a"})
    assert (str(refusal), refusal.get_http_status_code()) == (sentence, 400)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (None, "`prompt` is missing: every row needs the columns image and prompt."),
        (5, "`prompt` must be text, not int."),
        ({"a": 1}, "`prompt` must be text, not dict."),
        (" \n", "`prompt` is empty."),
        ("a" * 21, "`prompt` has more than 20 tokens."),
        ("a" * 10**7, "`prompt` has more than 20 tokens."),
    ],
)
def test_bad_prompts(prompt: object, sentence: str) -> None:
    refusal = refused(served(Echo()), {"image": RED, "prompt": prompt})
    assert (str(refusal), refusal.get_http_status_code()) == (sentence, 400)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("top_k", 3, "Unknown parameter: there are max_new_tokens and temperature."),
        ("max_new_tokens", 0, "`max_new_tokens` must be from 1 to 64."),
        ("max_new_tokens", 65, "`max_new_tokens` must be from 1 to 64."),
        ("max_new_tokens", 3.0, "`max_new_tokens` must be a whole number, not float."),
        ("max_new_tokens", "3", "`max_new_tokens` must be a whole number, not str."),
        ("max_new_tokens", None, "`max_new_tokens` must be a whole number, not NoneType."),
        ("max_new_tokens", True, "`max_new_tokens` must be a whole number, not bool."),
        ("temperature", -0.1, "`temperature` must be 0, or from 0.01 to 2."),
        ("temperature", 2.5, "`temperature` must be 0, or from 0.01 to 2."),
        ("temperature", 1e-40, "`temperature` must be 0, or from 0.01 to 2."),
        ("temperature", float("nan"), "`temperature` must be 0, or from 0.01 to 2."),
        ("temperature", "hot", "`temperature` must be a number, not str."),
    ],
)
def test_bad_parameters(name: str, value: object, sentence: str) -> None:
    refusal = refused(served(Echo()), {"image": RED, "prompt": "a"}, **{name: value})
    assert (str(refusal), refusal.get_http_status_code()) == (sentence, 400)


@pytest.mark.parametrize("count", [0, 9])
def test_a_request_has_a_bounded_number_of_rows(count: int) -> None:
    refusal = refused(served(Echo()), *[{"image": RED, "prompt": "a"}] * count)
    assert str(refusal) == f"A request has 1 to 8 rows, not {count}."


def test_a_missing_column_is_a_missing_field() -> None:
    assert str(refused(served(Echo()), {"prompt": "a"})).startswith("`image` is missing")
    assert str(refused(served(Echo()), {"image": RED})).startswith("`prompt` is missing")


def test_nothing_is_generated_when_one_row_is_bad() -> None:
    captioner = served(Raises(AssertionError("it was asked")))
    refusal = refused(captioner, {"image": RED, "prompt": "a"}, {"image": "%", "prompt": "a"})
    assert str(refusal) == "`image` is not base64."


def test_the_model_may_refuse_an_input() -> None:
    refusal = refused(served(Raises(InputError("The prompt does not fit."))), {"image": RED, "prompt": "a"})
    assert (str(refusal), refusal.get_http_status_code()) == ("The prompt does not fit.", 400)


def test_a_failing_model_is_a_500_whose_trace_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    captioner = served(Raises(RuntimeError("out of memory")))
    refusal = refused(captioner, {"image": RED, "prompt": "a"})
    assert refusal.get_http_status_code() == 500
    assert str(refusal) == "The model failed on this input; the server's log says why."
    assert "out of memory" in caplog.text
    assert refused(captioner, {"image": RED, "prompt": "a"}).get_http_status_code() == 500  # not locked


def test_a_refusal_is_sent_without_what_mlflow_puts_before_it() -> None:
    refusal = serving.Refusal("One sentence.")
    refusal.message = "Failed to predict data '...'. \nError: One sentence."
    assert json.loads(refusal.serialize_as_json()) == {
        "error_code": "INVALID_PARAMETER_VALUE",
        "message": "One sentence.",
    }


FAKE_LOADING = """
import time
from pathlib import Path

FOLDER = Path({folder!r})


class Chat:
    count_tokens = staticmethod(len)


class Vlm:
    chat = Chat()

    def __init__(self, source, revision):
        self.source, self.revision, self.adapter = source, revision, None

    def generate(self, image, prompt, **generation):
        if prompt == "crash":
            raise RuntimeError("out of memory")
        if prompt == "slow":
            (FOLDER / "started").touch()
            deadline = time.monotonic() + 60
            while not (FOLDER / "go").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        return " ".join(map(str, (prompt, image.size, generation, self.source, self.revision, self.adapter)))


def load(source, revision):
    return Vlm(source, revision)
"""
FAKE_LORA = "def load(vlm, folder): vlm.adapter = folder"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """A registered version of a fake model, served by ``mlflow models serve`` from its alias."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        patch.delenv("PYTHONPATH", raising=False)  # the version must bring the code along
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        register_fake(folder)
        yield from serve(folder, "models:/head-impact-tiny@top-4")
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


def register_fake(folder: Path) -> None:
    package, real = folder / "source/headimpact", Path(serving.__file__).parents[1]
    for wing in ("", "data", "lifecycle", "vlm", "adapters"):
        (package / wing).mkdir(parents=True)
        (package / wing / "__init__.py").write_text("")
    modules = ("__init__", "errors", "files", "data/images", "data/problems", "lifecycle/gateway", "lifecycle/serving")
    for name in modules:
        shutil.copy(real / f"{name}.py", package / f"{name}.py")
    (package / "vlm/loading.py").write_text(FAKE_LOADING.format(folder=str(folder)))
    (package / "adapters/lora.py").write_text(FAKE_LORA)
    adapter, base = folder / "adapter", folder / "models/bases/tiny"
    adapter.mkdir()
    base.mkdir(parents=True)
    (base / "model.safetensors").write_bytes(b"base")
    names = ("base_digest", "dataset", "dataset_digest", "table_digest", "code_version")
    header = {
        "base": "tiny",
        "source": "models/bases/tiny",
        "revision": None,
        "setup": "top-4",
        "layers": [1],
    }
    (adapter / "header.json").write_text(json.dumps(header | dict.fromkeys(names, "x")))
    (adapter / "adapter_model.safetensors").write_bytes(b"adapter")
    (folder / "requirements.txt").write_text("mlflow==3.17.2\n")
    with tracking.run("finetune"):
        versions.register(adapter, "A test.", LIMITS, package=package, example=lambda: [GOOD])


def serve(folder: Path, uri: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)], env=env, cwd=folder, stdout=log, stderr=log
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(f"{address}/ping") or process.poll() is not None)
            assert process.poll() is None, (folder / "server.log").read_text()
            yield f"{address}/invocations"
        finally:
            process.terminate()
            process.wait(30)


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "It took too long."
        time.sleep(0.05)


def post(address: str, body: object) -> tuple[int, Any]:
    request = urllib.request.Request(
        address, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=90) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def records(*rows: dict[str, Any], **params: Any) -> dict[str, Any]:
    return {"dataframe_records": list(rows), "params": params}


GOOD = {"image": RED, "prompt": "hi"}
NO_IMAGE = "`image` is missing: every row needs the columns image and prompt."
NO_PROMPT = "`prompt` is missing: every row needs the columns image and prompt."
TEXT = base64.b64encode(b"text").decode()
UNKNOWN_FORMAT = "`image` is not a PNG, JPEG or WEBP image."


def test_the_alias_is_served_with_its_own_base_adapter_and_code(address: str, folder: Path) -> None:
    status, body = post(address, records(GOOD, max_new_tokens=5))
    assert status == 200
    words = body["predictions"][0]["text"].split()
    assert " ".join(words[:-3]) == "hi (30, 20) {'max_new_tokens': 5, 'do_sample': False}"
    source, revision, adapter = words[-3:]
    assert (Path(source) / "model.safetensors").read_bytes() == b"base"
    assert folder / "models" not in Path(source).parents
    assert (revision, Path(adapter).parent) == ("None", Path(source).parent)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["image", "prompt"], "data": [[RED, "hi"]]}},
        {"inputs": [GOOD]},
        {"inputs": GOOD},
        {"instances": [GOOD]},
    ],
    ids=["split", "inputs", "inputs-one", "instances"],
)
def test_every_json_form_is_understood(address: str, body: object) -> None:
    status, answer = post(address, body)
    assert status == 200
    assert answer["predictions"][0]["text"].startswith("hi (30, 20)")


def test_the_input_example_of_a_version_is_answered_as_it_is(address: str) -> None:
    uri = "models:/head-impact-tiny@top-4/serving_input_example.json"
    status, answer = post(address, json.loads(mlflow.artifacts.load_text(uri)))
    assert status == 200
    assert answer["predictions"][0]["text"].startswith("hi (30, 20)")


def test_a_plain_object_is_understood(address: str) -> None:
    status, answer = post(address, GOOD | {"max_new_tokens": 7})
    assert status == 200
    assert "'max_new_tokens': 7" in answer["predictions"][0]["text"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (records({"prompt": "hi"}), NO_IMAGE),
        (records({"image": None, "prompt": "hi"}), NO_IMAGE),
        (records({"image": TEXT, "prompt": "hi"}), UNKNOWN_FORMAT),
        (records(GOOD | {"prompt": 5}), "`prompt` must be text, not int."),
        ({"instances": [GOOD | {"prompt": 5}]}, "`prompt` must be text, not int."),
        ({"inputs": [GOOD | {"prompt": None}]}, NO_PROMPT),
        (records(GOOD | {"prompt": ""}), "`prompt` is empty."),
        (records(GOOD | {"prompt": "a" * 21}), "`prompt` has more than 20 tokens."),
        (records(GOOD, top_k=3), "Unknown parameter: there are max_new_tokens and temperature."),
        (records(GOOD, max_new_tokens="many"), "`max_new_tokens` must be a whole number, not str."),
        (records(GOOD, max_new_tokens=65), "`max_new_tokens` must be from 1 to 64."),
        (records(GOOD) | {"params": [1]}, "`params` must be an object, not list."),
        (records(GOOD | {"promt": "hi"}), "Unknown column: there are image and prompt."),
        (GOOD | {"top_k": 3}, "Unknown column: there are image and prompt."),
        (records(), "A request has 1 to 8 rows, not 0."),
    ],
)
def test_bad_input_is_a_400_of_one_sentence(address: str, body: object, sentence: str) -> None:
    assert post(address, body) == (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": sentence})


def test_a_picture_can_be_sent_as_it_is(address: str) -> None:
    request = urllib.request.Request(
        f"{address}?prompt=hi&max_new_tokens=7", base64.b64decode(RED), {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=90) as response:
        (row,) = json.load(response)["predictions"]
    assert row["text"].startswith("hi (30, 20) {'max_new_tokens': 7")


def test_the_whole_request_is_bounded_before_it_is_parsed(address: str) -> None:
    status, answer = post(address, records(GOOD | {"image": "A" * 100_004}))
    assert (status, answer["message"]) == (413, "The request is larger than 0.1 MB.")


def test_a_failure_is_a_500_without_a_stack_trace(address: str, folder: Path) -> None:
    status, answer = post(address, records(GOOD | {"prompt": "crash"}))
    assert status == 500
    assert answer["message"] == "The model failed on this input; the server's log says why."
    assert "out of memory" in (folder / "server.log").read_text()


def test_waiting_is_bounded(address: str, folder: Path) -> None:
    answered: list[tuple[int, Any]] = []
    slow = threading.Thread(target=lambda: answered.append(post(address, records(GOOD | {"prompt": "slow"}))))
    slow.start()
    try:
        wait_until((folder / "started").exists)
        status, answer = post(address, records(GOOD))
    finally:
        (folder / "go").touch()
        slow.join(90)
    assert (status, answer["message"]) == (503, "The model is busy with other requests: try again later.")
    assert answered[0][0] == 200
