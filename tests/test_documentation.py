"""Every value of params.yaml in words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from headimpact.lifecycle.documentation import describe, documentation


def _leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    inner = {k: v for k, v in values.items() if isinstance(v, dict)}
    return [f"{prefix}{k}" for k in values if k not in inner] + [
        leaf for k, v in inner.items() for leaf in _leaves(v, f"{prefix}{k}.")
    ]


def test_every_value_is_documented(project_root: Path) -> None:
    values = yaml.safe_load((project_root / "params.yaml").read_text())
    values["models"] = {"<name>": values["models"]["smolvlm"]}
    metrics = values["tournament"]["differences"]
    values["tournament"]["differences"] = {"<metric>": next(iter(metrics.values()))}
    documented = documentation()
    assert sorted(parameter.key for parameter in documented) == sorted(_leaves(values))
    assert all(parameter.meaning for parameter in documented)


@pytest.mark.parametrize(
    ("key", "kind", "allowed"),
    [
        ("train.lr", "number", " above 0, up to 1"),
        ("train.warmup_share", "number", " from 0, below 1"),
        ("seed", "whole number", " from 0"),
        ("train.gradient_checkpointing", "true or false", ""),
        ("models.<name>.revision", "text or null", ""),
        ("compute.device", "auto | cpu | cuda | mps", ""),
        ("lora.targets", "list of q_proj | k_proj | v_proj | o_proj | gate_proj | up_proj | down_proj", ""),
        ("tournament.ks", "list of whole number above 0", ""),
        ("tournament.differences.<metric>", "number", " above 0"),
    ],
)
def test_types_and_limits_in_words(key: str, kind: str, allowed: str) -> None:
    (found,) = (parameter for parameter in documentation() if parameter.key == key)
    assert (found.type, found.allowed) == (kind, allowed)


def test_a_value_is_described_by_its_own_name() -> None:
    described = describe("models.smolvlm.source"), describe("tournament.differences.accuracy"), describe("train.lr")
    assert [parameter and parameter.key for parameter in described] == [
        "models.<name>.source",
        "tournament.differences.<metric>",
        "train.lr",
    ]
    assert described[2]
    assert described[2].meaning == "peak learning rate"
    assert describe("train") is None
    assert describe("models.smolvlm.colour") is None
    assert describe("trian.lr") is None
