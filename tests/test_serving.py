"""The served model behind MLflow's own server."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from encoded import LIMITS, RED

from headimpact.lifecycle import serving, tracking, versions

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
