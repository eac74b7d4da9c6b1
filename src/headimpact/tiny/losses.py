"""The losses of pretraining, and its figures on held-out scenes."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from headimpact.engine import likelihood
from headimpact.tiny.scene_conversations import SceneConversations, draw_question
from headimpact.tiny.seen_scenes import ATTRIBUTES, SeenScene, on_object, shown
from headimpact.vlm import packing
from headimpact.vlm.base import Vlm
from headimpact.vlm.packing import PackedImages

JUDGED_LAYER = 8
END_WEIGHT, BACKGROUND_WEIGHT = 0.1, 0.3


class Probes(nn.Module):
    """Linear readers of hidden states: attributes of a visual feature, and the truth of an option."""

    def __init__(self, width: int):
        super().__init__()
        self.attributes = nn.ModuleDict({name: nn.Linear(width, len(words) + 1) for name, words in ATTRIBUTES.items()})
        self.truth = nn.Linear(width, 1)

    def reading_loss(self, features: Sequence[Tensor], seen: Sequence[SeenScene]) -> Tensor:
        """Cross-entropy of reading every attribute from the visual tokens on an object, and a little of telling
        all tokens' colour from the background: most tokens show it."""
        tokens, of_things = torch.cat(list(features)), on_object(seen)
        loss = torch.zeros(())
        for name, reader in self.attributes.items():
            truth, read = shown(seen, name), reader(tokens)
            loss = loss + nn.functional.cross_entropy(read[of_things], truth[of_things])
            if name == "colour":
                loss = loss + BACKGROUND_WEIGHT * nn.functional.cross_entropy(read, truth)
        return loss

    def accuracy(self, features: Sequence[Tensor], seen: Sequence[SeenScene]) -> dict[str, float]:
        """Share of visual tokens on an object whose attributes are read right."""
        of_things = on_object(seen)
        tokens = torch.cat(list(features))[of_things]
        return {
            name: (reader(tokens).argmax(1) == shown(seen, name)[of_things]).float().mean().item()
            for name, reader in self.attributes.items()
        }

    def judging_loss(
        self,
        hidden: Float[Tensor, "batch tokens width"],
        packed: PackedImages,
        conversations: Sequence[SceneConversations],
    ) -> Tensor:
        """Binary cross-entropy of reading at the end of each option whether it is true."""
        rows, columns, truth = [], [], []
        places = dict(zip(packed.members, packed.places, strict=True))
        for image, of_scene in enumerate(conversations):
            for index, question in enumerate(of_scene.questions, len(of_scene.captions)):
                row, where = places[image, index]
                rows += [row] * len(question.ends)
                columns.append(where[question.ends])
                truth += [float(option == question.label) for option in range(len(question.ends))]
        read = self.truth(hidden[torch.tensor(rows), torch.cat(columns)])[:, 0]
        return nn.functional.binary_cross_entropy_with_logits(read, torch.tensor(truth))


@contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a module returns."""
    collected: list[Tensor] = []
    handle = module.register_forward_hook(lambda *call: collected.append(call[-1]))
    try:
        yield collected
    finally:
        handle.remove()


def conversation_loss(
    vlm: Vlm, probes: Probes, conversations: Sequence[SceneConversations], features: Sequence[Tensor]
) -> Tensor:
    """Mean NLL of the captions' tokens, plus that of the option labels, plus a little for ending the answer, plus
    the loss of judging each option."""
    packed = packing.pack_images([of_scene.tokens for of_scene in conversations], vlm.prompt_attention)
    with _outputs(vlm.decoder.layers[JUDGED_LAYER]) as judged:  # pyright: ignore
        embeddings = vlm.embeddings(packed.batch, [features[image] for image in packed.images])
        hidden = vlm.hidden_states(packed.batch, embeddings)
    picked = [tokens.answer for of_scene in conversations for tokens in of_scene.tokens]
    chosen = iter(likelihood.log_probabilities(vlm, packed, hidden, picked))
    caption_tokens, labels, ends = [], [], []
    for of_scene in conversations:
        caption_tokens += [next(chosen) for _ in of_scene.captions]
        for answer in [next(chosen) for _ in of_scene.questions]:
            labels.append(answer[:1])
            ends.append(answer[1:])
    log_likelihood = torch.cat(caption_tokens).mean() + torch.cat(labels).mean() + END_WEIGHT * torch.cat(ends).mean()
    return probes.judging_loss(judged[0], packed, conversations) - log_likelihood


def emission_loss(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Squared distance of the visual features to those that are wanted, as a share of their variance."""
    target = torch.cat(list(wanted)).detach()
    return nn.functional.mse_loss(torch.cat(list(features)), target) / target.var()


@torch.inference_mode()
def held_out_figures(vlm: Vlm, seen: Sequence[SeenScene], features: Sequence[Tensor], seed: int) -> dict[str, float]:
    """Accuracy on rich four-option questions, and perplexity of plain captions, on held-out scenes."""
    conversations, truth, labels = [], [], []
    for index, scene in enumerate(seen):
        options, label = draw_question(np.random.default_rng([seed, index]), scene.things, rich=True)
        question, ids = vlm.question_tokens(options, label, scene.encoded.grid)
        captions = [vlm.tokenize(vlm.caption(thing.plain), scene.encoded.grid) for thing in scene.things]
        conversations.append([*captions, question])
        labels += [None] * len(captions) + [ids]
        truth.append(label)
    packed = packing.pack_images(conversations, vlm.prompt_attention)
    embeddings = vlm.embeddings(packed.batch, [features[image] for image in packed.images])
    hidden = vlm.hidden_states(packed.batch, embeddings)
    options = likelihood.option_log_probabilities(vlm, packed, hidden, labels)
    targets = [
        tokens.target[: 0 if ids is not None else None]
        for tokens, ids in zip(itertools.chain(*conversations), labels, strict=True)
    ]
    phrases = torch.cat(likelihood.log_probabilities(vlm, packed, hidden, targets))
    correct = (options.argmax(1).cpu() == torch.tensor(truth)).float().mean()
    return {"accuracy": correct.item(), "perplexity": phrases.mean().neg().exp().item()}
