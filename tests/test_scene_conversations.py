"""What is said about generated scenes: no question lies, and exactly one option is true."""

import collections
from functools import cache

import numpy as np
import pytest

from headimpact.data import scenes
from headimpact.tiny import bases
from headimpact.tiny.scene_conversations import converse, draw_contrast, draw_question, option_ends
from headimpact.tiny.seen_scenes import see
from headimpact.vlm.base import Vlm


@pytest.fixture(scope="module", params=bases.TINY)
def vlm(request: pytest.FixtureRequest) -> Vlm:
    return bases.build(request.param, 0)


@pytest.fixture(scope="module")
def smolvlm() -> Vlm:
    return bases.build("tiny-smolvlm", 0)


def test_where_the_options_end(vlm):
    seen = see(vlm, 7, 1)
    options = ["a red circle", "a red ring", "a blue circle", "a red star"]
    tokens = vlm.tokenize(vlm.question(options, "B"), seen.encoded.grid)
    ends = option_ends(vlm, tokens, options)
    assert [vlm.tokenizer.decode(tokens.ids[end]).strip() for end in ends] == ["circle", "ring", "circle", "star"]
    assert (ends.diff() > 0).all()
    assert ends[-1] < tokens.answer[0]


@cache
def things_of(scene_id: int) -> tuple[scenes.Thing, ...]:
    return scenes.draw(7, scene_id).things


def words(option: str, vocabulary: tuple[str, ...]) -> str:
    (found,) = set(option.split()) & set(vocabulary)
    return found


@pytest.mark.parametrize("rich", [False, True])
def test_exactly_one_option_is_true(rich):
    labels = collections.Counter()
    mixed = 0
    for scene_id in range(25):
        things = things_of(scene_id)
        here = {(thing.colour, thing.shape) for thing in things}
        for draw in range(16):
            options, label = draw_question(np.random.default_rng([scene_id, draw]), things, rich)
            assert len(set(options)) == 4
            assert options[label] in {thing.rich if rich else thing.plain for thing in things}
            for index, option in enumerate(options):
                colour, shape = words(option, scenes.COLOURS), words(option, scenes.SHAPES)
                assert ((colour, shape) in here) == (index == label)
                assert len(option.split()) == (5 if rich else 3)
                colours, shapes = ({getattr(thing, a) for thing in things} for a in ("colour", "shape"))
                mixed += index != label and colour in colours and shape in shapes
            labels[label] += 1
    # 400 questions: each place expected 100 times with a standard deviation of 8.7.
    assert all(70 <= labels[label] <= 130 for label in range(4))
    assert mixed > 50  # only who binds colour and shape can tell


@pytest.mark.parametrize("rich", [False, True])
def test_contrasting_options_differ_from_the_truth_in_a_word(rich):
    groups = (scenes.TEXTURES, scenes.COLOURS, scenes.SHAPES, scenes.VERTICALS, scenes.HORIZONTALS)
    changed = set()
    for scene_id in range(25):
        things = things_of(scene_id)
        true_here = {thing.rich if rich else thing.plain for thing in things}
        for draw in range(8):
            options, label = draw_contrast(np.random.default_rng([scene_id, draw]), things, rich)
            assert len(set(options)) == 4
            assert [index for index, option in enumerate(options) if option in true_here] == [label]
            for option in options[:label] + options[label + 1 :]:
                pairs = zip(option.split(), options[label].split(), strict=True)
                ((other, word),) = [(a, b) for a, b in pairs if a != b]
                (group,) = [group for group in groups if word in group]
                assert other in group
                changed.add(group)
    assert changed == set(groups if rich else (scenes.COLOURS, scenes.SHAPES))


@pytest.mark.parametrize("contrast", [0.0, 1.0])
def test_conversations_say_what_is_there(contrast, smolvlm):
    seen = see(smolvlm, 7, 1)
    true = {phrase for thing in seen.things for phrase in (thing.plain, thing.rich)}
    for seed in range(5):
        conversations = converse(smolvlm, seen, np.random.default_rng(seed), 3, contrast)
        assert len(conversations.captions) == len(seen.things)
        assert len(conversations.questions) == 3
        assert all(target(smolvlm, tokens) in true for tokens in conversations.captions)
        for question in conversations.questions:
            label = target(smolvlm, question.tokens)
            assert label == "ABCD"[question.label]
            prompt = smolvlm.tokenizer.decode(question.tokens.ids[: question.tokens.prompt_length])
            options = dict(zip("ABCD", split_options(prompt), strict=True))
            assert options[label] in true
            assert not {o for name, o in options.items() if name != label} & true


def target(vlm, tokens) -> str:
    return vlm.tokenizer.decode(tokens.ids[tokens.target]).strip()


def split_options(prompt: str) -> list[str]:
    listed = prompt.split("A) ")[1].split("<")[0]
    for name in "BCD":
        listed = listed.replace(f" {name}) ", "|")
    return [option.strip() for option in listed.split("|")]
