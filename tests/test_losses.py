"""The losses of pretraining against one conversation at a time, and by hand."""

import numpy as np
import obvious
import pytest
import torch

from headimpact.data import scenes
from headimpact.tiny import bases
from headimpact.tiny.losses import (
    BACKGROUND_WEIGHT,
    END_WEIGHT,
    JUDGED_LAYER,
    Probes,
    conversation_loss,
    emission_loss,
    held_out_figures,
)
from headimpact.tiny.scene_conversations import converse, draw_question
from headimpact.tiny.seen_scenes import see
from headimpact.vlm.base import Vlm
from headimpact.vlm.conversations import OPTION_LABELS


@pytest.fixture(scope="module", params=bases.TINY)
def vlm(request: pytest.FixtureRequest) -> Vlm:
    return bases.build(request.param, 0)


@pytest.fixture(scope="module")
def smolvlm() -> Vlm:
    return bases.build("tiny-smolvlm", 0)


def test_the_loss_is_that_of_one_conversation_at_a_time():
    vlm = bases.build("tiny-paligemma2", 0)
    torch.manual_seed(0)
    probes = Probes(vlm.text_config.hidden_size)
    seen = [see(vlm, 7, scene_id) for scene_id in (1, 2)]
    conversations = [converse(vlm, scene, np.random.default_rng(0), 2, 0.0) for scene in seen]
    captions, labels, ends, judged = [], [], [], []
    with torch.no_grad():
        features = vlm.image_features([scene.encoded for scene in seen])
        found = conversation_loss(vlm, probes, conversations, features).item()
        for scene, of_scene in zip(seen, conversations, strict=True):
            for index, tokens in enumerate(of_scene.tokens):
                logs = obvious.log_probabilities(vlm, tokens, scene.encoded)
                nll = [-float(logs[t - 1, tokens.ids[t]]) for t in tokens.answer]
                if index < len(of_scene.captions):
                    captions += nll
                    continue
                labels.append(nll[0])
                ends += nll[1:]
                question = of_scene.questions[index - len(of_scene.captions)]
                inputs = vlm.native_inputs(tokens, scene.encoded)
                # The states before the first layer come first.
                states = vlm.model(**inputs, output_hidden_states=True).hidden_states[JUDGED_LAYER + 1]
                for option, end in enumerate(question.ends):
                    chance = torch.sigmoid(probes.truth(states[0, end]))[0]
                    judged.append(-float(torch.log(chance if option == question.label else 1 - chance)))
    expected = np.mean(captions) + np.mean(labels) + END_WEIGHT * np.mean(ends) + np.mean(judged)
    assert found == pytest.approx(expected, abs=1e-3)


def test_figures_equal_one_conversation_at_a_time(vlm):
    seen = [see(vlm, 7, scene_id) for scene_id in (1, 2)]
    with torch.no_grad():
        features = vlm.image_features([scene.encoded for scene in seen])
    found = held_out_figures(vlm, seen, features, 5)
    nll, right = [], []
    for index, scene in enumerate(seen):
        for thing in scene.things:
            tokens = vlm.tokenize(vlm.caption(thing.plain), scene.encoded.grid)
            logs = obvious.log_probabilities(vlm, tokens, scene.encoded)
            nll += [-float(logs[t - 1, tokens.ids[t]]) for t in tokens.target]
        options, label = draw_question(np.random.default_rng([5, index]), scene.things, rich=True)
        chances = []
        for name_of_option in OPTION_LABELS:
            tokens = vlm.tokenize(vlm.question(options, name_of_option), scene.encoded.grid)
            (place,) = tokens.target.tolist()
            logs = obvious.log_probabilities(vlm, tokens, scene.encoded)
            chances.append(float(logs[place - 1, tokens.ids[place]]))
        right.append(int(np.argmax(chances)) == label)
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(nll)), rel=1e-3)
    assert found["accuracy"] == pytest.approx(np.mean(right))


def test_the_losses_of_seeing_by_hand(smolvlm):
    """Every attribute read from the tokens on an object, the colour a little from all of them."""
    torch.manual_seed(0)
    probes = Probes(smolvlm.text_config.hidden_size)
    seen = [see(smolvlm, 7, scene_id) for scene_id in (1, 2)]
    features = [torch.randn(scene.encoded.grid.tokens, 96) for scene in seen]
    expected = 0.0
    with torch.no_grad():
        for name, reader in probes.attributes.items():
            on_object, everywhere, right = [], [], []
            for rows, scene in zip(features, seen, strict=True):
                for row, truth, colour in zip(rows, scene.shown[name], scene.shown["colour"], strict=True):
                    nll = -float(reader(row).log_softmax(0)[truth])
                    everywhere.append(nll)
                    if colour < len(scenes.COLOURS):
                        on_object.append(nll)
                        right.append(bool(reader(row).argmax() == truth))
            assert 0 < len(on_object) < len(everywhere)
            expected += np.mean(on_object) + (BACKGROUND_WEIGHT * np.mean(everywhere)) * (name == "colour")
            assert probes.accuracy(features, seen)[name] == pytest.approx(np.mean(right))
        assert float(probes.reading_loss(features, seen)) == pytest.approx(expected, abs=1e-4)


def test_the_loss_of_emitting_is_a_share_of_the_variance():
    wanted = [torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, 0.0]])]  # variance 4 / 3
    features = [tensor + 1.0 for tensor in wanted]
    assert float(emission_loss(features, wanted)) == pytest.approx(0.75)
    assert float(emission_loss(wanted, wanted)) == 0
