"""The choice of modules as text to paste elsewhere."""

import re
from typing import Any

import peft
import pytest
import yaml
from torch import nn

from headimpact.adapters import lora
from headimpact.adapters.elsewhere import snippets, target_regex

NAMES = [f"model.text.layers.{layer}.self_attn.{name}" for layer in (0, 11) for name in ("q_proj", "v_proj")]


def test_the_expression_matches_the_names_and_nothing_else() -> None:
    regex = target_regex(NAMES)
    assert regex == r"model\.text\.layers\.(0|11)\.(self_attn\.q_proj|self_attn\.v_proj)"
    assert all(re.fullmatch(regex, name) for name in NAMES)
    others = ["model.text.layers.1.self_attn.q_proj", "vision.layers.0.self_attn.q_proj", f"x.{NAMES[0]}"]
    assert not any(re.fullmatch(regex, name) for name in others)


@pytest.mark.parametrize("names", [["lm.head", "a+b"], NAMES[:3], [*NAMES, "head"]])
def test_names_of_no_common_form_are_listed(names: list[str]) -> None:
    regex = target_regex(names)
    assert {name for name in [*NAMES, "lm.head", "lmxhead", "a+b", "head"] if re.fullmatch(regex, name)} == set(names)


def layers(count: int) -> nn.ModuleDict:
    projections = [{"q_proj": nn.Linear(4, 4), "v_proj": nn.Linear(4, 4)} for _ in range(count)]
    listed = [nn.ModuleDict({"self_attn": nn.ModuleDict(named)}) for named in projections]
    return nn.ModuleDict({"layers": nn.ModuleList(listed)})


class Model(nn.Module):
    """Twelve layers with q and v, and a tower that has them, too."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.vision = layers(12), layers(1)


def config(**changes: Any) -> dict[str, Any]:
    """As adapter_config.json has it; PEFT reads the names of patterns as regular expressions."""
    names = [name.replace("model.", "") for name in NAMES]
    made = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": names, "rank_pattern": {}}
    return made | {"alpha_pattern": {}, "use_dora": False, "use_rslora": False} | changes


def test_the_python_text_adapts_the_same_modules_at_the_same_ranks() -> None:
    ranks = {re.escape(name): 2 if ".0." in name else 3 for name in config()["target_modules"]}
    alphas = {pattern: 2.0 * rank for pattern, rank in ranks.items()}
    made = config(rank_pattern=ranks, alpha_pattern=alphas)
    scope: dict[str, Any] = {}
    exec(snippets(made)[0].text, scope)
    model = peft.get_peft_model(Model(), scope["config"])  # pyright: ignore[reportArgumentType]
    assert lora.adapted_modules(model) == sorted(made["target_modules"])
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert {len(module.lora_A["default"].weight) for name, module in adapted.items() if ".0." in name} == {2}
    assert {len(module.lora_A["default"].weight) for name, module in adapted.items() if ".11." in name} == {3}
    assert {module.scaling["default"] for module in adapted.values()} == {2.0}


def test_trainers_have_names_or_the_expression() -> None:
    _, factory, swift, axolotl = snippets(config(use_dora=True))
    read = yaml.safe_load(factory.text)
    assert read["lora_target"].split(",") == config()["target_modules"]
    assert (read["lora_rank"], read["lora_alpha"], read["use_dora"]) == (8, 16, True)
    regex = target_regex(config()["target_modules"])
    assert f"--target_regex '{regex}'" in swift.text
    assert yaml.safe_load(axolotl.text)["lora_target_modules"] == regex
    assert yaml.safe_load(axolotl.text)["peft_use_dora"] is True
    assert {factory.limits, swift.limits, axolotl.limits} == {""}


def test_trainers_with_one_rank_are_told_the_nearest() -> None:
    ranks = {re.escape(name): 2 if ".0." in name else 3 for name in config()["target_modules"]}
    _, factory, *_ = snippets(config(rank_pattern=ranks, alpha_pattern=ranks))
    assert yaml.safe_load(factory.text)["lora_rank"] == 2
    assert yaml.safe_load(factory.text)["lora_alpha"] == 4
    assert factory.limits.startswith("one rank for all modules, 2, in the place of 2 to 3")
    even = dict.fromkeys(ranks, 4)
    _, factory, *_ = snippets(config(rank_pattern=even, alpha_pattern=even))
    assert (yaml.safe_load(factory.text)["lora_rank"], factory.limits) == (4, "")
