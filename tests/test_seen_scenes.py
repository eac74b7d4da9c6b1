"""Generated scenes as a model sees them: what each visual token shows, and the same in words."""

import pytest
import torch

from headimpact.data import scenes
from headimpact.tiny import bases
from headimpact.tiny.seen_scenes import ATTRIBUTES, SEEN_THRESHOLD, in_words, see
from headimpact.vlm.base import Vlm


@pytest.fixture(scope="module", params=bases.TINY)
def vlm(request: pytest.FixtureRequest) -> Vlm:
    return bases.build(request.param, 0)


@pytest.fixture(scope="module")
def smolvlm() -> Vlm:
    return bases.build("tiny-smolvlm", 0)


def test_a_scene_is_seen_as_it_was_drawn(smolvlm):
    """What a visual token shows is the thing that covers most of it."""
    for scene_id in range(4):
        seen, scene = see(smolvlm, 7, scene_id), scenes.draw(7, scene_id)
        assert [thing.rich for thing in seen.things] == [thing.rich for thing in scene.things]
        covered = torch.stack([smolvlm.coverages([thing.mask])[0] for thing in scene.things]).numpy()
        assert covered.shape[1] == seen.encoded.grid.tokens
        for token in range(seen.encoded.grid.tokens):
            thing = scene.things[covered[:, token].argmax()]
            vertical, horizontal = thing.position.split()
            looks = [thing.colour, thing.shape, thing.texture, vertical, horizontal]
            is_shown = covered[:, token].max() >= SEEN_THRESHOLD
            for (name, words), word in zip(ATTRIBUTES.items(), looks, strict=True):
                assert seen.shown[name][token] == (words.index(word) if is_shown else len(words))
        assert (seen.shown["colour"] < len(scenes.COLOURS)).any()


def test_a_scene_in_words(vlm):
    """Each visual token is the sum of the embeddings of what it shows; without the image's pixels."""
    seen = see(vlm, 7, 1)
    with torch.no_grad():
        found = in_words(vlm, seen)
        for token in range(seen.encoded.grid.tokens):
            expected = torch.zeros(found.shape[1])
            for attribute, names in ATTRIBUTES.items():
                word = (*names, "no")[seen.shown[attribute][token]]
                (word_id,) = vlm.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
                expected += vlm.model.get_input_embeddings()(torch.tensor(word_id))
            torch.testing.assert_close(found[token], expected)
