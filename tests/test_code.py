"""What makes the result of a step stale, and what does not: edits of a copy of the package."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headimpact.errors import InputError
from headimpact.files import read_json, write_json
from headimpact.lifecycle import code, layout, params
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.registry import STEPS

BASES = {
    "tiny-paligemma2": "paligemma",
    "tiny-qwen2-vl": "qwen2_vl",
    "tiny-smolvlm": "idefics3",
    "tiny-gemma3": "gemma3",
}
NONE: tuple[set[str], set[str]] = (set(), set())
NUMBER = ("\n\n\n", "\n\n\nVALUE = 1\n\n\n")
Fingerprints = dict[str, str]


@pytest.fixture(scope="module")
def config(project_root: Path) -> Config:
    return params.load(project_root / layout.PARAMS)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, whose fingerprints are asked for."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(code.SOURCE / "headimpact", folder / "headimpact", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(autouse=True)
def in_project(source: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprints are those of the copy; the working directory has the bases."""
    monkeypatch.setattr(code, "SOURCE", source)
    monkeypatch.chdir(project_root)


@pytest.fixture(scope="module")
def before(source: Path, project_root: Path) -> Iterator[tuple[Fingerprints, Fingerprints]]:
    """The fingerprints of the copy as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "SOURCE", source)
        patch.chdir(project_root)
        yield _steps(), _families()


@pytest.fixture
def changes(before: tuple[Fingerprints, Fingerprints]) -> Callable[[], tuple[set[str], set[str]]]:
    """Gives the steps and the bases whose fingerprints have changed."""

    def compare() -> tuple[set[str], set[str]]:
        steps, families = _steps(), _families()
        return (
            {name for name, digest in steps.items() if digest != before[0][name]},
            {name for name, digest in families.items() if digest != before[1][name]},
        )

    return compare


def _steps() -> Fingerprints:
    return {name: code.step_fingerprint(step) for name, step in STEPS.items()}


def _families() -> Fingerprints:
    nowhere = Path("nowhere.json")
    named = {name: code.family_fingerprint(layout.base(name).as_posix(), nowhere) for name in BASES}
    return named | {"unknown": code.family_fingerprint("owner/name", nowhere)}


@pytest.fixture
def edit(source: Path) -> Iterator[Callable[[str, str, str], None]]:
    """Replaces a place in a file of the copy, or makes a new file, for one test."""
    texts: dict[Path, str | None] = {}

    def replace(name: str, old: str, new: str) -> None:
        path = source / "headimpact" / name
        text = path.read_text() if path.exists() else ""
        texts.setdefault(path, text if path.exists() else None)
        assert old in text
        path.write_text(text.replace(old, new, 1) if old else new)

    yield replace
    for path, text in texts.items():
        path.write_text(text) if text is not None else path.unlink()


def test_what_decides_no_result(edit, changes) -> None:
    edit("impact/head_impact.py", '"""', '"""In other words: ')
    edit("impact/head_impact.py", "\nimport ", "\n# A comment.\nimport ")
    edit("lifecycle/steps/inputs.py", "The weights of {base.source} have changed", "{base.source} has changed")
    edit("lifecycle/tracking.py", 'COMMIT = "mlflow', 'COMMIT = "other')
    edit("lifecycle/pipeline.py", "def run_grid(", "def run_all(config):\n    return 0\n\n\ndef run_grid(")
    edit("lifecycle/registry.py", '"Compute the Head Impact', '"Work out the Head Impact')
    assert changes() == NONE


def test_a_new_family_makes_nothing_stale(edit, changes) -> None:
    """One file and one line. What no family is known of has the code of all."""
    edit("vlm/families/__init__.py", "FAMILIES = {", 'FAMILIES = {\n    "sesame": "sesame:Sesame",')
    edit("vlm/families/sesame.py", "", "class Sesame:\n    layers = 1\n")
    assert changes() == (set(), {"unknown"})


@pytest.mark.parametrize("base", BASES)
def test_the_code_of_a_family_concerns_its_bases_alone(edit, before, base: str) -> None:
    edit(f"vlm/families/{BASES[base]}.py", *NUMBER)
    assert {name for name, digest in _families().items() if digest != before[1][name]} == {base, "unknown"}
    assert code.step_fingerprint(STEPS["score"]) == before[0]["score"]


def test_a_number_that_head_impact_is_made_with(edit, changes) -> None:
    edit("impact/head_impact.py", *NUMBER)
    steps, families = changes()
    assert {"score", "examine"} <= steps
    assert not steps & {"pretrain", "identify", "measure", "finetune", "evaluate", "answer"}
    assert not families


def test_a_number_that_adapters_are_trained_with(edit, changes) -> None:
    edit("adapters/training.py", *NUMBER)
    assert changes() == ({"finetune", "tournament"}, set())


def test_the_style_of_the_page_concerns_the_report_alone(edit, changes) -> None:
    edit("report/page/page.css", "{", "{ color: red;")
    assert changes() == ({"report"}, set())


def test_the_tables_of_the_paper_concern_the_report_alone(edit, changes, source: Path) -> None:
    edit(f"report/paper/{min(path.name for path in (source / 'headimpact/report/paper').glob('*.csv'))}", "\n", "\n1")
    assert changes() == ({"report"}, set())


def test_how_figures_are_drawn_concerns_the_steps_that_write_them(edit, changes) -> None:
    edit("report/figures.py", *NUMBER)
    steps, families = changes()
    assert "score" in steps
    assert steps <= {name for name, step in STEPS.items() if step.draws}
    assert not families


def test_a_step_whose_code_is_named_depends_on_nothing_that_it_imports(edit, changes) -> None:
    edit("devices.py", *NUMBER)
    edit("data/coco.py", *NUMBER)
    steps, _ = changes()
    assert {"score", "data"} <= steps
    assert not {name for name, step in STEPS.items() if step.code is not None} & steps


def test_a_step_whose_code_is_named_depends_on_that(edit, changes) -> None:
    edit("data/grounding.py", *NUMBER)
    edit("tiny/bases.py", *NUMBER)
    steps, _ = changes()
    assert {"ground", "pretrain"} <= steps
    assert not {"segment", "score"} & steps


def test_a_new_module_counts_where_it_is_imported(edit, changes) -> None:
    edit("selection/more.py", "", "VALUE = 1\n")
    assert changes() == NONE
    edit("selection/choice.py", "\nimport ", "\nfrom headimpact.selection.more import VALUE\nimport ")
    once = code.step_fingerprint(STEPS["select"])
    steps, _ = changes()
    assert "select" in steps
    assert "score" not in steps
    edit("selection/more.py", "1", "2")
    assert code.step_fingerprint(STEPS["select"]) != once


# ---- families


def _checkpoint(folder: Path, model_type: str) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder.as_posix()


def test_a_family_is_known_from_the_checkpoint_or_from_the_identity(tmp_path: Path) -> None:
    nowhere, identity = tmp_path / "nowhere.json", tmp_path / "identity.json"
    by_config = {
        kind: code.family_fingerprint(_checkpoint(tmp_path / kind, kind), nowhere)
        for kind in (*BASES.values(), "mllama")
    }
    unknown = code.family_fingerprint("owner/name", nowhere)
    assert by_config["mllama"] == unknown  # no family is known of it: that of all
    assert len({*by_config.values(), unknown}) == len(BASES) + 1
    write_json(identity, {"source": "owner/name", "family": "idefics3"})
    assert code.family_fingerprint("owner/name", identity) == by_config["idefics3"]
    assert code.family_fingerprint("owner/other", identity) == unknown  # it says nothing of another source
    folder = (tmp_path / "paligemma").as_posix()
    write_json(identity, {"source": folder, "family": "idefics3"})
    assert code.family_fingerprint(folder, identity) == by_config["paligemma"]  # the checkpoint as it is now


# ---- fingerprints.json


@pytest.fixture
def project(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with the tiny bases as the working directory."""
    (tmp_path / "models").symlink_to(project_root / "models")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def written(project: None, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a current fingerprints.json, of digests that take no time."""
    monkeypatch.setattr(code, "step_fingerprint", lambda step: step.name)
    monkeypatch.setattr(code, "family_fingerprint", lambda source, identity: source)
    assert code.refresh(config)


def test_the_file_has_all_steps_and_the_families_of_all_models(project: None, config: Config) -> None:
    assert code.refresh(config)
    families = {
        name: code.family_fingerprint(base.source, layout.identity(name)) for name, base in config.models.items()
    }
    content = read_json(layout.FINGERPRINTS)
    assert content["families"] == families
    assert content["steps"].keys() == STEPS.keys()
    assert {name for name, digest in _steps().items() if content["steps"][name] != digest} == {"tournament"}
    assert len(set(families.values())) == len(BASES) + 1  # one a family, and that of all


def test_the_tournament_knows_the_families_of_its_bases_and_no_other(
    written: None, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_json(layout.FINGERPRINTS)["steps"]["tournament"]

    def tournament(edited: str) -> str:
        monkeypatch.setattr(code, "family_fingerprint", lambda source, identity: source + "!" * (source == edited))
        layout.CODE_NOTE.unlink()
        code.refresh(config)
        return read_json(layout.FINGERPRINTS)["steps"]["tournament"]

    assert tournament(config.models["qwen2-vl-2b"].source) == before
    assert tournament(config.models["tiny-qwen2-vl"].source) != before


def test_code_is_read_again_only_after_a_change(
    written: None, config: Config, edit: Callable[[str, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    code.refresh(config)
    monkeypatch.setattr(code, "step_fingerprint", lambda step: pytest.fail("the code is read"))
    assert not code.refresh(config)
    monkeypatch.setattr(code, "step_fingerprint", lambda step: "read")
    edit("impact/head_impact.py", *NUMBER)
    assert code.refresh(config)
    assert read_json(layout.FINGERPRINTS)["steps"]["score"] == "read"


def test_it_is_written_only_where_it_is_not_as_the_code_is(written: None, config: Config) -> None:
    content = read_json(layout.FINGERPRINTS)
    assert not code.refresh(config)
    write_json(layout.FINGERPRINTS, content | {"steps": {}})
    assert code.refresh(config)
    assert read_json(layout.FINGERPRINTS) == content


@pytest.mark.parametrize(
    ("kind", "name", "step", "refused"),
    [
        ("steps", "score", "score", True),
        ("steps", "finetune", "score", False),
        ("families", "tiny-smolvlm", "score", True),
        ("families", "tiny-qwen2-vl", "score", False),
        ("families", "tiny-smolvlm", "pretrain", False),
        ("steps", "report", "report", True),
    ],
)
def test_a_stage_that_dvc_began_with_other_code_is_refused(
    written: None, config: Config, kind: str, name: str, step: str, refused: bool
) -> None:
    code.check_current(STEPS[step], config, "tiny-smolvlm")
    content = read_json(layout.FINGERPRINTS)
    outdated = content | {kind: content[kind] | {name: "0" * 16}}
    write_json(layout.FINGERPRINTS, outdated)
    if refused:
        with pytest.raises(InputError, match=f"The code of {step} was edited after fingerprints.json was written"):
            code.check_current(STEPS[step], config, "tiny-smolvlm")
    else:
        code.check_current(STEPS[step], config, "tiny-smolvlm")
    assert read_json(layout.FINGERPRINTS) == content  # for the next run


def test_a_stage_without_the_file_is_refused(written: None, config: Config) -> None:
    layout.FINGERPRINTS.unlink()
    with pytest.raises(InputError, match="run the command again"):
        code.check_current(STEPS["score"], config, "tiny-smolvlm")
    assert layout.FINGERPRINTS.is_file()


@pytest.mark.parametrize(("step", "refused"), [("score", True), ("select", False)])
def test_a_process_that_imported_other_code_runs_no_stage_of_it(
    written: None, config: Config, edit, monkeypatch: pytest.MonkeyPatch, step: str, refused: bool
) -> None:
    """DVC begins it with the present fingerprint, which another command has written."""
    imported = code.current()
    edit("impact/head_impact.py", *NUMBER)
    monkeypatch.setattr(code, "step_fingerprint", lambda step: f"{step.name}{' edited' * (step.name == 'score')}")
    code.refresh(config)
    if refused:
        with pytest.raises(InputError, match="The code of score was edited"):
            code.check_current(STEPS[step], config, "tiny-smolvlm", imported)
    else:
        code.check_current(STEPS[step], config, "tiny-smolvlm", imported)
    code.check_current(STEPS[step], config, "tiny-smolvlm")


def test_what_identify_finds_out_is_no_edit(written: None, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = code.current()
    monkeypatch.setattr(code, "family_fingerprint", lambda source, identity: "of its family")
    layout.CODE_NOTE.unlink()
    assert code.refresh(config)
    code.check_current(STEPS["score"], config, "smolvlm", imported)
