"""Evaluation against the obvious way."""

import math
from dataclasses import asdict, fields
from pathlib import Path

import obvious
import pytest
import torch

from headimpact.data import coco
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine.phrases import batches, phrase_nll
from headimpact.engine.watch import unwatched
from headimpact.evaluation.objects import ObjectResult, evaluate, evaluate_images
from headimpact.evaluation.questions import Question, draw_questions
from headimpact.tiny import bases
from headimpact.vlm.base import Vlm
from headimpact.vlm.conversations import OPTION_LABELS


def test_batches():
    five = [Sample(i, Path("never opened"), 2, 2, ()) for i in range(1, 6)]
    assert [[sample.id for sample in group] for group in batches(five, 2)] == [[1, 2], [3, 4], [5]]
    assert list(batches([], 2)) == []


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """Five images, among them one with a single object."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 1, "train": 1, "val": 1, "test": 5}, seed=0)
    test = coco.read_part(folder, "test")
    first = test[0]
    test[0] = Sample(first.id, first.path, first.width, first.height, first.objects[:1])
    assert max(len(one.objects) for one in test) >= 3
    return test


@pytest.fixture(scope="module", params=bases.TINY)
def vlm(request) -> Vlm:
    return bases.build(request.param, 3)


def shares(vlm: Vlm, question: Question, encoded) -> torch.Tensor:
    """The labels' shares of their own probability, each label tokenised in its place."""
    found = []
    for label in OPTION_LABELS:
        tokens = vlm.tokenize(vlm.question(question.options, label), encoded.grid)
        (place,) = tokens.target.tolist()
        found.append(obvious.log_probabilities(vlm, tokens, encoded)[place - 1, tokens.ids[place]].exp())
    return torch.stack(found) / sum(found)


def test_figures_equal_one_conversation_at_a_time(vlm, samples):
    questions = draw_questions(samples, 0)
    chosen = samples[:3]
    results = iter(evaluate_images(vlm, chosen, questions))
    for one in chosen:
        encoded = vlm.encode_image(one.image())
        for obj in one.objects:
            found, question = next(results), questions[obj.id]
            assert (found.image_id, found.object_id, found.phrase) == (one.id, obj.id, obj.phrase)
            tokens = vlm.tokenize(vlm.caption(obj.phrase), encoded.grid)
            assert found.tokens == len(tokens.target) > 0
            assert found.nll == pytest.approx(obvious.phrase_nll(vlm, obj.phrase, encoded), abs=1e-4)
            expected = shares(vlm, question, encoded)
            assert found.answer == question.label
            assert found.ans_prob == pytest.approx(float(expected[question.label]), abs=1e-4)
            best, second = expected.topk(2).values
            assert best - second > 1e-3  # nothing here is a tie
            assert found.chosen == int(expected.argmax())
            assert found.correct == (found.chosen == question.label)
    assert next(results, None) is None


def test_batches_of_other_sizes_give_the_same(vlm, samples):
    questions = draw_questions(samples, 0)
    together = evaluate_images(vlm, samples, questions)
    for size in (1, 2):
        groups = batches(samples, size)
        apart = [result for group in groups for result in evaluate_images(vlm, group, questions)]
        assert len(apart) == len(together)
        for a, b in zip(apart, together, strict=True):
            assert (a.object_id, a.tokens, a.chosen) == (b.object_id, b.tokens, b.chosen)
            assert a.nll == pytest.approx(b.nll, abs=1e-4)
            assert a.ans_prob == pytest.approx(b.ans_prob, abs=1e-4)


def test_phrases_alone_have_the_same_nll(vlm, samples):
    """The validation's way and the test's way, which packs questions beside the captions, agree."""
    questions = draw_questions(samples, 0)
    results = evaluate_images(vlm, samples, questions)
    for (one, obj, nll, tokens), result in zip(phrase_nll(vlm, samples), results, strict=True):
        assert (one.id, obj.id, tokens) == (result.image_id, result.object_id, result.tokens)
        assert nll == pytest.approx(result.nll, abs=1e-4)
        assert math.isfinite(nll)


def test_a_part_is_evaluated_batch_by_batch_one_row_an_object(samples):
    vlm, seen = bases.build("tiny-smolvlm", 3), []

    def watch(items, total, what):
        seen.append((total, what))
        return items

    table = evaluate(vlm, samples, 0, 2, watch)
    assert seen == [(3, "evaluating")]
    questions = draw_questions(samples, 0)
    expected = [asdict(r) for group in batches(samples, 2) for r in evaluate_images(vlm, group, questions)]
    assert table.to_dict("records") == expected
    assert list(table) == [field.name for field in fields(ObjectResult)]
    assert evaluate(vlm, samples, 1, 2, unwatched)["answer"].tolist() != table["answer"].tolist()
