"""Measures of layers against the obvious way: one conversation at a time, eager attention, loops."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import obvious
import pytest
import torch
from engines import captions_of, engine_of
from family_facts import EMBEDDED, TINY_LAYERS, fresh
from peft.helpers import KappaTuneSelector

from headimpact.data import coco
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine.phrases import backward
from headimpact.errors import InputError
from headimpact.impact.head_impact import Impact
from headimpact.impact.scoring import ChanceSettings, score_images
from headimpact.selection import measures
from headimpact.selection.choice import select
from headimpact.selection.localisation import PICKED_HEADS
from headimpact.selection.rules import MEASURES
from headimpact.vlm import attention, loading
from headimpact.vlm.base import Vlm
from headimpact.vlm.tokengrid import TokenGrid

TARGETS = ("q_proj", "k_proj", "v_proj")


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 8, "train": 1, "val": 1, "test": 1}, seed=0)
    return coco.read_part(folder, "impact")


@pytest.fixture(scope="module", params=EMBEDDED)
def vlm(request) -> Vlm:
    return fresh(request.param)


@pytest.fixture(scope="module")
def smolvlm() -> Vlm:
    return fresh("idefics3")


def objects(vlm: Vlm, samples: list[Sample]):
    """Every object by itself: its image as the model takes it, and its caption's tokens."""
    for sample in samples:
        encoded = vlm.encode_image(sample.image())
        for obj in sample.objects:
            yield encoded, vlm.tokenize(vlm.caption(obj.phrase), encoded.grid)


def knockout(vlm: Vlm, samples: list[Sample]) -> np.ndarray:
    engine = engine_of(vlm)
    return measures.knockout(engine, captions_of(engine, samples))


def image_attention(vlm: Vlm, samples: list[Sample]) -> measures.ImageAttention:
    engine = engine_of(vlm)
    return measures.image_attention(engine, captions_of(engine, samples))


def gradient(vlm: Vlm, sample: Sample) -> np.ndarray:
    engine = engine_of(vlm)
    (image,) = captions_of(engine, [sample])
    return measures.gradient(engine, image, TARGETS)


# ---- knockout


def naive_phrase(vlm: Vlm, encoded, tokens, layer: int | None) -> float:
    """Mean log-probability of the phrase; in ``layer`` by a mask made by hand."""

    def hide(module, positional, named):
        mask = named["attention_mask"].clone()
        for query in [int(tokens.target[0]) - 1, *tokens.target.tolist()]:
            for key in tokens.visual.tolist():
                mask[0, 0, query, key] = torch.finfo(mask.dtype).min
        return positional, named | {"attention_mask": mask}

    if layer is None:
        logs = obvious.log_probabilities(vlm, tokens, encoded)
    else:
        handle = vlm.decoder.layers[layer].self_attn.register_forward_pre_hook(hide, with_kwargs=True)
        logs = obvious.log_probabilities(vlm, tokens, encoded)
        handle.remove()
    return sum(float(logs[t - 1, tokens.ids[t]]) for t in tokens.target) / len(tokens.target)


def test_knockout_equals_a_mask_made_by_hand(vlm, samples):
    found = knockout(vlm, samples[:2])
    assert found.shape == (sum(len(sample.objects) for sample in samples[:2]), vlm.layers)
    assert (np.abs(found).max(axis=0) > 1e-3).all()
    for row, (encoded, tokens) in zip(found, objects(vlm, samples[:2]), strict=True):
        whole = naive_phrase(vlm, encoded, tokens, None)
        for layer in (0, 2, vlm.layers - 1):
            assert row[layer] == pytest.approx(whole - naive_phrase(vlm, encoded, tokens, layer), abs=1e-4)


def test_knockout_leaves_the_model_as_it_was(vlm, samples):
    before = knockout(vlm, samples[:1])
    assert np.array_equal(knockout(vlm, samples[:1]), before)
    assert not any(module._forward_pre_hooks for module in vlm.decoder.modules())


def blind(vlm: Vlm, layers: list[int], monkeypatch) -> None:
    """From now on nothing but the image itself sees the image in these layers."""
    whole = vlm.hidden_states

    def hidden_states(batch, states, capture=None):
        visual = torch.zeros(batch.ids.shape, dtype=torch.bool)
        for row, index in enumerate(batch.visual):
            visual[row, index] = True
        with measures.attention_blocked(vlm, layers, ~visual[:, None, :, None] & visual[:, None, None, :]):
            return whole(batch, states, capture)

    monkeypatch.setattr(vlm, "hidden_states", hidden_states)


def test_a_layer_that_is_blind_already_has_nothing_to_lose(vlm, samples, monkeypatch):
    blind(vlm, [1, 2], monkeypatch)
    found = knockout(vlm, samples[:2])
    assert (found[:, [1, 2]] == 0).all()
    assert (found[:, [0, 3]] != 0).any(axis=0).all()
    assert (image_attention(vlm, samples[:2]).share[:, [1, 2]] == 0).all()


# ---- gradient


def naive_gradient(vlm: Vlm, sample: Sample) -> list[float]:
    """The same loss through transformers' own, one conversation after the other."""
    vlm.model.set_attn_implementation("eager")
    vlm.model.zero_grad()
    pairs = list(objects(vlm, [sample]))
    count = sum(len(tokens.answer) for _, tokens in pairs)
    for encoded, tokens in pairs:
        labels = torch.full_like(tokens.ids, -100)
        labels[tokens.answer] = tokens.ids[tokens.answer]
        output = vlm.model(**vlm.native_inputs(tokens, encoded), labels=labels[None], use_cache=False)
        (output.loss * len(tokens.answer) / count).backward()
    vlm.model.set_attn_implementation({"text_config": attention.NAME, "vision_config": "sdpa"})
    means = []
    for layer in vlm.decoder.layers:
        weights = [getattr(layer.self_attn, target).weight for target in TARGETS]
        means.append(float(torch.cat([weight.grad.flatten() for weight in weights]).square().mean()))
    vlm.model.zero_grad()
    return means


def test_gradient_equals_autograd_of_the_obvious_loss(vlm, samples):
    found = gradient(vlm, samples[0])
    assert found.shape == (vlm.layers,)
    assert (found > 0).all()
    np.testing.assert_allclose(found, naive_gradient(vlm, samples[0]), rtol=1e-3)


def test_gradient_leaves_no_trace_and_needs_none(smolvlm, samples):
    """A frozen base is measured like another, and stays frozen."""
    found = gradient(smolvlm, samples[0])
    wanted = [parameter.requires_grad for parameter in smolvlm.model.parameters()]
    smolvlm.model.requires_grad_(False)
    assert np.array_equal(gradient(smolvlm, samples[0]), found)
    assert not any(parameter.requires_grad for parameter in smolvlm.model.parameters())
    for parameter, before in zip(smolvlm.model.parameters(), wanted, strict=True):
        parameter.requires_grad_(before)
    assert all(parameter.grad is None for parameter in smolvlm.model.parameters())


# ---- attention to the image


def flood(bits: np.ndarray) -> list[list[tuple[int, int]]]:
    """8-connected regions, by walking."""
    left = {(int(r), int(c)) for r, c in np.argwhere(bits)}
    regions = []
    while left:
        todo, region = [left.pop()], []
        while todo:
            row, col = todo.pop()
            region.append((row, col))
            near = {(row + i, col + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            todo += near
        regions.append(region)
    return regions


def naive_entropy(row: np.ndarray, grid: TokenGrid) -> float:
    blocks = (row * (row > row.mean())).reshape(grid.blocks, grid.rows, grid.cols)
    planes = [blocks[-1]]
    if grid.blocks > 1:
        lines = [blocks[i * grid.crop_cols : (i + 1) * grid.crop_cols] for i in range(grid.crop_rows)]
        planes.append(np.concatenate([np.concatenate(list(line), axis=1) for line in lines], axis=0))
    masses = [sum(plane[place] for place in region) for plane in planes for region in flood(plane > 0)]
    return -sum(mass / sum(masses) * math.log(mass / sum(masses)) for mass in masses)


def test_image_attention_equals_eager_maps_one_at_a_time(vlm, samples):
    found = image_attention(vlm, samples[:3])
    for share, entropy, (encoded, tokens) in zip(found.share, found.entropy, objects(vlm, samples[:3]), strict=True):
        maps = obvious.attention_maps(vlm, tokens, encoded)[:, :, tokens.target][..., tokens.visual].mean(dim=2)
        np.testing.assert_allclose(share, maps.sum(-1), atol=1e-5)
        for layer in (0, vlm.layers - 1):
            for head in range(vlm.heads):
                wanted = naive_entropy(maps[layer, head].double().numpy(), encoded.grid)
                assert entropy[layer, head] == pytest.approx(wanted, abs=1e-3)


def swap_heads(vlm: Vlm, layer: int) -> list[int]:
    """Give the first key-value group of heads the second one's place and the other way round; where each head went."""
    module = vlm.decoder.layers[layer].self_attn
    groups = vlm.text_config.num_key_value_heads
    order = [1, 0, *range(2, groups)]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("o_proj"):
                parts = parameter.unflatten(1, (groups, -1))[:, order].flatten(1)
            else:
                parts = parameter.unflatten(0, (groups, -1))[order].flatten(0, 1)
            parameter.copy_(parts.clone())
    return torch.arange(vlm.heads).unflatten(0, (groups, -1))[order].flatten().tolist()


@pytest.mark.parametrize("family", EMBEDDED)
def test_heads_that_change_places_take_their_scores_along(family, samples):
    base = fresh(family)
    before, pulled = image_attention(base, samples[:2]), gradient(base, samples[0])
    lost = knockout(base, samples[:2])
    moved = swap_heads(base, 2)
    after = image_attention(base, samples[:2])
    np.testing.assert_allclose(after.share[:, 2], before.share[:, 2][:, moved], atol=1e-5)
    np.testing.assert_allclose(after.entropy[:, 2], before.entropy[:, 2][:, moved], atol=1e-3)
    np.testing.assert_allclose(after.share[:, 3], before.share[:, 3], atol=1e-5)
    np.testing.assert_allclose(gradient(base, samples[0]), pulled, rtol=1e-3)
    np.testing.assert_allclose(knockout(base, samples[:2]), lost, atol=1e-4)


# ---- the condition of the weights


def test_conditioning_is_that_of_kappatune(smolvlm):
    """PEFT's selector gives modules in order of kappa, the best first: over all projections, and layer by layer."""
    names = smolvlm.projections(range(smolvlm.layers), TARGETS)
    single = {
        (layer, target): measures.conditioning(smolvlm, [target])[layer] for layer in (0, 2, 3) for target in TARGETS
    }
    modules = torch.nn.ModuleDict({name.replace(".", "/"): smolvlm.model.get_submodule(name) for name in names})
    order = [name.replace("/", ".") for name in KappaTuneSelector(modules, show_progress=False).get_best_targets()]
    of_name = {smolvlm.projections([layer], [target])[0]: value for (layer, target), value in single.items()}
    assert [name for name in order if name in of_name] == sorted(of_name, key=lambda name: -of_name[name])
    together = measures.conditioning(smolvlm, TARGETS)
    assert together[2] == pytest.approx(np.prod([single[2, target] for target in TARGETS]) ** (1 / 3))
    assert ((together > 0) & (together <= 1)).all()


# ---- all together


def test_measure_joins_all_groups(smolvlm, samples, monkeypatch):
    monkeypatch.setattr(measures, "_TOGETHER", 2)
    found = measures.measure(engine_of(smolvlm), samples[:3], TARGETS)
    values = found.values
    attended = image_attention(smolvlm, samples[:3])
    gradients = [gradient(smolvlm, sample) for sample in samples[:3]]
    np.testing.assert_allclose(values["gradient"], np.mean(gradients, axis=0))
    np.testing.assert_allclose(values["knockout"], knockout(smolvlm, samples[:3]).mean(axis=0), atol=1e-5)
    assert (found.errors["knockout"] > 0).all()
    np.testing.assert_allclose(values["share"], attended.share.mean(axis=0), atol=1e-5)
    assert set(values) == {name for name, measure in MEASURES.items() if not measure.in_impact_table}
    table = found.table()
    assert list(table) == ["layer", "gradient", "knockout", "knockout_se", "share", "localisation", "kappa"]
    assert table["layer"].tolist() == list(range(TINY_LAYERS))
    np.testing.assert_allclose(table["share"], values["share"].mean(axis=1))
    np.testing.assert_allclose(table["localisation"], values["localisation"].mean(axis=1))
    np.testing.assert_array_equal(table["knockout_se"], found.errors["knockout"])
    assert values["localisation"].sum() <= PICKED_HEADS + 1e-9


def test_nothing_to_measure_is_refused(smolvlm):
    with pytest.raises(InputError, match=r"^No object was measured: the data holds none\.$"):
        measures.measure(engine_of(smolvlm), [], TARGETS)


def test_a_phrase_without_tokens_is_refused(smolvlm, samples, monkeypatch):
    real = smolvlm.tokenize
    empty = torch.empty(0, dtype=torch.long)
    monkeypatch.setattr(smolvlm, "tokenize", lambda *a: dataclasses.replace(real(*a), target=empty))
    with pytest.raises(InputError, match=f"^Image {samples[0].id} has an object whose phrase has no token"):
        measures.measure(engine_of(smolvlm), samples[:1], TARGETS)


# ---- planted truth


def plant(base: Vlm, layer: int, samples: list[Sample], monkeypatch) -> None:
    """``layer`` alone carries the visual information: the others are blind, and their attention writes nothing. A
    few steps of training let it use what it sees."""
    others = [other for other in range(base.layers) if other != layer]
    for other in others:
        torch.nn.init.zeros_(base.decoder.layers[other].self_attn.o_proj.weight)
    blind(base, others, monkeypatch)
    optimizer = torch.optim.AdamW(base.decoder.layers[layer].self_attn.parameters(), lr=3e-3)
    engine = engine_of(base)
    for step in range(12):
        images = captions_of(engine, samples[step % 2 * 4 : step % 2 * 4 + 4])
        tokens = sum(len(t.answer) for image in images for t in image.prepared.conversations)
        backward(engine, images, lambda loss, tokens=tokens: (loss / tokens).backward())
        optimizer.step()
        optimizer.zero_grad()


def scored(base: Vlm, samples: list[Sample]) -> Impact:
    impact, skipped = score_images(engine_of(base), samples, ChanceSettings(0.5, 5, 0))
    assert not skipped
    return impact


def test_a_planted_layer_is_found_by_what_is_measured_and_not_by_position(samples, project_root: Path, monkeypatch):
    layer = 9
    base = loading.load(str(project_root / "models/bases/tiny-qwen2-vl"), device="cpu", dtype="float32")
    plant(base, layer, samples, monkeypatch)
    found = measures.measure(engine_of(base), samples, TARGETS)
    impact = scored(base, samples)
    measured = {
        "hi": impact.hi,
        "excess": (impact.iou - impact.chance).mean(axis=0),
        "auroc": impact.auroc.mean(axis=0),
        **{name: found.values[name] for name in ("gradient", "knockout", "share")},
    }
    for rule in ("top", "excess", "gradient", "knockout", "share"):
        assert select(f"{rule}-1", measured, seed=0).layers == (layer,), rule
    assert found.values["knockout"][layer] > 3 * found.errors["knockout"][layer]
    for rule in ("first", "middle", "last", "uniform"):
        for count in (1, 4):
            assert layer not in select(f"{rule}-{count}", measured, seed=0).layers


def test_the_only_layer_that_sees_is_found_though_the_others_go_on_to_read(samples, project_root: Path, monkeypatch):
    """The others' attention to the text stays. The gradient is not asked: in a base that was not trained like this, it
    is largest where every token passes first, and says nothing about the image."""
    base = loading.load(str(project_root / "models/bases/tiny-paligemma2"), device="cpu", dtype="float32")
    blind(base, [layer for layer in range(base.layers) if layer != 9], monkeypatch)
    impact = scored(base, samples[:4])
    measured = {
        "hi": impact.hi,
        "excess": (impact.iou - impact.chance).mean(axis=0),
        "knockout": knockout(base, samples[:4]).mean(axis=0),
    }
    assert [select(f"{rule}-1", measured, seed=0).layers for rule in measured if rule != "hi"] == [(9,), (9,)]
