"""Evaluation against the obvious way."""

import math
from dataclasses import fields

import obvious
import pytest
import torch
from engines import captions_of, count_forwards, engine_of
from family_facts import EMBEDDED, fresh

from headimpact.data import coco
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine.phrases import phrase_nll
from headimpact.engine.watch import unwatched
from headimpact.evaluation.objects import ObjectResult, evaluate
from headimpact.evaluation.questions import Question, draw_questions
from headimpact.vlm.base import Vlm
from headimpact.vlm.conversations import OPTION_LABELS


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """Five images, among them one with a single object."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 1, "train": 1, "val": 1, "test": 5}, seed=0)
    test = list(coco.read_part(folder, "test"))
    first = test[0]
    test[0] = Sample(first.id, first.path, first.width, first.height, first.objects[:1])
    assert max(len(one.objects) for one in test) >= 3
    return test


# Random weights with which no two options of a question are about as likely.
SEEDS = {"idefics3": 0, "paligemma": 3, "qwen2_vl": 3}


@pytest.fixture(scope="module", params=EMBEDDED)
def vlm(request) -> Vlm:
    return fresh(request.param, SEEDS[request.param])


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
    table = evaluate(engine_of(vlm), samples, 0, unwatched)
    assert len(table) == sum(len(one.objects) for one in samples)
    results = table.itertuples()
    for one in samples[:3]:
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


def test_forwards_of_other_sizes_give_the_same(vlm, samples, monkeypatch):
    forwards = count_forwards(monkeypatch, vlm)
    together = evaluate(engine_of(vlm), samples, 0, unwatched)
    counts = [len(forwards)]
    for tokens in (1000, 1):
        forwards.clear()
        apart = evaluate(engine_of(vlm, tokens), samples, 0, unwatched)
        counts.append(len(forwards))
        for name in ("object_id", "tokens", "chosen"):
            assert apart[name].tolist() == together[name].tolist()
        assert apart["nll"].to_numpy() == pytest.approx(together["nll"].to_numpy(), abs=1e-4)
        assert apart["ans_prob"].to_numpy() == pytest.approx(together["ans_prob"].to_numpy(), abs=1e-4)
    assert counts[0] < counts[1] < counts[2]


def test_phrases_alone_have_the_same_nll(vlm, samples):
    """The validation's way and the test's way, which packs questions beside the captions, agree."""
    engine = engine_of(vlm)
    results = evaluate(engine, samples, 0, unwatched).itertuples()
    phrases = phrase_nll(engine, captions_of(engine, samples))
    for (one, obj, nll, tokens), result in zip(phrases, results, strict=True):
        assert (one.id, obj.id, tokens) == (result.image_id, result.object_id, result.tokens)
        assert nll == pytest.approx(result.nll, abs=1e-4)
        assert math.isfinite(nll)


def test_a_part_is_evaluated_image_by_image_one_row_an_object(samples):
    engine, seen, watched = engine_of(fresh("idefics3")), [], []

    def watch(items, total, what):
        seen.append((total, what))
        for item in items:
            watched.append(item)
            yield item

    table = evaluate(engine, samples, 0, watch)
    assert seen == [(5, "evaluating")]
    assert len(watched) == 5
    assert list(table) == [field.name for field in fields(ObjectResult)]
    expected = [(one.id, obj.id, obj.phrase) for one in samples for obj in one.objects]
    assert list(table[["image_id", "object_id", "phrase"]].itertuples(index=False, name=None)) == expected
    questions = draw_questions(samples, 0)
    assert table["answer"].tolist() == [questions[obj.id].label for one in samples for obj in one.objects]
    assert evaluate(engine, samples, 0, unwatched).equals(table)
    assert evaluate(engine, samples, 1, unwatched)["answer"].tolist() != table["answer"].tolist()
