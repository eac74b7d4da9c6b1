"""Costs: parameters exactly as in table 5, weights exactly, the rest as estimates that move the right way."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engines import captions_of, engine_of
from family_facts import facts, families, fresh, real, tiny
from PIL import Image

from headimpact.adapters import cost, lora
from headimpact.data.samples import Sample, key_object
from headimpact.engine.phrases import backward
from headimpact.selection.setups import check_setup
from headimpact.vlm.base import Vlm

SETTINGS = lora.LoraSettings(rank=8, alpha=16, targets=("q_proj", "k_proj", "v_proj"))
LOAD = cost.Workload(images=8, visual=1000.0, tokens=1100.0, answers=30.0, blocks=1.0)


@families()
def test_parameters_are_those_of_table_5(family):
    model, base, on_one = real(family), facts(family).parameters, facts(family).adapted_layer
    on = on_one if isinstance(on_one, Mapping) else dict.fromkeys(model.attention_layers, on_one)
    four, full = model.attention_layers[1:5], cost.setup_layers(check_setup("full"), model.attention_layers)
    on_four, on_all = sum(on[layer] for layer in four), sum(on.values())
    assert cost.count_parameters(model, four, SETTINGS) == lora.Parameters(base + on_four, on_four)
    assert cost.count_parameters(model, full, SETTINGS) == lora.Parameters(base + on_all, on_all)
    assert cost.count_parameters(model, [], SETTINGS) == lora.Parameters(base, 0)
    assert lora.adapted_modules(model.model) == []
    assert all(parameter.requires_grad for parameter in model.model.parameters())
    assert type(model.model) is model.model_class


def test_setups_stand_for_as_many_layers_as_they_train():
    counts = {setup: cost.setup_layers(check_setup(setup), range(12)) for setup in ("original", "top-4", "random-2")}
    assert counts == {"original": [], "top-4": [0, 1, 2, 3], "random-2": [0, 1]}
    assert cost.setup_layers(check_setup("full"), range(3)) == [0, 1, 2]
    assert cost.setup_layers(check_setup("layers:6,8,9"), range(12)) == [6, 8, 9]
    assert cost.setup_layers(check_setup("full"), (3, 7, 11)) == [3, 7, 11]
    assert cost.setup_layers(check_setup("top-2"), (3, 7, 11)) == [3, 7]


@families()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_are_exact(family, dtype):
    model = fresh(family)
    model.model.to(dtype)
    held = sum(parameter.numel() * parameter.element_size() for parameter in model.model.parameters())
    assert cost.estimate(model, LOAD, None, 0, dtype).weights == held


@families()
def test_the_activations_are_about_what_the_backward_keeps(family):
    model, phrases, images = fresh(family), ("red circle", "blue star upper left", "dog"), 2
    lora.attach(model, [1, 3], SETTINGS, 0)
    load = cost.workload(model, [(160, 160, phrases)], 8192, images)
    estimated = cost.estimate(model, load, 1, 0, torch.float32).activations
    kept = _kept(model, phrases, images)
    assert 0.8 * kept < estimated < 1.6 * kept


def _kept(model: Vlm, phrases: Sequence[str], images: int) -> int:
    """Bytes that autograd keeps for the backward of a training step."""
    masks = torch.ones(160, 160, dtype=torch.bool).numpy()
    objects = tuple(key_object(i, phrase, masks, 1.0) for i, phrase in enumerate(phrases))

    class Blank(Sample):
        def image(self) -> Image.Image:
            return Image.new("RGB", (160, 160), (90, 20, 200))

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.model.parameters()}
    kept = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), storage)  # held, so that no address is used twice
        return tensor

    engine, forwards = engine_of(model, 8192), []
    blank = captions_of(engine, [Blank(i, Path("none"), 160, 160, objects) for i in range(images)])
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        backward(engine, blank, forwards.append)
    assert len(forwards) == 1
    return sum(size for size, _ in kept.values())


@families()
def test_estimates_of_real_bases_move_the_right_way(family):
    model = real(family)
    half = cost.estimate(model, LOAD, 0, 400_000, torch.bfloat16)
    assert half.adapter == 6_400_000
    assert half.memory == half.weights + half.adapter + half.activations
    assert cost.estimate(model, LOAD, 0, 400_000, torch.float32).memory > 1.2 * half.memory
    later = cost.estimate(model, LOAD, model.layers - 1, 400_000, torch.bfloat16)
    forward = cost.estimate(model, LOAD, None, 0, torch.bfloat16)
    assert forward.flops < later.flops < half.flops < 3 * forward.flops
    assert forward.activations <= later.activations < half.activations
    double = cost.estimate(model, replace(LOAD, images=16), 0, 400_000, torch.bfloat16)
    assert double.flops == pytest.approx(2 * half.flops)
    assert double.activations == pytest.approx(2 * half.activations)
    # 2 operations a parameter and token, at least.
    decoder = sum(p.numel() for p in model.decoder.get_submodule("layers").parameters())
    assert forward.flops > 2 * decoder * LOAD.tokens * LOAD.images


@families()
def test_the_workload_is_that_of_the_packed_sequences(family):
    model = tiny(family)
    image = model.encode_image(Image.new("RGB", (160, 96)))
    one = model.tokenize(model.caption("dog"), image.grid)
    load = cost.workload(model, [(160, 96, ["dog"])], 8192, 4)
    assert load == cost.Workload(
        4, float(image.grid.tokens), float(len(one.ids)), float(len(one.answer)), float(image.grid.blocks)
    )
    two = cost.workload(model, [(160, 96, ["dog", "red circle"]), (96, 160, ["dog"])], 8192, 4)
    assert load.tokens < two.tokens < 2 * load.tokens


@pytest.mark.parametrize(("tokens", "images"), [(1, 1), (1.0, 1), (2.5, 2), (4.0, 4), (9.0, 4)])
def test_a_forward_holds_what_fits_of_a_step(tokens, images):
    """Bounds in sequences of the average image, or one token; a step has four images."""
    model = tiny("idefics3")
    phrases = [(160, 96, ["dog"])] * 3
    length = cost.workload(model, phrases, 8192, 1).tokens
    bound = tokens if isinstance(tokens, int) else int(tokens * length)
    assert cost.workload(model, phrases, bound, 4).images == images


def test_a_rate_is_measured():
    assert cost.measure_rate(torch.device("cpu"), torch.float32, seconds=0.01) > 1e6
