"""The questions about objects: their options, and that only seed and object decide them."""

from collections import Counter
from pathlib import Path

import numpy as np

from headimpact.data.samples import Sample, key_object
from headimpact.evaluation.questions import asked, draw_questions
from headimpact.text import normalise

MASK = np.ones((2, 2), dtype=bool)


def sample(image_id: int, *phrases: str) -> Sample:
    """An image that is never opened."""
    objects = [key_object(10 * image_id + i, phrase, MASK, 1.0) for i, phrase in enumerate(phrases)]
    return Sample(image_id, Path("none"), 2, 2, tuple(objects))


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


def test_few_phrases_give_fewer_options_and_none_gives_no_question():
    few = [sample(1, "a cat"), sample(2, "a dog", "the Dog"), sample(7, "an owl", "a cat", "dog")]
    questions = draw_questions(few, 0)
    assert {number: len(question.options) for number, question in questions.items()} == {10: 3, 20: 3, 21: 3}
    assert all(question.options[question.label] in ("a cat", "a dog", "the Dog") for question in questions.values())
    told = asked(few, questions)
    assert (told.questions, told.objects, told.usual) == (3, 6, False)
    assert str(told) == "3 of 3 options, 3 objects without (guessing is right in 0.333)"
    nothing = asked([sample(1, "cat"), sample(2, "a cat")], draw_questions([sample(1, "cat"), sample(2, "a cat")], 0))
    assert nothing.to_dict()["chance"] is None
    assert str(nothing).startswith("none: no image of 2 objects lacks")
    assert asked(ZOO, draw_questions(ZOO, 0)).usual


def test_options_are_different_in_any_script():
    for phrases in (("หมี", "หมู", "เสือ", "แมว"), ("C++", "C#", "C", "Go"), ("🐶", "🐱", "🐭", "🐹")):
        samples = [sample(i, phrase) for i, phrase in enumerate(phrases, start=1)]
        assert all(set(question.options) == set(phrases) for question in draw_questions(samples, 0).values())
