"""train.kl: the loss that keeps an adapter near its base, against the obvious way to compute it."""

from pathlib import Path

import obvious
import pytest
import torch
from engines import captions_of, engine_of
from family_facts import fresh
from training_runs import LORA, gradients, prepare, trained_a_little

from headimpact.adapters import lora
from headimpact.adapters.training import Training, anchored_losses
from headimpact.data.samples import Sample
from headimpact.engine.phrases import backward

WEIGHT = 0.7


def obvious_loss(run: Training, samples: list[Sample]) -> torch.Tensor:
    """Mean over answer tokens of NLL + WEIGHT x KL: one conversation a sequence, two models, the sum written out."""
    vlm, base, losses = run.engine.vlm, fresh("idefics3"), []
    vlm.model.set_attn_implementation("eager")
    for sample in samples:
        encoded = vlm.encode_image(sample.image())
        for obj in sample.objects:
            tokens = vlm.tokenize(vlm.caption(obj.phrase), encoded.grid)
            logs = vlm.model(**vlm.native_inputs(tokens, encoded), use_cache=False).logits[0].float().log_softmax(-1)
            before = obvious.log_probabilities(base, tokens, encoded).clone()
            for place in tokens.answer.tolist():
                kl = sum(before[place - 1].exp() * (before[place - 1] - logs[place - 1]))
                losses.append(-logs[place - 1, tokens.ids[place]] + WEIGHT * kl)
    return torch.stack(losses).mean()


def test_loss_and_gradients_are_those_of_the_obvious_way(parts, tmp_path: Path):
    run, plain = (prepare(parts, tmp_path / "state", batch_images=4, max_grad_norm=1e9, kl=kl) for kl in (WEIGHT, 0.0))
    for training in (run, plain):
        trained_a_little(training)
    loss, found = gradients(run)
    assert loss > gradients(plain)[0] + 1e-3  # the adapter has moved, so there is a distance
    expected = obvious_loss(run, run.train)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    wanted = torch.autograd.grad(expected, list(run.parameters.values()))
    for gradient, of_obvious in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(gradient, of_obvious, atol=1e-5, rtol=1e-3)


def test_an_adapter_that_has_not_moved_is_at_no_distance(parts, tmp_path: Path):
    run, plain = (prepare(parts, tmp_path / "state", kl=kl) for kl in (5.0, 0.0))
    loss, found = gradients(run)
    expected_loss, expected = gradients(plain)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def test_what_is_below_the_lowest_layer_is_shared_and_other_heads_stay_at_zero(parts):
    vlm = fresh("idefics3")
    peft_model = lora.attach_heads(vlm, [(2, 1)], LORA, seed=0)
    engine = engine_of(vlm)
    engine.first = 2
    images = captions_of(engine, parts[0])
    losses = anchored_losses(peft_model, WEIGHT)
    backward(engine, images, lambda loss: loss.backward(), losses)
    (q_proj,) = vlm.projections([2], ["q_proj"])
    computed, held = engine.frozen.computed, ~lora.head_rows(vlm, [1], q_proj)
    backward(engine, images, lambda loss: loss.backward(), losses)
    assert engine.frozen.computed == computed  # adapter and base alike take what was kept
    gradient = vlm.model.get_submodule(f"{q_proj}.lora_B.default").weight.grad
    assert not gradient[held].any()
    assert gradient[~held].any()
