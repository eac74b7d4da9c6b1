"""A generated scene as a model sees it: what each of its visual tokens shows, as classes and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headimpact.data import scenes
from headimpact.vlm.base import EncodedImage, Vlm

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": scenes.COLOURS,
    "shape": scenes.SHAPES,
    "texture": scenes.TEXTURES,
    "vertical": scenes.VERTICALS,
    "horizontal": scenes.HORIZONTALS,
}
BACKGROUND = "no"
# Covered share of its pixels from which a visual token shows a thing.
SEEN_THRESHOLD = 0.35


@dataclass(frozen=True)
class SeenScene:
    """A scene as the model takes it, and what each visual token shows.

    Attributes:
        shown: per attribute the index of its word; one past the last word where the token shows background.
    """

    things: tuple[scenes.Thing, ...]
    encoded: EncodedImage
    shown: Mapping[str, Int[Tensor, "tokens"]]


def see(vlm: Vlm, seed: int, scene_id: int) -> SeenScene:
    """Draw a scene and find what each visual token shows: the thing that covers most of it, if it covers enough."""
    scene = scenes.draw(seed, scene_id)
    encoded = vlm.encode_image(scene.image)
    best, which = vlm.coverages([thing.mask for thing in scene.things]).max(dim=0)
    looks = [(thing.colour, thing.shape, thing.texture, *thing.position.split()) for thing in scene.things]
    visible = {}
    for place, (name, words) in enumerate(ATTRIBUTES.items()):
        classes = torch.tensor([words.index(of_thing[place]) for of_thing in looks])
        visible[name] = torch.where(best >= SEEN_THRESHOLD, classes[which], len(words))
    return SeenScene(scene.things, encoded, visible)


def shown(seen: Sequence[SeenScene], attribute: str) -> Int[Tensor, "tokens"]:
    """An attribute of what all visual tokens of some scenes show (:attr:`SeenScene.shown`)."""
    return torch.cat([scene.shown[attribute] for scene in seen])


def on_object(seen: Sequence[SeenScene]) -> Bool[Tensor, "tokens"]:
    """Which of all visual tokens of some scenes show a thing."""
    return shown(seen, "colour") < len(scenes.COLOURS)


def word_ids(vlm: Vlm, phrase: str) -> list[int]:
    """Tokens of a phrase within a sentence; every word of the scenes is one."""
    return vlm.tokenizer(f" {phrase}", add_special_tokens=False)["input_ids"]


def in_words(vlm: Vlm, scene: SeenScene) -> Float[Tensor, "tokens width"]:
    """What the decoder reads in the place of the visual tokens: the sum of the embeddings of what each shows."""
    embeddings = vlm.model.get_input_embeddings()
    ids = [
        torch.tensor([word_ids(vlm, word)[0] for word in (*words, BACKGROUND)])[scene.shown[name]]
        for name, words in ATTRIBUTES.items()
    ]
    return embeddings(torch.stack(ids)).sum(dim=0)
