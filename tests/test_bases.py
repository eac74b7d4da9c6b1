"""The committed tiny bases mean something: they see the image, and some head looks at the object."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from meaning import Meaning, measure

from headimpact.data import scenes
from headimpact.data.scene_dataset import write_scenes
from headimpact.lifecycle import config, layout, params
from headimpact.tiny import bases
from headimpact.vlm import loading

IMAGES = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, settings: config.Config) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": IMAGES, "train": 1, "val": 1, "test": IMAGES}, settings.seed)
    return folder


@pytest.fixture(scope="module")
def settings(project_root: Path) -> config.Config:
    return params.load(project_root / layout.PARAMS)


@pytest.fixture(scope="module")
def meaning(project_root: Path, data: Path, settings: config.Config) -> Callable[[str], Meaning]:
    """Measured once a base."""
    return cache(lambda name: measure(loading.load(str(project_root / layout.base(name))), data, IMAGES, settings))


@pytest.mark.parametrize("name", bases.TINY)
def test_a_base_sees_the_image_and_a_head_looks_at_the_object(meaning: Callable[[str], Meaning], name: str) -> None:
    found = meaning(name)
    assert found.accuracy.value - 5 * found.accuracy.se > 0.25
    assert found.perplexity.value + 5 * found.perplexity.se < found.blank_perplexity.value
    assert found.best_head["excess"] > 0.10
    assert found.best_head["excess_z"] > 5


@pytest.mark.parametrize("name", bases.TINY)
def test_a_base_answers_four_questions_of_five(meaning: Callable[[str], Meaning], name: str) -> None:
    assert meaning(name).accuracy.value >= 0.80


@pytest.mark.parametrize("name", bases.TINY)
def test_the_image_halves_the_perplexity(meaning: Callable[[str], Meaning], name: str) -> None:
    assert meaning(name).perplexity.value < meaning(name).blank_perplexity.value / 2


@pytest.mark.parametrize("name", bases.TINY)
def test_a_base_is_small_and_deep_enough(project_root: Path, name: str) -> None:
    folder = project_root / layout.base(name)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 8_000_000
    base = loading.load(str(folder))
    assert base.layers >= 12
    assert (folder / "recipe.json").is_file()
    assert (folder / "learning_curve.csv").is_file()


@pytest.mark.parametrize("name", bases.TINY)
def test_every_word_of_the_scenes_is_one_token(name: str) -> None:
    tokenizer = bases.build(name, 0).tokenizer
    for group in (scenes.TEXTURES, scenes.COLOURS, scenes.SHAPES, scenes.VERTICALS, scenes.HORIZONTALS):
        for word in group:
            assert len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1
            assert tokenizer.decode(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == f" {word}"
