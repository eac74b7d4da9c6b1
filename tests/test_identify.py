"""Which base a model is, and that every step works with that one."""

import json
import shutil
from pathlib import Path

import pytest

from headimpact import hub
from headimpact.errors import InputError
from headimpact.files import digest_file, read_json, write_json
from headimpact.lifecycle import code, layout, params
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.steps import identify, inputs
from headimpact.lifecycle.steps.inputs import load_engine
from headimpact.vlm.families import FAMILIES

MODEL = "tiny-smolvlm"
JOB = Job(MODEL, "top-4")
COMMIT = "c" * 40


@pytest.fixture
def project(tracked: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the tiny bases, whose code is the fingerprint of nothing but families."""
    (tracked / "models").mkdir()
    (tracked / layout.BASES).symlink_to(project_root / layout.BASES)
    monkeypatch.setattr(code, "step_fingerprint", lambda step: step.name)
    return tracked


def config(project_root: Path, **overrides: str) -> Config:
    values = {key.replace("__", "."): text for key, text in overrides.items()}
    return params.load(project_root / layout.PARAMS, {"compute.device": "cpu", "compute.dtype": "float32"} | values)


def test_the_identity_of_a_folder(project: Path, project_root: Path) -> None:
    summary = identify.run(config(project_root), JOB)
    identity = read_json(layout.identity(MODEL))
    assert identity == {
        "source": "models/bases/tiny-smolvlm",
        "revision": None,
        "family": "idefics3",
        "digest": digest_file(layout.base(MODEL) / hub.WEIGHTS),
        "settings_digest": hub.settings_digest(layout.base(MODEL)),
    }
    assert identity == read_json(project_root / layout.identity(MODEL))  # that of the committed base
    assert summary.files == [layout.identity(MODEL)]
    assert "params.yaml" not in dict(summary.rows)


def from_the_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Every hub name stands for a folder, at a commit."""
    monkeypatch.setattr(hub, "fetch_settings", lambda source, revision: (folder, COMMIT))
    monkeypatch.setattr(hub, "fetch_weights", lambda source, folder, commit: [folder / hub.WEIGHTS])


def test_the_identity_of_a_checkpoint_on_the_hub(
    project: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its commit; the fingerprint of its family, which was not known before, is written."""
    from_the_hub(monkeypatch, layout.base(MODEL))
    settings = config(project_root, models__smolvlm__revision="main")
    code.refresh(settings)
    before = read_json(layout.FINGERPRINTS)["families"]
    rows = dict(identify.run(settings, Job("smolvlm", "top-4")).rows)
    identity = read_json(layout.identity("smolvlm"))
    assert (identity["source"], identity["revision"]) == ("HuggingFaceTB/SmolVLM-Instruct", COMMIT)
    assert identity["family"] == "idefics3"
    assert rows["params.yaml"].endswith(f"revision: {COMMIT}")
    after = read_json(layout.FINGERPRINTS)["families"]
    assert after["smolvlm"] == before[MODEL] != before["smolvlm"]
    assert {name for name in after if after[name] != before[name]} == {"smolvlm"}


def test_a_pinned_checkpoint_needs_no_advice(
    project: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_the_hub(monkeypatch, layout.base(MODEL))
    settings = config(project_root, models__smolvlm__revision=COMMIT)
    assert "params.yaml" not in dict(identify.run(settings, Job("smolvlm", "top-4")).rows)


def test_a_family_that_is_not_supported_is_refused_before_its_weights_are_fetched(
    project: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project / "mllama"
    shutil.copytree(layout.base(MODEL), folder)
    settings = json.loads((folder / hub.CONFIG).read_text())
    (folder / hub.CONFIG).write_text(json.dumps(settings | {"model_type": "mllama"}))
    from_the_hub(monkeypatch, folder)
    monkeypatch.setattr(hub, "fetch_weights", lambda *arguments: pytest.fail("gigabytes were fetched"))
    with pytest.raises(InputError) as error:
        identify.run(config(project_root), Job("smolvlm", "top-4"))
    assert str(error.value).startswith(
        "HuggingFaceTB/SmolVLM-Instruct is not supported: its model type is mllama, which looks at the image through "
    )
    assert str(error.value).endswith(f"; supported are {', '.join(sorted(FAMILIES))}.")
    assert not layout.identity("smolvlm").exists()


def test_a_base_is_loaded_as_it_was_identified(
    project: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the source of its identity; one whose weights have changed since is refused."""
    monkeypatch.setattr(inputs, "dataset_digest", lambda: "d" * 64)
    folder = Path(shutil.copytree(layout.base(MODEL), project / "mine/base"))
    settings = config(project_root, **{"models.tiny-smolvlm.source": "mine/base", "pretrain.models": "[]"})
    identify.run(settings, JOB)
    base = load_engine(settings, JOB).vlm
    assert (base.source, base.digest) == ("mine/base", read_json(layout.identity(MODEL))["digest"])

    weights = folder / hub.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(
        InputError, match=r"^The weights of mine/base have changed since models/identities/tiny-smolvlm"
    ):
        load_engine(settings, JOB)
    identify.run(settings, JOB)
    assert load_engine(settings, JOB).vlm.digest == digest_file(weights)


def test_a_model_that_was_not_identified_cannot_be_loaded(project: Path, project_root: Path) -> None:
    with pytest.raises(InputError, match=r"models/identities/tiny-smolvlm\.json"):
        load_engine(config(project_root), JOB)
    write_json(layout.identity(MODEL), dict.fromkeys(("revision", "digest", "settings_digest")) | {"source": "nowhere"})
    with pytest.raises(InputError, match="nowhere"):
        load_engine(config(project_root), JOB)
