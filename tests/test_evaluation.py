"""Evaluation against the obvious way, and the questions it asks."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import obvious
import pytest
import torch

from headimpact.data import coco
from headimpact.data.samples import Sample, key_object
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine import phrases
from headimpact.engine.phrases import phrase_nll
from headimpact.errors import InputError
from headimpact.evaluation import objects
from headimpact.evaluation.objects import draw_questions, evaluate_images
from headimpact.text import normalise
from headimpact.tiny import bases
from headimpact.vlm.base import OPTION_LABELS, Vlm

MASK = np.ones((2, 2), dtype=bool)


def sample(image_id: int, *phrases: str) -> Sample:
    """An image that is never opened."""
    objects = [key_object(10 * image_id + i, phrase, MASK, 1.0) for i, phrase in enumerate(phrases)]
    return Sample(image_id, Path("none"), 2, 2, tuple(objects))


# ---- questions

ZOO = [
    sample(1, "a red cat", "The dog."),
    sample(2, "RED CAT!", "an owl", "blue bird"),
    sample(3, "dog", "yellow fish", "grey mouse"),
    sample(4, "big bear", "owl"),
]


def test_a_question_holds_the_phrase_and_three_others_that_are_not_true_of_the_image():
    for seed in range(30):
        questions = draw_questions(ZOO, seed)
        assert set(questions) == {obj.id for one in ZOO for obj in one.objects}
        for one in ZOO:
            true_here = {normalise(obj.phrase) for obj in one.objects}
            for obj in one.objects:
                question = questions[obj.id]
                assert len(question.options) == 4
                assert question.options[question.label] == obj.phrase
                others = [normalise(o) for i, o in enumerate(question.options) if i != question.label]
                assert len(set(others)) == 3
                assert not true_here & set(others)


def test_questions_depend_on_seed_and_object_alone():
    questions = draw_questions(ZOO, 0)
    np.random.seed(5)
    assert draw_questions(ZOO[::-1], 0) == questions
    assert draw_questions(ZOO, 1) != questions
    turned = [Sample(s.id, s.path, 2, 2, s.objects[::-1]) for s in ZOO]
    assert draw_questions(turned, 0) == questions


def test_label_positions_and_distractors_are_drawn_evenly():
    """400 objects, each position expected 100 times with a standard deviation of 8.7."""
    samples = [sample(i, f"thing {i % 20}") for i in range(1, 401)]
    questions = draw_questions(samples, 0)
    labels = Counter(question.label for question in questions.values())
    assert sorted(labels) == [0, 1, 2, 3]
    assert all(70 <= count <= 130 for count in labels.values())
    offered = Counter(o for q in questions.values() for i, o in enumerate(q.options) if i != q.label)
    assert len(offered) == 20
    assert all(30 <= count <= 90 for count in offered.values())  # 60 expected


def test_too_few_phrases_are_refused():
    few = [sample(1, "a cat"), sample(2, "a dog", "the Dog"), sample(7, "an owl")]
    with pytest.raises(InputError, match=r"Too few different phrases to ask about image 1: 2 false ones"):
        draw_questions(few, 0)


def test_batches():
    groups = phrases.batches([*ZOO, sample(5)], 2)
    assert [[one.id for one in group] for group in groups] == [[1, 2], [3, 4], [5]]
    assert list(phrases.batches([], 2)) == []


# ---- figures


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


def shares(vlm: Vlm, question: objects.Question, encoded) -> torch.Tensor:
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
        groups = phrases.batches(samples, size)
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
