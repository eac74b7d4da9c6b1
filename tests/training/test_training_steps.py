"""Which images a step shows, in which order, at which rate, and its gradients."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import captions_of, count_forwards
from training_runs import first_images, gradients, kill_after, nudge, prepare, trained_a_little, values

from headimpact.adapters import training
from headimpact.adapters.training import Training, epoch_order
from headimpact.data.samples import Sample
from headimpact.engine.forward import Loaded
from headimpact.engine.phrases import backward
from headimpact.vlm import packing
from headimpact.vlm.packing import Packed


def shells(*ids: int) -> list[Sample]:
    return [Sample(i, Path("none"), 8, 8, ()) for i in ids]


def test_the_order_depends_on_seed_epoch_and_sample_alone():
    samples = shells(*range(1, 21))
    order = [sample.id for sample in epoch_order(samples, 0, 0)]
    assert sorted(order) == list(range(1, 21))
    np.random.seed(1)
    torch.manual_seed(1)
    assert [s.id for s in epoch_order(samples[::-1], 0, 0)] == order
    assert [s.id for s in epoch_order(samples, 0, 1)] != order
    assert [s.id for s in epoch_order(samples, 1, 0)] != order
    # A sample more or less moves no other one.
    assert [s.id for s in epoch_order(samples[:15], 0, 0)] == [i for i in order if i <= 15]


def test_every_epoch_shows_every_image_once(start, parts, monkeypatch):
    run = start(batch_images=3, epochs=2)
    assert (run.steps_per_epoch, run.total_steps) == (2, 4)
    steps = shown_by(run, monkeypatch)
    list(run.run())
    assert [len(step) for step in steps] == [3, 1, 3, 1]
    for epoch in range(2):
        order = [sample.id for sample in epoch_order(run.train, 0, epoch)]
        assert steps[2 * epoch] + steps[2 * epoch + 1] == order


def test_a_run_that_goes_on_within_an_epoch_shows_what_is_left_of_it(start, parts, monkeypatch):
    kill_after(start(batch_images=1, checkpoint_steps=5, epochs=2), 13)
    run = start(batch_images=1, epochs=2)
    steps = shown_by(run, monkeypatch)
    list(run.run())
    assert steps == [[sample.id] for sample in epoch_order(run.train, 0, 1)[1:]]


def test_images_without_objects_are_left_out(parts, tmp_path):
    train, val = parts
    nothing = dataclasses.replace(train[0], id=10**6, objects=())
    run = prepare(([nothing, *train], [*val, nothing]), tmp_path / "state")
    assert ([s.id for s in run.train], [s.id for s in run.val]) == ([s.id for s in train], [s.id for s in val])


def shown_by(run: Training, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The ids of the images of every step from now on."""
    steps, real = [], run.optimize

    def optimize(images: Iterator[Loaded[None]]) -> float:
        steps.append([])
        return real(followed(images))

    def followed(images: Iterator[Loaded[None]]) -> Iterator[Loaded[None]]:
        for image in images:
            steps[-1].append(image.prepared.sample.id)
            yield image

    monkeypatch.setattr(run, "optimize", optimize)
    return steps


def test_the_order_is_found_once_an_epoch(start, monkeypatch):
    run = start(batch_images=1, epochs=3)
    asked: list[int] = []
    monkeypatch.setattr(training, "epoch_order", lambda *given: asked.append(given[2]) or epoch_order(*given))
    monkeypatch.setattr(run, "optimize", lambda images: nudge(run, run.step))
    list(run.run())
    assert run.step == 12
    assert asked == [0, 1, 2]


def test_the_learning_rate_by_hand(start):
    """Ten steps, two of them warm-up, then half a cosine over the other eight."""
    run = start(epochs=5, lr=0.4)
    assert run.total_steps == 10
    rates = [run.learning_rate(step) for step in range(10)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.4])
    assert rates[4] == pytest.approx(0.4 * (2 + math.sqrt(2)) / 4)
    assert rates[6] == pytest.approx(0.2)
    assert rates[8] == pytest.approx(0.4 * (2 - math.sqrt(2)) / 4)
    assert rates[9] == pytest.approx(0.4 * 0.0380602, abs=1e-6)


def test_the_recorded_rate_is_the_one_of_the_step(start, undisturbed):
    run = start()
    assert values(undisturbed.history, "train/lr") == [run.learning_rate(step) for step in range(6)]
    used = []
    step = run.optimizer.step
    run.optimizer.step = lambda: used.append(run.optimizer.param_groups[0]["lr"]) or step()
    kill_after(run, 3)
    assert used == [run.learning_rate(0)]


@pytest.mark.parametrize(("images", "forwards"), [(1, 4), (2, 2)])
def test_gradients_of_several_forwards_equal_those_of_one(start, monkeypatch, images, forwards):
    """The images have different numbers of tokens: a mean of means would differ."""
    whole = start(batch_images=4, max_grad_norm=1e9)
    longest = max(len(packed.ids) for packed in packed_images(whole))
    parts = start(batch_images=4, batch_tokens=images * longest, max_grad_norm=1e9)
    assert len({len(sample.objects) for sample in whole.train}) > 1
    counts = [count_forwards(monkeypatch, run.engine.vlm) for run in (whole, parts)]
    for run in (whole, parts):
        trained_a_little(run)
    (loss, expected), (other_loss, found) = gradients(whole), gradients(parts)
    assert [len(count) for count in counts] == [1, forwards]
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


def packed_images(run: Training) -> list[Packed]:
    return [
        packed
        for image in captions_of(run.engine, run.train)
        for packed in packing.pack_image(image.prepared.conversations, run.engine.vlm.prompt_attention)
    ]


def test_gradients_are_those_of_the_mean_over_answer_tokens_and_clipped(start):
    run = start(batch_images=4, max_grad_norm=1e9)
    trained_a_little(run)
    losses: list[torch.Tensor] = []
    _, tokens = backward(run.engine, first_images(run), losses.append)
    assert tokens == sum(len(t.answer) for image in first_images(run) for t in image.prepared.conversations)
    (loss,) = losses
    expected = torch.autograd.grad(loss / tokens, list(run.parameters.values()))
    mean, found = gradients(run)
    assert mean == pytest.approx(loss.item() / tokens, rel=1e-6)
    for gradient, wanted in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-4)
    norm = torch.stack([gradient.norm() for gradient in expected]).norm()
    clipped = start(batch_images=4, max_grad_norm=float(norm) / 4)
    trained_a_little(clipped)
    for gradient, wanted in zip(gradients(clipped)[1].values(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted / 4, atol=1e-6, rtol=1e-3)
