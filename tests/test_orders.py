"""Questions in every order: the statistics by hand and by loops, the packed way against one question a forward."""

import itertools

import numpy as np
import obvious
import pandas as pd
import pytest
import torch
from engines import engine_of
from family_facts import EMBEDDED, fresh

from headimpact.data import coco
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine.watch import unwatched
from headimpact.errors import InputError
from headimpact.evaluation import beside_original, objects, orders
from headimpact.evaluation.orders import ORDERS, answer_orders, ask_in_orders
from headimpact.evaluation.questions import Question, draw_questions
from headimpact.text import normalise
from headimpact.vlm.base import Vlm


def asked(by_option: np.ndarray, by_label: np.ndarray) -> np.ndarray:
    """Log-probabilities that add what an option and what a label is worth: objects x orders x labels."""
    return by_option[:, ORDERS] + by_label


def test_all_orders_begin_with_the_one_that_was_drawn():
    assert ORDERS.tolist() == [list(order) for order in itertools.permutations(range(4))]
    assert ORDERS[0].tolist() == [0, 1, 2, 3]


def test_a_model_that_sees_the_options_alone_has_no_order_bias():
    by_option = np.log([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    found = answer_orders(asked(by_option, np.zeros(4)), ORDERS, np.array([0, 1]))
    assert found.correct.tolist() == [1, 0]
    assert not found.changed.any()
    np.testing.assert_allclose(found.ans_prob, [0.4, 0.2])
    np.testing.assert_allclose(found.label_prob, 0.25)


def test_a_model_that_sees_the_labels_alone_is_at_chance_and_changes_its_answer():
    by_label = np.log([0.7, 0.1, 0.1, 0.1])
    found = answer_orders(asked(np.zeros((3, 4)), by_label), ORDERS, np.array([0, 1, 3]))
    assert found.correct.tolist() == [0.25] * 3
    assert found.changed.all()
    np.testing.assert_allclose(found.ans_prob, 0.25)
    np.testing.assert_allclose(found.label_prob, [[0.7, 0.1, 0.1, 0.1]] * 3)


def test_answers_over_orders_by_loops():
    rng = np.random.default_rng(6)
    logits = asked(rng.normal(size=(30, 4)), rng.normal(0, 0.5, 4)) + rng.normal(0, 0.3, (30, 24, 4))
    truth = rng.integers(0, 4, 30)
    found = answer_orders(logits, ORDERS, truth)
    for i in range(30):
        chosen, right = [], []
        for row, order in zip(logits[i], ORDERS.tolist(), strict=True):
            shares = np.exp(row) / np.exp(row).sum()
            chosen.append(order[int(shares.argmax())])
            right.append(shares[order.index(truth[i])])
        assert found.correct[i] == pytest.approx(chosen.count(truth[i]) / 24)
        assert found.ans_prob[i] == pytest.approx(sum(right) / 24)
        assert found.changed[i] == (len(set(chosen)) > 1)
    assert 0 < found.changed.mean() < 1


def test_orders_that_do_not_fit_are_refused():
    logits, truth = np.zeros((2, 24, 4)), np.array([0, 3])
    with pytest.raises(InputError, match=r"of 2 objects x 24 orders x 4 labels do not fit 6 orders of 4 options and 2"):
        answer_orders(logits, ORDERS[:6], truth)
    with pytest.raises(InputError, match=r"Every order must hold each option from 0 to 3 once\."):
        answer_orders(logits, np.zeros((24, 4), dtype=int), truth)
    with pytest.raises(InputError, match=r"The true option must be one of 0 to 3\."):
        answer_orders(logits, ORDERS, np.array([0, 4]))
    with pytest.raises(InputError, match=r"A log-probability of object 1 \(counted from 0\) is not a finite number\."):
        answer_orders(np.where(np.arange(2)[:, None, None] == 1, np.nan, logits), ORDERS, truth)


# ---- models


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 1, "train": 1, "val": 1, "test": 60}, seed=0)
    return coco.read_part(folder, "test")


@pytest.fixture(scope="module", params=EMBEDDED)
def vlm(request) -> Vlm:
    return fresh(request.param)


def test_distractors_are_never_true_of_the_image_in_the_embedded_dataset(samples: list[Sample]):
    questions = draw_questions(samples, 0)
    for sample in samples:
        true_here = {normalise(obj.phrase) for obj in sample.objects}
        for obj in sample.objects:
            question = questions[obj.id]
            false = [option for i, option in enumerate(question.options) if i != question.label]
            assert len({normalise(option) for option in false} - true_here) == 3
            assert question.options[question.label] == obj.phrase


def test_packed_orders_equal_one_conversation_at_a_time(vlm: Vlm, samples: list[Sample]):
    questions = draw_questions(samples, 0)
    chosen = sorted(samples, key=lambda sample: len(sample.objects))[:2]
    found = ask_in_orders(engine_of(vlm), chosen, questions)
    assert found.shape == (sum(len(sample.objects) for sample in chosen), 24, 4)
    # The last object: its sequence is not the first of the batch, its image not the first of the images.
    sample, obj = chosen[-1], chosen[-1].objects[-1]
    encoded, question = vlm.encode_image(sample.image()), questions[obj.id]
    for row in (9, 23):
        options = [question.options[i] for i in ORDERS[row]]
        tokens, ids = vlm.question_tokens(options, 2, encoded.grid)
        expected = obvious.log_probabilities(vlm, tokens, encoded)[int(tokens.target[0]) - 1, ids]
        torch.testing.assert_close(torch.from_numpy(found[-1, row]), expected, atol=1e-4, rtol=0)


def test_figures_are_those_of_asking_again_in_every_order(vlm: Vlm, samples: list[Sample], monkeypatch):
    """The slow path: the evaluation of the single order, once for each order of the options."""
    chosen = [min(samples, key=lambda sample: len(sample.objects))]
    questions, engine = draw_questions(samples, 0), engine_of(vlm)

    def evaluated(asked: dict[int, Question]) -> pd.DataFrame:
        monkeypatch.setattr(objects, "draw_questions", lambda samples, seed: asked)
        return objects.evaluate(engine, chosen, 0, unwatched)

    table = orders.table(chosen, questions, ask_in_orders(engine, chosen, questions))
    single = evaluated(questions)
    assert table["object_id"].tolist() == single["object_id"].tolist()
    assert table["correct_one"].tolist() == single["correct"].astype(float).tolist()
    np.testing.assert_allclose(table["ans_prob_one"], single["ans_prob"], atol=1e-4)
    probabilities = np.zeros((len(table), 24))
    for column, order in enumerate(ORDERS.tolist()):
        turned = {
            key: Question(tuple(q.options[i] for i in order), order.index(q.label)) for key, q in questions.items()
        }
        probabilities[:, column] = evaluated(turned)["ans_prob"]
    np.testing.assert_allclose(table["ans_prob_all"], probabilities.mean(1), atol=1e-4)
    np.testing.assert_allclose(table[[f"label_{label}" for label in "ABCD"]].sum(axis=1), 1)


def test_figures_are_indexed_by_image(samples: list[Sample]):
    questions, chosen = draw_questions(samples, 0), samples[:3]
    count = sum(len(sample.objects) for sample in chosen)
    by_option = np.zeros((count, 4))
    by_option[np.arange(count), [questions[obj.id].label for s in chosen for obj in s.objects]] = 3.0
    found = beside_original.order_figures(orders.table(chosen, questions, asked(by_option, np.zeros(4))))
    assert found["accuracy_24_orders"].index.tolist() == [s.id for s in chosen for _ in s.objects]
    assert found["accuracy_24_orders"].tolist() == found["accuracy_1_order"].tolist() == [1.0] * count
    assert found["order_dependent"].tolist() == [0.0] * count
    assert {"ans_prob_24_orders", "ans_prob_1_order", "label_A", "label_D"} < set(found)
