"""What the library selects and adapts, and the attention that it shows, are those of the steps."""

from pathlib import Path

import numpy as np
import obvious
import peft
import pytest
from in_memory import TINY, from_memory, in_memory
from PIL import Image

import headimpact
from headimpact.adapters import lora
from headimpact.data import scenes
from headimpact.errors import InputError
from headimpact.impact.attention_map import AttentionMap
from headimpact.impact.head_impact import Impact
from headimpact.tiny import bases
from headimpact.vlm.base import Vlm
from headimpact.vlm.tokengrid import TokenGrid


def test_the_highest_layers_are_selected(impact: Impact):
    order = np.argsort(-impact.layer_scores(), kind="stable")
    assert headimpact.select("top-4", impact).layers == tuple(sorted(order[:4].tolist()))
    assert headimpact.select("bottom-2", impact).layers == tuple(sorted(order[-2:].tolist()))
    by_column = impact.table().groupby("layer")["auroc"].mean().to_numpy()
    assert headimpact.select("auroc-1", impact).layers == (int(by_column.argmax()),)
    draws = {headimpact.select("random-2", impact, seed=seed).layers for seed in range(6)}
    assert len(draws) > 1
    with pytest.raises(InputError, match="Unknown setup 'best-4'"):
        headimpact.select("best-4", impact)
    with pytest.raises(InputError, match=r"'gradient-4' .*was not measured"):
        headimpact.select("gradient-4", impact)


@pytest.mark.parametrize("name", TINY)
def test_the_configuration_adapts_the_selected_layers_of_ones_own_model(name: str, project_root: Path):
    model, processor = from_memory(project_root / "models" / "bases" / name)
    base = headimpact.load_base(model, processor)
    selection = headimpact.select("layers:0,3", headimpact.score(base, in_memory(1, 2)))
    config = headimpact.lora_config(base, selection, rank=2, alpha=6, targets=("q_proj", "v_proj"))
    assert type(config) is peft.LoraConfig
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (2, 6, 0.0, "none")
    names = [f"{base.decoder_path}.layers.{i}.self_attn.{p}" for i in (0, 3) for p in ("q_proj", "v_proj")]
    assert sorted(config.target_modules) == sorted(names)
    adapted = peft.get_peft_model(model, config)
    assert lora.adapted_modules(adapted) == sorted(names)
    assert {p.shape[0] for n, p in adapted.named_parameters() if "lora_A" in n} == {2}


@pytest.mark.parametrize("setup", ["full", "full-4", "full-1", "top-3"])
def test_the_configuration_is_that_of_the_steps(setup: str, impact: Impact):
    base = bases.build("tiny-smolvlm", 0)
    selection = headimpact.select(setup, impact)
    config = headimpact.lora_config(base, selection)
    ranks = {"full-4": lora.spread(14, 4, 8), "full-1": lora.spread(14, 1, 8)}.get(setup)
    layers = list(ranks or selection.layers)
    settings = lora.LoraSettings(8, 16, ("q_proj", "k_proj", "v_proj"))
    expected = lora.attach(base, layers, settings, 0, ranks)
    adapted = peft.get_peft_model(bases.build("tiny-smolvlm", 0).model, config)
    shapes = [{n: p.shape for n, p in m.named_parameters() if p.requires_grad} for m in (adapted, expected)]
    assert shapes[0] == shapes[1]
    found, wanted = (m.peft_config["default"] for m in (adapted, expected))
    assert (found.rank_pattern, found.alpha_pattern) == (wanted.rank_pattern, wanted.alpha_pattern)


def test_what_a_configuration_cannot_say_is_refused(smolvlm: Vlm, impact: Impact):
    with pytest.raises(InputError, match=r"'heads:0\.1' adapts single heads.*headimpact finetune --setup heads:0\.1"):
        headimpact.lora_config(smolvlm, headimpact.select("heads:0.1", impact))
    with pytest.raises(InputError, match="'original' adapts no layer"):
        headimpact.lora_config(smolvlm, headimpact.select("original", impact))
    shorter = Impact(
        impact.image_ids, impact.object_ids, *(getattr(impact, n)[:, :5] for n in ("iou", "chance", "auroc", "mass"))
    )
    with pytest.raises(InputError, match=r"for a model of 5 layers, and .*tiny-smolvlm has 14"):
        headimpact.lora_config(smolvlm, headimpact.select("top-2", shorter))


# ---- attention


@pytest.mark.parametrize("name", TINY)
def test_the_attention_of_a_head_is_that_of_an_eager_forward(name: str):
    base = bases.build(name, 3)
    image = scenes.draw(0, 1).image
    encoded = base.encode_image(image)
    tokens = base.tokenize(base.caption("a red circle"), encoded.grid)
    expected = obvious.attention_maps(base, tokens, encoded)[:, :, tokens.target][..., tokens.visual].mean(2)
    layer, head = base.layers - 1, base.heads - 1
    found = headimpact.attention(base, image, "a red circle", layer, head)
    assert found.grid == encoded.grid
    assert found.values == pytest.approx(expected[layer, head].numpy(), abs=1e-7)
    assert 0 < found.values.sum() < 1
    assert (found.crops is None) == (name != "tiny-smolvlm")
    assert found.whole.shape == (encoded.grid.rows, encoded.grid.cols)


def test_crops_and_the_whole_image_lie_where_they_are_seen():
    """2 x 1 crops of 1 x 2 tokens, one below the other, and the whole image."""
    found = AttentionMap(np.array([1, 2, 3, 4, 5, 6], dtype=np.float32) / 100, TokenGrid(1, 2, 2, 1))
    assert found.crops is not None
    assert (found.crops * 100).round().tolist() == [[1, 2], [3, 4]]
    assert (found.whole * 100).round().tolist() == [[5, 6]]


@pytest.mark.parametrize(
    ("phrase", "layer", "head", "message"),
    [
        ("  ", 0, 0, "The phrase is empty"),
        ("a circle", 14, 0, "There is no layer 14: .*tiny-smolvlm has 14 layers, 0 to 13"),
        ("a circle", -1, 0, "There is no layer -1"),
        ("a circle", 0, 6, "There is no head 6: .* has 6 heads, 0 to 5"),
        ("<image>", 0, 0, "must not contain <image>"),
    ],
)
def test_attention_that_is_not_there_is_refused(smolvlm: Vlm, phrase, layer, head, message):
    with pytest.raises(InputError, match=message):
        headimpact.attention(smolvlm, Image.new("RGB", (96, 64)), phrase, layer, head)
