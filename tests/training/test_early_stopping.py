"""Validation, when training ends, and which weights are kept."""

import math

import obvious
import pytest
from engines import engine_of
from family_facts import tiny
from training_runs import Script, nudge, prepare, same, values, weights

from headimpact.adapters import training
from headimpact.adapters.training import validation_perplexity
from headimpact.errors import InputError


def test_validation_perplexity_is_equation_3(parts):
    vlm = tiny("idefics3")
    _, val = parts
    engine = engine_of(vlm)
    found = validation_perplexity(engine, val)
    nll = []
    for sample in val:
        encoded = vlm.encode_image(sample.image())
        nll += [obvious.phrase_nll(vlm, obj.phrase, encoded) for obj in sample.objects]
    assert found == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-4)
    engine = engine_of(vlm, batch_tokens=1)
    assert validation_perplexity(engine, val) == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("nll", [800.0, math.nan, math.inf])
def test_a_perplexity_beyond_numbers_is_infinite(start, monkeypatch, nll):
    monkeypatch.setattr(training, "phrase_nll", lambda engine, images: [(None, None, 1.0, 3), (None, None, nll, 3)])
    run = start()
    assert validation_perplexity(run.engine, run.val) == (math.exp(400.5) if nll == 800 else math.inf)
    monkeypatch.setattr(training, "phrase_nll", lambda engine, images: [(None, None, nll, 3)])
    assert validation_perplexity(run.engine, run.val) == math.inf


def test_the_first_validation_is_the_bases_own(parts, undisturbed):
    engine = engine_of(tiny("idefics3"))
    expected = validation_perplexity(engine, parts[1])
    assert undisturbed.history[0].metric == "val/perplexity"
    assert undisturbed.history[0].value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("patience", "perplexities", "best"),
    [
        # The first is the base's: better than all that follows, yet never kept.
        (2, [1, 5, 4, 6, 7], 2),  # two after the best: stopped before the end
        (2, [9, 5, 6, 4, 5, 3, 2], 6),  # one worse in between is no reason
        (1, [9, 5, 5], 1),  # no better is not better
        (3, [9, 4, 5, 5, 5], 1),
        (2, [9, 8, 7, 6, 5, 4, 3], 6),  # better to the end
        (2, [9, 8, 7, 6, 6.5, 6.2], 3),
        (2, [9, math.inf, 5, math.inf, 6], 2),  # a bad moment
    ],
)
def test_early_stopping_and_the_best_weights(start, monkeypatch, patience, perplexities, best):
    run = start(patience=patience, evals_per_epoch=2)
    script = Script(run, *perplexities)
    monkeypatch.setattr(training, "validation_perplexity", script)
    monkeypatch.setattr(run, "optimize", lambda images: nudge(run, run.step))
    history = list(run.run())
    assert values(history, "val/perplexity") == perplexities
    assert run.step == len(perplexities) - 1
    assert run.stopped_early == (run.step < 6)
    assert not same(script.seen[best], script.seen[best - 1])
    assert same(weights(run), script.seen[best])


def test_a_run_that_diverges_says_so(start, monkeypatch):
    run = start(patience=2, evals_per_epoch=2, lr=0.5)
    monkeypatch.setattr(training, "validation_perplexity", Script(run, 9.0, *[math.inf] * 3))
    with pytest.raises(InputError, match=r"not finite in any of 3 validations. Lower train.lr \(it is 0.5\)"):
        list(run.run())


def test_a_learning_rate_beyond_reason_diverges(start):
    with pytest.raises(InputError, match=r"Training diverged.*Lower train\.lr"):
        list(start(lr=1e30, epochs=1, max_grad_norm=1e30).run())


@pytest.mark.parametrize("empty", [0, 1])
def test_a_part_without_images_is_refused(parts, tmp_path, empty):
    emptied = [[] if index == empty else part for index, part in enumerate(parts)]
    with pytest.raises(InputError, match="train and val: one has none"):
        prepare(emptied, tmp_path / "state")
