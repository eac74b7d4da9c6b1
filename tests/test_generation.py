"""Generated answers: in batches what each would be alone, in order, whatever memory allows."""

import numpy as np
import pytest
import torch
from family_facts import kinds, tiny
from PIL import Image

from headimpact.engine.forward import Engine, EngineSettings
from headimpact.engine.generation import generate
from headimpact.errors import InputError
from headimpact.vlm import native
from headimpact.vlm.base import Vlm

# Idefics3 cuts them into 1, 2 and more crops; the prompts differ in length.
ASKED = [
    ((64, 64), "What is this photo?"),
    ((128, 96), "Say in a few words what is shown in this photo, please."),
    ((200, 60), "What?"),
    ((96, 224), "What is this photo?"),
]


def ask(asked: tuple[tuple[int, int], str]) -> tuple[Image.Image, str]:
    (width, height), prompt = asked
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels), prompt


def one_by_one(vlm: Vlm) -> list[str]:
    return [vlm.generate(*ask(asked), max_new_tokens=6, do_sample=False) for asked in ASKED]


@kinds()
def test_an_answer_does_not_depend_on_its_company(family: str) -> None:
    vlm = tiny(family)
    engine = Engine(vlm, EngineSettings(batch_tokens=100_000))
    assert list(generate(engine, ASKED, ask, 6)) == one_by_one(vlm)


def test_where_memory_is_too_small_fewer_are_asked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = tiny("idefics3")
    expected = one_by_one(vlm)
    real, told, sizes = vlm.generate_together, [], []

    def together(prompts: list, **generation: int | bool) -> list[str]:
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(prompts, **generation)

    monkeypatch.setattr(vlm, "generate_together", together)
    engine = Engine(vlm, EngineSettings(batch_tokens=100_000), tell=told.append)
    assert list(generate(engine, ASKED, ask, 6)) == expected
    assert sizes[0] == len(ASKED)
    assert told


def test_where_memory_is_too_small_for_one_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = tiny("idefics3")

    def together(prompts: list, **generation: int | bool) -> list[str]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(vlm, "generate_together", together)
    with pytest.raises(InputError, match=r"one sequence of \d+ tokens \(a prompt and its answer\): CUDA out of memory"):
        list(generate(Engine(vlm, tell=lambda text: None), ASKED[:1], ask, 6))


def test_inputs_are_joined_by_hand() -> None:
    short = {"input_ids": torch.tensor([[7]]), "attention_mask": torch.tensor([[1]]), "pixels": torch.ones(1, 1, 2)}
    long = {
        "input_ids": torch.tensor([[1, 2, 3]]),
        "attention_mask": torch.tensor([[1, 1, 1]]),
        "pixels": torch.full((1, 2, 2), 5.0),
    }
    joined = native.join([short, long])
    assert joined["input_ids"].tolist() == [[0, 0, 7], [1, 2, 3]]
    assert joined["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert joined["pixels"].tolist() == [[[1, 1], [0, 0]], [[5, 5], [5, 5]]]


def test_images_of_different_patches_follow_each_other() -> None:
    ids = torch.tensor([[1, 2]])
    conversations = [{"input_ids": ids, "patches": torch.full((patches, 4), float(patches))} for patches in (3, 1)]
    assert native.join(conversations)["patches"][:, 0].tolist() == [3, 3, 3, 1]
