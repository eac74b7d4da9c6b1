"""An adapter that is not the one of its header is refused, with the difference."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from headimpact.adapters import held
from headimpact.errors import InputError
from headimpact.files import read_json

MODULES = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in "qv"]
WEIGHTS = "adapter_model.safetensors"
CONFIG = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": MODULES,
    "use_rslora": False,
    "modules_to_save": None,
    "base_model_name_or_path": "models/bases/tiny",
}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    tensors = {f"base_model.model.{name}.lora_{end}.weight": torch.ones(2, 2) for name in MODULES for end in "AB"}
    save_file(tensors, tmp_path / WEIGHTS)
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    held.record(tmp_path, {"base": "tiny"})
    return tmp_path


def test_the_adapter_of_a_header_gives_it(adapter: Path) -> None:
    header = held.check(adapter)
    assert (header["base"], header["lora"]["r"], header["lora"]["target_modules"]) == ("tiny", 2, MODULES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora_alpha": 40}, "lora_alpha is 40 and not 4"),
        ({"use_rslora": True}, "use_rslora is True and not unset"),
        ({"r": "x"}, "r is x and not 2"),
        ({"peft_type": "NONSENSE"}, "peft_type is NONSENSE and not LORA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head'] and not unset"),
        ({"target_modules": MODULES[:3]}, "target_modules has 3 entries and not the 4 of the header"),
        ({"r": 1, "lora_alpha": 2}, "lora_alpha is 2 and not 4 and r is 1 and not 2"),
    ],
)
def test_another_configuration(adapter: Path, changes: dict, said: str) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(InputError) as refused:
        held.check(adapter)
    assert f"is not the one that its header.json is of: {said}. Put the right files back" in str(refused.value)


def test_where_the_base_lies_decides_nothing(adapter: Path) -> None:
    labels = {"base_model_name_or_path": "owner/name", "task_type": "CAUSAL_LM", "peft_version": "9"}
    (adapter / "adapter_config.json").write_text(json.dumps(CONFIG | labels))
    held.check(adapter)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda tensors: {}, r"other tensors \(4 of 4 modules have none\)"),
        (lambda tensors: dict(list(sorted(tensors.items()))[:4]), r"other tensors \(2 of 4 modules have none\)"),
        (lambda tensors: {name: tensor * 2 for name, tensor in tensors.items()}, r"it has other tensors\."),
        (
            lambda tensors: tensors | {sorted(tensors)[1]: torch.full((2, 2), math.nan)},
            "some of its tensors are not finite and it has other tensors",
        ),
    ],
)
def test_other_tensors(adapter: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str) -> None:
    save_file(edit(load_file(adapter / WEIGHTS)), adapter / WEIGHTS)
    with pytest.raises(InputError, match=said):
        held.check(adapter)


def test_what_is_not_finite_is_refused_whatever_the_header_says(adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    save_file(tensors | {sorted(tensors)[0]: torch.full((2, 2), math.inf)}, adapter / WEIGHTS)
    held.record(adapter, {})
    with pytest.raises(InputError, match="not finite"):
        held.check(adapter)


def test_a_header_from_before_is_told(adapter: Path) -> None:
    header = read_json(adapter / "header.json")
    del header["tensors_digest"]
    (adapter / "header.json").write_text(json.dumps(header))
    with pytest.raises(InputError, match=r"made before adapters were held .* Run finetune to make it again\.$"):
        held.check(adapter)


@pytest.mark.parametrize(
    ("text", "said"), [("[]", "is no header"), ("[" * 100_000 + "]" * 100_000, "nests too deeply")]
)
def test_a_header_of_another_shape(adapter: Path, text: str, said: str) -> None:
    (adapter / "header.json").write_text(text)
    with pytest.raises(InputError, match=said):
        held.check(adapter)
