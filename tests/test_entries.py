"""A checkpoint that is named where a model is asked for."""

import shutil
from pathlib import Path

import pytest
import yaml

from headimpact.errors import InputError
from headimpact.files import read_json, write_json
from headimpact.lifecycle import entries, layout, params
from headimpact.lifecycle.config import Config


@pytest.fixture
def config(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A project whose folder ``mine/My-Model_2B`` is a checkpoint that params.yaml does not know."""
    shutil.copy(project_root / layout.PARAMS, tmp_path / layout.PARAMS)
    base = tmp_path / "mine/My-Model_2B"
    shutil.copytree(project_root / layout.base("tiny-smolvlm"), base)
    monkeypatch.chdir(tmp_path)
    return params.load(layout.PARAMS)


def test_a_model_is_known_by_its_name_and_by_its_checkpoint(config: Config) -> None:
    before = layout.PARAMS.read_bytes()
    assert entries.model_of(config, "tiny-smolvlm") == "tiny-smolvlm"
    assert entries.model_of(config, "Qwen/Qwen2-VL-2B-Instruct") == "qwen2-vl-2b"
    assert layout.PARAMS.read_bytes() == before


def test_a_new_checkpoint_is_entered_and_told(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    before = layout.PARAMS.read_text()
    assert entries.model_of(config, "mine/My-Model_2B") == "my-model-2b"
    lines = "  my-model-2b:\n    source: mine/My-Model_2B\n    revision: null\n"
    assert capsys.readouterr().out == f"New in params.yaml, under models:\n{lines}"
    after = layout.PARAMS.read_text()
    assert after.replace(lines, "") == before
    changed = params.load(layout.PARAMS)
    assert changed.models["my-model-2b"].source == "mine/My-Model_2B"
    assert {name: base for name, base in changed.models.items() if name != "my-model-2b"} == config.models
    assert entries.model_of(changed, "mine/My-Model_2B") == "my-model-2b"


def test_a_name_that_is_taken_gives_way_to_the_whole_path(config: Config) -> None:
    shutil.copytree("mine/My-Model_2B", "mine/smolvlm")
    assert entries.model_of(config, "mine/smolvlm") == "mine-smolvlm"


@pytest.mark.parametrize(
    ("layout_of_models", "added"),
    [
        ("models:  # all\n  # the first\n  {rest}", "models:  # all\n  my-model-2b:\n"),
        ("models:\n\n    {rest}", "models:\n    my-model-2b:\n"),
    ],
)
def test_it_fits_in_whatever_the_block_looks_like(config: Config, layout_of_models: str, added: str) -> None:
    values = yaml.safe_load(layout.PARAMS.read_text())
    models = yaml.safe_dump(values.pop("models"))
    indent = layout_of_models.partition("{rest}")[0].rpartition("\n")[2]
    block = layout_of_models.format(rest=models.replace("\n", f"\n{indent}").rstrip())
    layout.PARAMS.write_text(f"{yaml.safe_dump(values)}{block}\n")
    entries.model_of(config, "mine/My-Model_2B")
    assert added in layout.PARAMS.read_text()
    assert params.load(layout.PARAMS).models.keys() == {*config.models, "my-model-2b"}


def test_where_it_does_not_fit_the_lines_are_told(config: Config) -> None:
    values = yaml.safe_load(layout.PARAMS.read_text())
    layout.PARAMS.write_text(yaml.safe_dump(values, default_flow_style=True))
    before = layout.PARAMS.read_bytes()
    with pytest.raises(InputError, match=r"Put it there:\n\n  my-model-2b:\n    source: mine/My-Model_2B"):
        entries.model_of(config, "mine/My-Model_2B")
    assert layout.PARAMS.read_bytes() == before


def test_what_is_no_checkpoint_is_not_entered(config: Config) -> None:
    before = layout.PARAMS.read_bytes()
    config_json = Path("mine/My-Model_2B/config.json")
    write_json(config_json, read_json(config_json) | {"model_type": "own"})
    with pytest.raises(InputError, match="mine/My-Model_2B is not supported: its model type is own"):
        entries.model_of(config, "mine/My-Model_2B")
    with pytest.raises(InputError, match="nowhere/to-be-found"):
        entries.model_of(config, "nowhere/to-be-found")
    with pytest.raises(InputError, match=r"unknown model 'tiny-smolvm'\. Did you mean tiny-smolvlm"):
        entries.model_of(config, "tiny-smolvm")
    assert layout.PARAMS.read_bytes() == before
