"""Adapters on all projections of a layer have as many parameters as those on some."""

import pytest
from family_facts import fresh, real

from headimpact.adapters import lora, whole
from headimpact.adapters.cell import Placement, placement
from headimpact.errors import InputError
from headimpact.vlm.layers import PROJECTIONS

SETTINGS = lora.LoraSettings(rank=8, alpha=16, targets=("q_proj", "k_proj", "v_proj"))


@pytest.mark.parametrize("family", ["idefics3", "qwen3_5"])
def test_whole_layers_are_trained_on_the_budget_of_some_projections(family: str):
    vlm = fresh(family)
    chosen = Placement(vlm.attention_layers[:2])
    expected = whole.budget(vlm, chosen, SETTINGS)
    ranks = whole.ranks_of(vlm, chosen, SETTINGS)
    peft_model = whole.attach(vlm, ranks, SETTINGS, seed=0)
    assert lora.adapted_modules(peft_model) == sorted(ranks)
    assert {*ranks} == {*vlm.projections(chosen.layers, tuple(PROJECTIONS))}
    # Ranks are whole numbers: what is left is less than any projection's rank costs.
    assert 0 <= expected - lora.count_parameters(peft_model).trainable < 64
    assert max(ranks.values()) - min(ranks.values()) <= 1
    lora.detach(peft_model)
    assert lora.count_parameters(lora.attach(vlm, chosen.layers, SETTINGS, 0)).trainable == expected


def test_the_budget_of_all_layers_is_spent_on_evenly_spaced_ones_at_real_size():
    vlm = real("qwen2_vl")
    chosen = placement(vlm.attention_layers, (), 4, SETTINGS.rank)
    ranks, expected = whole.ranks_of(vlm, chosen, SETTINGS), whole.budget(vlm, chosen, SETTINGS)
    cost = sum(rank * sum(vlm.model.get_submodule(name).weight.shape) for name, rank in ranks.items())
    assert expected == 4 * 8 * 6656 == 212_992
    assert 0.998 * expected < cost <= expected
    assert {int(name.split("layers.")[1].split(".")[0]) for name in ranks} == {2, 8, 14, 19, 25}


def test_what_an_update_is_multiplied_by_stays_what_it_is():
    vlm = fresh("idefics3")
    for method in ("lora", "rslora"):
        settings = lora.LoraSettings(8, 16, SETTINGS.targets, method)
        peft_model = whole.attach(vlm, whole.ranks_of(vlm, Placement((1,)), settings), settings, seed=0)
        scales = {module.scaling["default"] for module in peft_model.modules() if isinstance(module, lora.LoraLayer)}
        assert [*scales] == pytest.approx([16 / 8 if method == "lora" else 16 / 8**0.5])
        lora.detach(peft_model)


@pytest.mark.parametrize(
    ("rank", "method", "message"),
    [(1, "lora", "fewer parameters than rank 1 on all projections"), (8, "dora", "must be lora or rslora")],
)
def test_what_cannot_be_matched_is_refused(rank: int, method: str, message: str):
    settings = lora.LoraSettings(rank, 16, SETTINGS.targets, method)
    with pytest.raises(InputError, match=message):
        whole.ranks_of(fresh("idefics3"), Placement((1,)), settings)
