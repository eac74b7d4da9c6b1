"""The models of params.yaml: frozen, complete, and with no conversion of types."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from headimpact.lifecycle import params
from headimpact.lifecycle.config import Config, Job, Section


@pytest.fixture(scope="module")
def config(project_root: Path) -> Config:
    return params.load(project_root / "params.yaml")


def _models(model: type[BaseModel]) -> set[type[BaseModel]]:
    inner = {
        kind
        for field in model.model_fields.values()
        for kind in (field.annotation, *get_args(field.annotation))
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    }
    return {model, *(found for kind in inner for found in _models(kind))}


def test_it_cannot_be_changed(config: Config) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.train.lr = 1.0  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Job("tiny", "top-4").model = "other"  # type: ignore[misc]


def test_no_value_has_a_second_home_here() -> None:
    models = _models(Config)
    assert len(models) >= 20
    for model in models:
        assert issubclass(model, Section), model
        for name, field in model.model_fields.items():
            assert field.is_required(), f"{model.__name__}.{name} has a default"


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("seed", "0"),
        ("seed", True),
        ("min_score", "0.5"),
        ("min_score", float("nan")),
        ("impact", {"mask_threshold": 0.5, "chance_draws": 4, "more": 1}),
        ("impact", {"mask_threshold": 0.5}),
    ],
)
def test_another_type_or_key_is_refused(config: Config, section: str, value: Any) -> None:
    values = config.model_dump()
    assert Config.model_validate(values) == config
    with pytest.raises(ValidationError, match=section):
        Config.model_validate(values | {section: value})


def test_hub_revisions_are_those_that_are_known(config: Config) -> None:
    pinned = {name: base for name, base in config.models.items() if base.revision not in (None, "main")}
    assert {name: (base.source, base.revision) for name, base in pinned.items()} == {
        "qwen2-vl-2b": ("Qwen/Qwen2-VL-2B-Instruct", "895c3a49bc3fa70a340399125c650a463535e71c"),
        "smolvlm": ("HuggingFaceTB/SmolVLM-Instruct", "81cd9a775a4d644f2faf4e7becff4559b46b14c7"),
    }
    assert config.published.model_dump() == {
        "source": "alekosus/optimizing-mlms-icai2025",
        "index_revision": "368e7204f6612e540b39d6f3ca7b86b6fe5ee272",
        "index_sha256": "a5713624f7673af149945294da837fc2bf5161527dc353884fd8b64674d1e670",
        "masks_revision": "cc17af264b2d2cf2c474268ff646451ddc906bab",
    }
    assert (config.ground.source, config.ground.revision) == (
        "florence-community/Florence-2-large-ft",
        "26b734a54fdfbf9c398351eedfabb7f27fc470b7",
    )
    assert (config.segment.source, config.segment.revision) == (
        "facebook/sam2.1-hiera-large",
        "665f8e2ad61cf5f53d65644ff27c8ee525124610",
    )
