"""What is said about a generated scene in pretraining: captions of its things, and questions with four options."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from headimpact.data import scenes
from headimpact.tiny.seen_scenes import SeenScene, word_ids
from headimpact.vlm.base import Vlm
from headimpact.vlm.conversations import OPTION_LABELS
from headimpact.vlm.packing import Tokens

RICH_CAPTION_SHARE = 0.1
RICH_QUESTION_SHARE = 0.7


@dataclass(frozen=True)
class Question:
    """A four-option question.

    Attributes:
        tokens: the conversation with the true answer.
        label: index of the true option.
        ends: index of each option's last token.
    """

    tokens: Tokens
    label: int
    ends: Int[Tensor, "options"]


@dataclass(frozen=True)
class SceneConversations:
    """Conversations about one scene."""

    captions: list[Tokens]
    questions: list[Question]

    @property
    def tokens(self) -> list[Tokens]:
        """All of them, captions first."""
        return [*self.captions, *(question.tokens for question in self.questions)]


def _random_phrase(rng: np.random.Generator, rich: bool) -> str:
    groups = (scenes.TEXTURES, scenes.COLOURS, scenes.SHAPES, scenes.VERTICALS, scenes.HORIZONTALS)
    texture, colour, shape, vertical, horizontal = (str(rng.choice(group)) for group in groups)
    return (
        scenes.rich_phrase(texture, colour, shape, vertical, horizontal) if rich else scenes.plain_phrase(colour, shape)
    )


def _mixed_phrase(rng: np.random.Generator, things: Sequence[scenes.Thing], rich: bool) -> str:
    """A phrase whose colour and shape come from two things of the scene: only binding tells it from a true one."""
    colours, shapes = ([getattr(thing, name) for thing in things] for name in ("colour", "shape"))
    texture, vertical, horizontal = (
        str(rng.choice(group)) for group in (scenes.TEXTURES, scenes.VERTICALS, scenes.HORIZONTALS)
    )
    colour, shape = str(rng.choice(colours)), str(rng.choice(shapes))
    return (
        scenes.rich_phrase(texture, colour, shape, vertical, horizontal) if rich else scenes.plain_phrase(colour, shape)
    )


def draw_question(rng: np.random.Generator, things: Sequence[scenes.Thing], rich: bool) -> tuple[list[str], int]:
    """Four options about a scene, one true, and the index of the true one. No other option has the colour and
    shape of a thing in the scene."""
    true = things[int(rng.integers(len(things)))]
    taken = [(thing.colour, thing.shape) for thing in things]
    options: list[str] = []
    while len(options) < 3:
        mixed = rng.random() < 0.3
        option = _mixed_phrase(rng, things, rich) if mixed else _random_phrase(rng, rich)
        words = option.split()
        if option not in options and not any(colour in words and shape in words for colour, shape in taken):
            options.append(option)
    label = int(rng.integers(4))
    options.insert(label, true.rich if rich else true.plain)
    return options, label


def draw_contrast(rng: np.random.Generator, things: Sequence[scenes.Thing], rich: bool) -> tuple[list[str], int]:
    """Four options about a scene, one true, and the index of the true one. Each other option differs from the true
    one in a single word, and is true of no thing in the scene."""
    true_here = {thing.rich if rich else thing.plain for thing in things}
    true = things[int(rng.integers(len(things)))]
    words = (true.rich if rich else true.plain).split()
    groups = (scenes.TEXTURES, scenes.COLOURS, scenes.SHAPES, scenes.VERTICALS, scenes.HORIZONTALS)
    options: list[str] = []
    while len(options) < 3:
        changed = list(words)
        place = int(rng.integers(0 if rich else 1, len(words)))
        group = next(group for group in groups if words[place] in group)
        changed[place] = str(rng.choice(group))
        option = " ".join(changed)
        if option not in true_here and option not in options:
            options.append(option)
    label = int(rng.integers(4))
    options.insert(label, " ".join(words))
    return options, label


def _ask(vlm: Vlm, scene: SeenScene, rng: np.random.Generator, contrast: bool) -> Question:
    draw = draw_contrast if contrast else draw_question
    options, label = draw(rng, scene.things, rng.random() < RICH_QUESTION_SHARE)
    tokens = vlm.tokenize(vlm.question(options, OPTION_LABELS[label]), scene.encoded.grid)
    return Question(tokens, label, option_ends(vlm, tokens, options))


def option_ends(vlm: Vlm, tokens: Tokens, options: Sequence[str]) -> Int[Tensor, "options"]:
    """Index of the last token of each option, in their order in the conversation."""
    ids, ends, start = tokens.ids.tolist(), [], 0
    for option in options:
        words = word_ids(vlm, option)
        start = next(at for at in range(start, len(ids)) if ids[at : at + len(words)] == words) + len(words)
        ends.append(start - 1)
    return torch.tensor(ends)


def converse(
    vlm: Vlm, scene: SeenScene, rng: np.random.Generator, questions: int, contrast_share: float
) -> SceneConversations:
    """Captions of every thing, and some questions, about one scene."""
    captions = [
        vlm.tokenize(vlm.caption(thing.rich if rng.random() < RICH_CAPTION_SHARE else thing.plain), scene.encoded.grid)
        for thing in scene.things
    ]
    return SceneConversations(
        captions, [_ask(vlm, scene, rng, rng.random() < contrast_share) for _ in range(questions)]
    )
