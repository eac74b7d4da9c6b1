"""Checkpoints from a hub on this machine: only what is needed is fetched, once, and clear errors."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub.utils import disable_progress_bars
from tiny_folders import INDEX, change, copied, same_weights, saved, shard

from headimpact import hub
from headimpact.errors import InputError
from headimpact.vlm import loading

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/tiny"


@dataclass
class Hub:
    """A hub with one repository, and what was asked of it.

    Attributes:
        files: the repository's folder.
        error: status and ``X-Error-Code`` of every answer.
        gated: refuse every file.
        cut: send half of the weights, then close the connection.
        asked: method and path of every request.
        tokens: last part of the path and authorisation of every request.
    """

    address: str = ""
    files: Path = Path()
    error: tuple[int, str] | None = None
    gated: bool = False
    cut: bool = False
    asked: list[str] = field(default_factory=list)
    tokens: set[tuple[str, str | None]] = field(default_factory=set)

    def fetched(self) -> set[str]:
        """Files that were sent."""
        return {path.split("/resolve/")[1].split("/", 1)[1] for path in self.asked if path.startswith("GET /someone")}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            whole = not (self.hub.cut and self.path.endswith(".safetensors") and len(body) > 1)
            self.wfile.write(body if whole else body[: len(body) // 2])
            self.close_connection = not whole

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        hub.asked.append(f"{self.command} {path}")
        hub.tokens.add((path.rsplit("/", 1)[1], self.headers.get("Authorization")))
        if hub.error:
            self._send(hub.error[0], X_Error_Code=hub.error[1], X_Error_Message="no")
        elif path == f"/api/models/{REPOSITORY}/revision/main":
            self._json({"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": []})
        elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            files = sorted(p for p in hub.files.rglob("*") if p.is_file())
            self._json([self._entry(p) for p in files])
        elif path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/"):
            self._file(hub.files / path.split(f"/{COMMIT}/")[1])
        elif path.startswith(f"/api/models/{REPOSITORY}/"):
            self._send(404, X_Error_Code="RevisionNotFound", X_Error_Message="no")
        else:
            self._send(401, X_Error_Code="RepoNotFound", X_Error_Message="no")

    def _entry(self, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.hub.files).as_posix()
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": f"{abs(hash(name)):040x}"}

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), Content_Type="application/json")

    def _file(self, path: Path) -> None:
        if self.hub.gated:
            self._send(403, X_Error_Code="GatedRepo", X_Error_Message="no")
        elif not path.is_file():
            self._send(404, X_Error_Code="EntryNotFound", X_Error_Message="no")
        else:
            self._send(200, path.read_bytes(), ETag=f'"{path.name}"', X_Repo_Commit=COMMIT)


@pytest.fixture
def server() -> Iterator[Hub]:
    hub = Hub()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{http.server_port}"
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield hub
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def online(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub's library talks to ``server``, whose repository is a copy of a tiny base, from an empty cache."""
    server.files = copied("qwen2_vl", tmp_path)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    disable_progress_bars()
    return server


def test_only_what_is_needed_is_fetched_and_the_branch_resolves_to_its_commit(online):
    names = shard(online.files)
    others = ["pytorch_model.bin", "README.md", "onnx/config.json", "original/consolidated.safetensors", "train.py"]
    others += ["training_args.json", "consolidated.safetensors", "model.fp16.safetensors"]
    for name in others:
        (online.files / name).parent.mkdir(exist_ok=True)
        (online.files / name).write_bytes(b"x")
    base = loading.load(REPOSITORY, "main", device="cpu")
    assert base.revision == COMMIT
    settings = {"config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"}
    settings |= {"tokenizer_config.json", "chat_template.jinja", INDEX}
    assert online.fetched() == settings | set(names)
    assert same_weights(base, loading.load(str(saved("qwen2_vl")), device="cpu"))
    assert hub.revision_line("main", base.revision) == f"revision: {COMMIT}"
    assert hub.revision_line(COMMIT, base.revision) is None
    assert hub.revision_line(None, None) is None


def test_a_skeleton_fetches_no_weights_and_load_goes_on_from_it(online):
    assert loading.skeleton(REPOSITORY, "main").revision == COMMIT
    assert not any(name.endswith(".safetensors") for name in online.fetched())
    online.asked.clear()
    loading.load(REPOSITORY, "main", device="cpu")
    assert online.fetched() == {"model.safetensors"}
    online.asked.clear()
    loading.load(REPOSITORY, COMMIT, device="cpu")
    assert online.fetched() == set()


def test_offline_what_is_in_the_cache_is_enough(online, monkeypatch):
    loading.load(REPOSITORY, "main", device="cpu")
    online.asked.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert loading.load(REPOSITORY, "main", device="cpu").revision == COMMIT
    assert loading.skeleton(REPOSITORY, COMMIT).revision == COMMIT
    assert online.asked == []


def test_offline_and_not_in_the_cache(online, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"not wholly, in the hub's cache, and HF_HUB_OFFLINE is set"):
        loading.skeleton(REPOSITORY, "main")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    loading.skeleton(REPOSITORY, "main")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"not wholly, in the hub's cache, and HF_HUB_OFFLINE is set"):
        loading.load(REPOSITORY, "main")
    assert loading.skeleton(REPOSITORY, "main").revision == COMMIT


def test_no_connection(online, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    with pytest.raises(InputError, match="the hub cannot be reached"):
        loading.skeleton(REPOSITORY, "main")


def test_a_gated_checkpoint(online):
    online.gated = True
    with pytest.raises(InputError, match=r"is gated: accept its licence on its page on the hub, then set HF_TOKEN"):
        loading.skeleton(REPOSITORY, "main")


@pytest.mark.parametrize("revision", ["no-such-branch", "f" * 40])
def test_an_absent_revision(online, revision):
    with pytest.raises(InputError, match=f"has no revision {revision}"):
        loading.skeleton(REPOSITORY, revision)


def test_an_absent_repository(online):
    with pytest.raises(InputError, match="nobody/nothing is neither a folder here nor on the hub: check the name"):
        loading.skeleton("nobody/nothing", "main")


@pytest.mark.parametrize("source", ["models/bases/none", "../none", "no such thing!"])
def test_neither_a_folder_nor_a_hub_name(source, online):
    with pytest.raises(InputError, match="is neither a folder here nor a hub name"):
        loading.skeleton(source, "main")
    assert online.asked == []


def test_a_hub_that_fails(online):
    online.error = (500, "Broken")
    with pytest.raises(InputError, match=r"could not be fetched|the hub cannot be reached"):
        loading.skeleton(REPOSITORY, "main")


def test_a_connection_that_breaks_is_told_and_the_next_run_goes_on(online, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the hub library's own tries
    online.cut = True
    with pytest.raises(InputError, match=r"could not be fetched: .* Files that came whole are kept"):
        loading.load(REPOSITORY, "main", device="cpu")
    online.cut = False
    online.asked.clear()
    assert loading.load(REPOSITORY, "main", device="cpu").revision == COMMIT
    assert online.fetched() == {"model.safetensors"}


def test_only_pickles_on_the_hub(online):
    (online.files / "model.safetensors").rename(online.files / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"Its weights are pickles \(pytorch_model.bin\), which are not loaded"):
        loading.load(REPOSITORY, "main")
    assert "pytorch_model.bin" not in online.fetched()


def test_a_shard_that_the_hub_has_not(online):
    (online.files / shard(online.files)[2]).unlink()
    with pytest.raises(InputError, match=r"lacks model-00003-of-00003.safetensors"):
        loading.load(REPOSITORY, "main")


def test_an_unsupported_architecture_on_the_hub_costs_no_weights(online):
    change(online.files / "config.json", model_type="llama")
    with pytest.raises(InputError, match="its model type is llama"):
        loading.load(REPOSITORY, "main")
    assert "model.safetensors" not in online.fetched()


def test_the_hubs_variables_are_honoured(server, tmp_path):
    """In a process of its own: the hub's library reads them once."""
    server.files = copied("qwen2_vl", tmp_path)
    home = tmp_path / "home"
    code = "from headimpact.vlm import loading; print(loading.skeleton('someone/tiny', 'main').revision)"
    environment = os.environ | {
        "HF_ENDPOINT": server.address,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_secret",
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("src")),
    }
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_OFFLINE"):
        environment.pop(name, None)
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.split()[-1:] == [COMMIT], run.stderr
    assert {token for name, token in server.tokens if name in ("main", COMMIT, "config.json")} == {"Bearer hf_secret"}
    assert (home / "hub" / "models--someone--tiny" / "snapshots" / COMMIT / "config.json").exists()
