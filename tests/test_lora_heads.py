"""Adapters of single heads: plain PEFT, in which the other heads are the base's own."""

from pathlib import Path

import pytest
import torch
from engines import engine_of
from family_facts import KINDS, fresh, tiny
from peft import PeftModel
from test_lora import PICTURE, SETTINGS, header, logits, stir

from headimpact.adapters import lora
from headimpact.adapters.training import Training, TrainSettings
from headimpact.data import coco
from headimpact.data.scene_dataset import write_scenes
from headimpact.errors import InputError
from headimpact.tiny import bases
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm
from headimpact.vlm.families import family_class

HEADS = [(3, 2), (1, 5), (3, 5)]
FEW_STEPS = TrainSettings(
    seed=0,
    lr=1e-2,
    epochs=2,
    batch_images=2,
    gradient_checkpointing=False,
    warmup_share=0.2,
    weight_decay=0.1,
    max_grad_norm=1.0,
    evals_per_epoch=1,
    patience=9,
    checkpoint_steps=1,
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 1, "train": 4, "val": 1, "test": 1}, seed=0)
    return coco.read_part(folder, "train"), coco.read_part(folder, "val")


def train(base: Vlm, peft_model: PeftModel, parts, checkpoint: Path) -> None:
    for _ in Training(engine_of(base), peft_model, *parts, FEW_STEPS, checkpoint, "same").run():
        pass


@pytest.fixture(scope="module", params=[family for family in KINDS if not family_class(family).no_single_heads])
def trained_heads(request, parts, tmp_path_factory):
    """A base, an adapter of three of its heads, trained and saved, what was counted, and what it answers."""
    root = tmp_path_factory.mktemp(request.param)
    bases.save(fresh(request.param), root / "base")
    base = loading.load(str(root / "base"), device="cpu", dtype="float32")
    original = logits(base)
    peft_model = lora.attach_heads(base, HEADS, SETTINGS, seed=5)
    counts = lora.count_parameters(base.model)
    train(base, peft_model, parts, root / "state.safetensors")
    changed = float((logits(base) - original).abs().max())
    lora.check_liveness(peft_model, base.projections([1, 3], SETTINGS.targets), changed)
    lora.save(peft_model, root / "adapter", header(base))
    return root, counts, original, logits(base)


def rows_of(base: Vlm, layer: int, target: str) -> set[int]:
    """The rows of a projection that belong to the chosen heads, counted one by one."""
    config = base.text_config
    width = base.decoder.layers[layer].self_attn.head_dim
    per_group = config.num_attention_heads // config.num_key_value_heads
    rows: set[int] = set()
    if target not in base.projections_of(layer):
        return rows
    for at, head in HEADS:
        if at == layer:
            unit = head if target == "q_proj" else head // per_group
            rows |= set(range(unit * width, (unit + 1) * width))
    return rows


def test_peft_alone_loads_single_heads_and_the_other_heads_are_the_base(trained_heads):
    """Loaded with transformers and PEFT alone: the same answers; merged, every other row is the base's own, exactly."""
    root, _, original, adapted = trained_heads
    assert (adapted - original).abs().max() > 1e-3
    base = loading.load(str(root / "base"), device="cpu", dtype="float32")
    encoded = base.encode_image(PICTURE)
    inputs = base.native_inputs(base.tokenize(base.caption("red circle"), encoded.grid), encoded)
    plain = type(base.model).from_pretrained(root / "base", dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(plain, str(root / "adapter"))
    assert lora.adapted_modules(model) == sorted(base.projections([1, 3], SETTINGS.targets))
    with torch.inference_mode():
        torch.testing.assert_close(model(**inputs).logits[0], adapted, atol=1e-4, rtol=0)
    merged, before = dict(model.merge_and_unload().named_parameters()), dict(base.model.named_parameters())
    assert merged.keys() == before.keys()
    for name, weight in merged.items():
        moved = set((weight != before[name]).flatten(1).any(1).nonzero()[:, 0].tolist()) if weight.ndim > 1 else set()
        projection = next((t for t in SETTINGS.targets if name.endswith(f"self_attn.{t}.weight")), None)
        if name.startswith(base.decoder_path) and projection:
            layer = int(name.removeprefix(f"{base.decoder_path}.layers.").split(".")[0])
            assert moved == rows_of(base, layer, projection)
        else:
            assert torch.equal(weight, before[name])


def test_only_what_can_move_counts_as_trainable(trained_heads):
    root, counts, _, _ = trained_heads
    base = loading.load(str(root / "base"), device="cpu", dtype="float32")
    rank, total, effective = SETTINGS.rank, 0, 0
    for layer in (1, 3):
        for target in [target for target in SETTINGS.targets if target in base.projections_of(layer)]:
            rows, columns = getattr(base.decoder.layers[layer].self_attn, target).weight.shape
            total += rank * (rows + columns)
            effective += rank * (len(rows_of(base, layer, target)) + columns)
    before = sum(parameter.numel() for parameter in base.model.parameters())
    assert counts == lora.Parameters(before + total, effective)
    assert effective < total


@pytest.mark.parametrize(
    ("family", "heads", "target", "units"),
    [
        ("paligemma", [2, 5], "q_proj", [2, 5]),
        ("paligemma", [2, 5], "k_proj", [1, 2]),  # 8 heads, 4 of keys and values
        ("paligemma", [2, 3], "v_proj", [1]),
        ("qwen2_vl", [2, 5], "k_proj", [0, 1]),  # 6 heads, 2 of keys and values
        ("qwen2_vl", [3], "v_proj", [1]),
        ("idefics3", [3], "v_proj", [3]),
    ],
)
def test_rows_of_heads_by_key_value_group(family, heads, target, units):
    base = tiny(family)
    rows = lora.head_rows(base, heads, *base.projections([0], [target]))
    assert len(rows) == getattr(base.decoder.layers[0].self_attn, target).out_features
    assert rows.nonzero()[:, 0].tolist() == [16 * unit + i for unit in units for i in range(16)]


def test_rows_of_heads_are_as_wide_as_those_of_their_layer():
    """Of Gemma 4's tiny layers the first two have heads of 16 rows, the others of 32."""
    base = tiny("gemma4")
    for layer, width in ((0, 16), (2, 32)):
        for target, heads in (("q_proj", 8), ("k_proj", 4)):
            rows = lora.head_rows(base, [2], *base.projections([layer], [target]))
            assert len(rows) == heads * width
            assert rows.count_nonzero() == width


def head_training(parts, checkpoint: Path) -> Training:
    base = fresh("qwen2_vl")
    peft_model = lora.attach_heads(base, HEADS, SETTINGS, seed=5)
    return Training(engine_of(base), peft_model, *parts, FEW_STEPS, checkpoint, "same")


def test_training_on_single_heads_goes_on_where_it_stopped(parts, tmp_path):
    """The same weights with and without a stop."""
    whole = head_training(parts, tmp_path / "whole.safetensors")
    list(whole.run())
    for measured in head_training(parts, tmp_path / "stopped.safetensors").run():
        if measured.step == 2:
            break
    resumed = head_training(parts, tmp_path / "stopped.safetensors")
    assert len(list(resumed.run())) == len(whole.history)
    assert all(torch.equal(weight, resumed.parameters[name]) for name, weight in whole.parameters.items())


def test_rows_that_strayed_are_refused():
    base = fresh("idefics3")
    peft_model = lora.attach_heads(base, HEADS, SETTINGS, seed=0)
    stir(peft_model)  # every row of every lora_B
    names = base.projections([1, 3], SETTINGS.targets)
    with pytest.raises(lora.DeadAdapterError, match=r"^Rows of heads that were not chosen have moved in .*layers\.1\."):
        lora.check_liveness(peft_model, names, changed_logits=1.0)


def test_a_family_whose_heads_share_rows_with_a_gate_is_refused_with_the_reason():
    with pytest.raises(InputError, match=r"^Single heads of tiny qwen3_5 cannot be adapted: each head's rows of its"):
        lora.attach_heads(tiny("qwen3_5"), [(1, 0)], SETTINGS, seed=0)


def test_heads_that_cannot_be_adapted_are_refused():
    base = fresh("idefics3")
    with pytest.raises(InputError, match=r"^Head 1\.6 does not exist: a layer has 6 heads\.$"):
        lora.attach_heads(base, [(1, 6)], SETTINGS, seed=0)
    settings = lora.LoraSettings(rank=2, alpha=4, targets=("q_proj", "o_proj"))
    with pytest.raises(InputError, match="by the rows of q_proj, k_proj and v_proj, not of o_proj"):
        lora.attach_heads(base, HEADS, settings, seed=0)
    assert not lora.adapted_modules(base.model)
