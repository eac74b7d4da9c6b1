"""The adapter trains and nothing else, in float32 whatever the base is in."""

import math

import pytest
import torch
from accelerate.state import AcceleratorState
from family_facts import kinds
from training_runs import LAYERS, prepare, values, weights

from headimpact.adapters.training import validation_perplexity


@kinds()
def test_only_the_adapter_trains_and_the_loss_falls(parts, tmp_path, family):
    """Two images, learned by heart."""
    two = parts[0][:2]
    run = prepare((two, two), tmp_path / "state", family, epochs=18, lr=2e-2, evals_per_epoch=1)
    before = {n: p.detach().clone() for n, p in run.engine.vlm.model.named_parameters()}
    history = list(run.run())
    loss, perplexity = values(history, "train/loss"), values(history, "val/perplexity")
    assert len(loss) == 18
    assert loss[-1] < 0.8 * loss[0]
    assert min(perplexity) < 0.5 * perplexity[0]
    after = dict(run.engine.vlm.model.named_parameters())
    changed = {n for n, p in after.items() if not torch.equal(before[n], p)}
    assert changed == {n for n in after if "lora_" in n}
    assert len(changed) == 2 * len(set(LAYERS) & set(run.engine.vlm.attention_layers)) * 3
    found = validation_perplexity(run.engine, two)
    assert found == pytest.approx(min(perplexity), rel=1e-6)


@pytest.fixture
def other_precision():
    """accelerate holds one precision per process: forget it before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_an_adapter_trains_in_float32_on_a_base_in_bfloat16(parts, tmp_path, other_precision):
    run = prepare(parts, tmp_path / "state", dtype=torch.bfloat16, epochs=2)
    before = weights(run)
    history = list(run.run())
    assert run.engine.vlm.model.dtype == torch.bfloat16
    assert {weight.dtype for weight in run.parameters.values()} == {torch.float32}
    assert not any(torch.equal(before[name], weight) for name, weight in run.parameters.items())
    assert all(math.isfinite(measured.value) for measured in history)
    # Steps far smaller than bfloat16 resolves would be lost in it.
    moved = torch.cat([weight.detach().flatten() for weight in run.parameters.values()])
    assert not torch.equal(moved, moved.bfloat16().float())
