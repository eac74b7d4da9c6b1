"""Checkpoints from folders and from a hub on this machine: the same code, the right files, clear errors."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from huggingface_hub.utils import disable_progress_bars
from PIL import Image
from real_size import TEMPLATES
from safetensors.torch import load_file, save_file

from headimpact import devices, hub
from headimpact.errors import InputError
from headimpact.tiny import bases
from headimpact.vlm import loading, packing
from headimpact.vlm.base import Vlm

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/tiny"
INDEX = "model.safetensors.index.json"
NAMES = {"paligemma": "tiny-paligemma2", "qwen2_vl": "tiny-qwen2-vl", "idefics3": "tiny-smolvlm"}
FAMILY_OF = {name: family for family, name in NAMES.items()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three tiny bases, as save_pretrained leaves them."""
    root = tmp_path_factory.mktemp("built")
    for name in bases.TINY:
        bases.save(bases.build(name, 0), root / name)
    return root


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a tiny base's folder, to be changed."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(built / name, tmp_path / "checkpoint"))

    return copy


def change(path: Path, **values: Any) -> None:
    """Set (or, with None, remove) keys of a JSON file."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def shard(folder: Path, parts: int = 3) -> list[str]:
    """Cut the weights into several files with an index, as large checkpoints are."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-{i + 1:05}-of-{parts:05}.safetensors" for i in range(parts)]
    owner = {key: names[i * parts // len(tensors)] for i, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({k: t for k, t in tensors.items() if owner[k] == name}, folder / name, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": owner}))
    return names


def same_weights(one: Vlm, other: Vlm) -> bool:
    left, right = one.model.state_dict(), other.model.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


# ---- folders


@pytest.mark.parametrize("name", bases.TINY)
def test_sharded_weights_are_the_same_weights(name, built, folder):
    copy = folder(name)
    shard(copy)
    whole, cut = loading.load(str(built / name), device="cpu"), loading.load(str(copy), device="cpu")
    assert same_weights(whole, cut)
    assert whole.digest != cut.digest
    assert cut.digest == loading.load(str(copy), device="cpu").digest
    assert cut.revision is None


def test_other_weights_in_the_folder_change_nothing(built, folder):
    copy = folder("tiny-smolvlm")
    save_file({"x": torch.zeros(1)}, copy / "consolidated.safetensors")
    assert (
        loading.load(str(copy), device="cpu").digest == loading.load(str(built / "tiny-smolvlm"), device="cpu").digest
    )


def put_template(folder: Path, where: str, template: str | None) -> None:
    (folder / "chat_template.jinja").unlink()
    if template is None:
        return
    if where == "chat_template.jinja":
        (folder / where).write_text(template)
    elif where == "chat_template.json":
        (folder / where).write_text(json.dumps({"chat_template": template}))
    elif where == "named":
        named = [{"name": "rag", "template": "no"}, {"name": "default", "template": template}]
        change(folder / "tokenizer_config.json", chat_template=named)
    elif where == "both":
        change(folder / "tokenizer_config.json", chat_template="{{ messages[0]['content'] + 'text alone' }}")
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    else:
        change(folder / where, chat_template=template)


@pytest.mark.parametrize("name", ["tiny-qwen2-vl", "tiny-smolvlm"])
@pytest.mark.parametrize(
    "where", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json", "named", "both", "absent"]
)
def test_the_chat_template_is_found_wherever_it_is(name, where, folder):
    copy = folder(name)
    template = None if where == "absent" else TEMPLATES[FAMILY_OF[name]] + "{# the checkpoint's #}"
    put_template(copy, where, template)
    base = loading.skeleton(str(copy))
    assert base.template == (template or base.own_template)
    conversation = base.caption("red dog")
    tokens = base.tokenize(conversation, base.encode_image(Image.new("RGB", (160, 96))).grid)
    assert base.tokenizer.decode(tokens.ids[tokens.target]).strip() == "red dog"


def test_named_templates_without_a_default_are_refused(folder):
    copy = folder("tiny-smolvlm")
    (copy / "chat_template.jinja").unlink()
    change(copy / "tokenizer_config.json", chat_template=[{"name": "rag", "template": "x"}])
    with pytest.raises(InputError, match="chat templates rag, none named default"):
        loading.skeleton(str(copy))


def test_a_template_without_the_image_is_refused_before_the_weights(folder):
    copy = folder("tiny-smolvlm")
    (copy / "model.safetensors").unlink()
    (copy / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}")
    with pytest.raises(InputError, match=r"the chat template places no image \(<image>\)"):
        loading.load(str(copy))


# The settings files of the real checkpoints, at the tiny size.
REAL_SETTINGS = {
    "tiny-qwen2-vl": {
        "min_pixels": 64 * 64,
        "max_pixels": 192 * 192,
        "patch_size": 8,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
    },
    "tiny-smolvlm": {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "Idefics3ImageProcessor",
        "max_image_size": {"longest_edge": 66},
        "processor_class": "Idefics3Processor",
        "resample": 1,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": 132},
    },
    "tiny-paligemma2": {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_seq_length": 64,
        "processor_class": "PaliGemmaProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 112, "width": 112},
    },
}


@pytest.mark.parametrize("name", bases.TINY)
@pytest.mark.parametrize("ending", ["", "Fast", "nested"])
def test_real_settings_give_the_pil_image_processor_and_the_same_pixels(name, ending, built, folder):
    copy, settings = folder(name), dict(REAL_SETTINGS[name])
    if ending == "nested":  # as transformers 5 saves a processor
        (copy / "preprocessor_config.json").unlink()
        kind = settings.pop("processor_class")
        (copy / "processor_config.json").write_text(json.dumps({"processor_class": kind, "image_processor": settings}))
    else:
        settings["image_processor_type"] += ending
        (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    base, plain = loading.skeleton(str(copy)), loading.skeleton(str(built / name))
    assert type(base.image_processor).__name__ == settings["image_processor_type"].removesuffix("Fast") + "Pil"
    pixels = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    one, other = (b.encode_image(Image.fromarray(pixels)) for b in (base, plain))
    assert one.grid == other.grid
    assert torch.equal(one.pixels["pixel_values"], other.pixels["pixel_values"])


def older_form(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json as the real checkpoints have it: written by older releases of transformers."""
    text, vision = config.pop("text_config"), config["vision_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.41.2"
    if config["model_type"] == "qwen2_vl":  # flat: the decoder's values stand beside the vision tower
        del vision["model_type"]
        vision |= {"in_chans": 3, "spatial_patch_size": vision["patch_size"]}
        scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        own = {k: v for k, v in text.items() if k not in ("model_type", "tie_word_embeddings")}
        return own | config | {"rope_scaling": scaling, "tie_word_embeddings": True}
    text["torch_dtype"] = "bfloat16"
    if config["model_type"] == "idefics3":
        text |= {"architectures": ["VLlama3ForCausalLM"], "_flash_attn_2_enabled": True, "qk_layer_norms": False}
        vision |= {"max_image_size": {"longest_edge": 66}, "size": {"longest_edge": 132}, "model_type": "idefics3"}
    else:
        config |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "num_hidden_layers": 14}
        vision |= {"num_image_tokens": 64, "num_positions": 64, "projection_dim": 96}
    return config | {"text_config": text}


@pytest.mark.parametrize("name", bases.TINY)
def test_a_config_of_an_older_form_gives_the_same_model(name, built, folder):
    copy = folder(name)
    old = older_form(json.loads((copy / "config.json").read_text()))
    (copy / "config.json").write_text(json.dumps(old))
    results = []
    for path in (copy, built / name):
        base = loading.load(str(path), device="cpu")
        image = base.encode_image(Image.new("RGB", (160, 96), (200, 40, 40)))
        packed = packing.pack_images([[base.tokenize(base.caption("red dog"), image.grid)]], base.bidirectional_prompt)
        with torch.no_grad():
            results.append(base.hidden_states(packed.batch, base.image_features([image])))
    assert torch.equal(*results)


@pytest.mark.parametrize("name", bases.TINY)
def test_a_skeleton_does_all_that_needs_no_weights(name, built, folder):
    copy = folder(name)
    (copy / "model.safetensors").unlink()
    base, whole = loading.skeleton(str(copy)), loading.load(str(built / name), device="cpu")
    assert base.digest == ""
    assert base.device.type == "meta"
    assert (base.layers, base.heads) == (whole.layers, whole.heads)
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 255, (90, 150, 3), dtype=np.uint8))
    mask = np.zeros((90, 150), dtype=bool)
    mask[20:60, 40:100] = True
    encoded = base.encode_image(image)
    assert encoded.grid == whole.encode_image(image).grid
    assert torch.equal(base.coverages([mask]), whole.coverages([mask]))
    for conversation in (base.caption("red dog"), base.question(["a", "b", "c", "d"], "B")):
        one, other = base.tokenize(conversation, encoded.grid), whole.tokenize(conversation, encoded.grid)
        for field_name in ("ids", "positions", "visual", "answer", "target"):
            assert torch.equal(getattr(one, field_name), getattr(other, field_name))
    count = [sum(p.numel() for p in b.model.parameters()) for b in (base, whole)]
    assert count[0] == count[1]


# ---- folders that are not right


def lose(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def lose_shard(folder: Path) -> None:
    (folder / shard(folder)[1]).unlink()


def escape(folder: Path) -> None:
    shard(folder)
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"] = dict.fromkeys(content["weight_map"], "../other.safetensors")
    (folder / INDEX).write_text(json.dumps(content))


def empty_index(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).write_text("{}")


def pickle_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_shapes(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    key = next(key for key in sorted(tensors) if key.endswith("q_proj.weight") and "vis" not in key)
    save_file(tensors | {key: torch.zeros(3, 5)}, folder / "model.safetensors", {"format": "pt"})


def fewer_tensors(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(key for key in sorted(tensors) if key.endswith("q_proj.weight") and "vis" not in key)]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def settings(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "preprocessor_config.json", **values)


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "config.json", **values)


def vision(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        change(folder / "config.json", vision_config=content["vision_config"] | values)

    return apply


def first_gemma(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", text_config=content["text_config"] | {"model_type": "gemma"})


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


LIGHT = [
    ("tiny-smolvlm", lose("config.json"), "is no checkpoint: it has no config.json"),
    ("tiny-smolvlm", write("config.json", "{"), "is not valid JSON"),
    ("tiny-smolvlm", lose("tokenizer.json"), "has no tokenizer"),
    ("tiny-smolvlm", write("tokenizer.json", "{}"), "its tokenizer cannot be used"),
    ("tiny-smolvlm", lose("preprocessor_config.json"), "has no image processor settings"),
    ("tiny-smolvlm", write("preprocessor_config.json", "[]"), "image processor settings cannot be used"),
    (
        "tiny-smolvlm",
        config(model_type="llava"),
        "its model type is llava; supported are idefics3, paligemma, qwen2_vl",
    ),
    ("tiny-smolvlm", config(model_type=None), "its model type is None"),
    ("tiny-smolvlm", config(model_type="own", auto_map={"AutoConfig": "evil.Config"}), "its model type is own"),
    ("tiny-qwen2-vl", config(architectures=["Qwen2VLForReward"]), "holds a Qwen2VLForReward"),
    ("tiny-smolvlm", config(text_config="small"), "its config.json cannot be used"),
    ("tiny-smolvlm", config(image_token_id=7), "<image> is token 4 of its tokenizer, and 7 in its config"),
    ("tiny-paligemma2", first_gemma, "has a gemma decoder; PaliGemma 2 has gemma2"),
    (
        "tiny-paligemma2",
        settings(size={"height": 224, "width": 224}),
        "makes images of 224x224 pixels, its vision tower takes 112x112",
    ),
    ("tiny-paligemma2", settings(do_resize=False), "images must be resized to whole patches"),
    ("tiny-paligemma2", vision(patch_size=15), "images must be resized to whole patches"),
    (
        "tiny-smolvlm",
        settings(max_image_size={"longest_edge": 64}),
        "cuts crops of 64 pixels, its vision tower takes 66",
    ),
    ("tiny-smolvlm", vision(patch_size=7), r"9 patches along a crop's side .* cannot be merged 2 by 2"),
    ("tiny-smolvlm", config(scale_factor=3), r"8 patches along a crop's side .* cannot be merged 3 by 3"),
    ("tiny-smolvlm", settings(size={"height": 132, "width": 132}), "must resize images by their longest_edge"),
    ("tiny-qwen2-vl", settings(patch_size=14), "patch_size is 14 in its image processor's settings and 8 in its model"),
    ("tiny-qwen2-vl", settings(merge_size=1), "merge_size is 1 in its image processor's settings and 2 in its model"),
    ("tiny-qwen2-vl", settings(temporal_patch_size=1), "temporal_patch_size is 1"),
    ("tiny-qwen2-vl", settings(size={"shortest_edge": 4096, "longest_edge": 64}), "between min_pixels and max_pixels"),
    (
        "tiny-qwen2-vl",
        settings(image_processor_type="SiglipImageProcessor", size={"height": 112, "width": 112}),
        "its image processor is a SiglipImageProcessorPil, where the model takes the images of a Qwen2VL",
    ),
]


@pytest.mark.parametrize(("name", "spoil", "message"), LIGHT)
def test_what_does_not_fit_is_told_before_the_weights_are_touched(name, spoil, message, folder):
    copy = folder(name)
    (copy / "model.safetensors").write_bytes(b"never read")
    spoil(copy)
    for use in (loading.skeleton, loading.load):
        with pytest.raises(InputError, match=message):
            use(str(copy))


HEAVY = [
    ("tiny-qwen2-vl", lose("model.safetensors"), "holds no model.safetensors. Other formats are not loaded"),
    ("tiny-qwen2-vl", pickle_alone, r"Its weights are pickles \(pytorch_model.bin\), which are not loaded"),
    ("tiny-qwen2-vl", lose_shard, r"lacks model-00002-of-00003.safetensors, which its .* names \(1 of 3\)"),
    ("tiny-qwen2-vl", escape, "does not name safetensors files beside it: '../other.safetensors'"),
    ("tiny-qwen2-vl", empty_index, "does not name safetensors files beside it"),
    ("tiny-qwen2-vl", cut_weights, "its weights are damaged"),
    ("tiny-qwen2-vl", write("model.safetensors", "not safetensors"), "its weights are damaged"),
    (
        "tiny-qwen2-vl",
        other_shapes,
        r"1 tensors are missing or of another shape, the first is .*layers.0.self_attn.q_proj",
    ),
    ("tiny-qwen2-vl", fewer_tensors, r"1 tensors are missing or of another shape"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), HEAVY)
def test_weights_that_cannot_be_used_are_told(name, spoil, message, folder):
    copy = folder(name)
    spoil(copy)
    with pytest.raises(InputError, match=message):
        loading.load(str(copy), device="cpu")


def test_an_index_is_read_where_there_is_no_single_file(folder):
    copy = folder("tiny-paligemma2")
    names = shard(copy)
    assert hub.fetch_weights(str(copy), copy, None) == [copy / name for name in names]


# ---- device and precision


def test_the_device_is_the_best_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.choose_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.choose_device("auto").type == "cpu"
    assert devices.choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps", "abacus"])
def test_a_device_that_is_not_there_is_told_before_anything_is_read(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda:3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"There is no device {device} on this machine"):
        loading.load("nowhere", device=device)


def test_the_precision_is_what_the_device_is_good_at(monkeypatch):
    assert devices.choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert devices.choose_dtype("auto", torch.device("mps")) == torch.float32
    assert devices.choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    for able, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert devices.choose_dtype("auto", torch.device("cuda")) == expected


def test_the_precision_can_be_chosen(built):
    base = loading.load(str(built / "tiny-qwen2-vl"), device="cpu", dtype="bfloat16")
    assert base.model.dtype == torch.bfloat16


# ---- the hub


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
def online(server: Hub, folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub's library talks to ``server``, whose repository is a copy of a tiny base, from an empty cache."""
    server.files = folder("tiny-qwen2-vl")
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    disable_progress_bars()
    return server


def test_only_what_is_needed_is_fetched_and_the_branch_resolves_to_its_commit(online, built):
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
    assert same_weights(base, loading.load(str(built / "tiny-qwen2-vl"), device="cpu"))
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


def test_the_hubs_variables_are_honoured(server, folder, tmp_path):
    """In a process of its own: the hub's library reads them once."""
    server.files = folder("tiny-qwen2-vl")
    home = tmp_path / "home"
    code = "from headimpact import vlm; print(loading.skeleton('someone/tiny', 'main').revision)"
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
