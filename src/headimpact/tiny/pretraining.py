"""Pretraining of the tiny bases on generated scenes, in three phases.

1. ``language``: the decoder learns to describe and to choose, reading *words* in the place of the visual tokens: the
   sum of its own embeddings of the words for what each visual token shows. No vision tower runs.
2. ``vision``: the vision tower learns to emit what the decoder has learned to read.
3. ``joint``: everything together on real pixels; some questions have options that differ from the truth in a single
   word, so that every attribute has to be seen.

Two linear probes speed this up and are thrown away at the end: one reads the attributes from a visual feature, one
reads from the middle of the decoder, at the end of each option, whether the option is true. Weight matrices are
trained by Muon, everything else by AdamW. No scene is shown twice.

Every random draw derives from (seed, phase, step), so that a run that is killed and resumed ends with the same bytes.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headimpact.data import scenes
from headimpact.engine import checkpoints, likelihood
from headimpact.engine.checkpoints import Moments
from headimpact.vlm import packing
from headimpact.vlm.base import OPTION_LABELS, EncodedImage, Vlm
from headimpact.vlm.packing import PackedImages, Tokens

PHASES = ("language", "vision", "joint")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": scenes.COLOURS,
    "shape": scenes.SHAPES,
    "texture": scenes.TEXTURES,
    "vertical": scenes.VERTICALS,
    "horizontal": scenes.HORIZONTALS,
}
# Far away from the ids of the embedded dataset: no base has seen an image of it.
FIRST_SCENE = {"language": 10_000_000, "vision": 20_000_000, "joint": 30_000_000, "held out": 40_000_000}
BACKGROUND = "no"
RICH_CAPTION_SHARE = 0.1
RICH_QUESTION_SHARE = 0.7
CONTRAST_SHARE = 0.3
SEEN_THRESHOLD = 0.35
JUDGED_LAYER = 8
END_WEIGHT, BACKGROUND_WEIGHT, READING_WEIGHT = 0.1, 0.3, 0.3


@dataclass(frozen=True)
class Recipe:
    """How to pretrain: the values of ``pretrain`` in params.yaml."""

    seed: int
    held_out: int
    batch_images: int
    vision_batch_images: int
    questions: int
    language_steps: int
    vision_steps: int
    joint_steps: int
    language_lr: float
    vision_lr: float
    joint_lr: float
    checkpoint_steps: int
    evaluation_steps: int


@dataclass(frozen=True)
class Record:
    """One measured value of the learning curve."""

    phase: str
    step: int
    metric: str
    value: float


@dataclass(frozen=True)
class SeenScene:
    """A scene as the model takes it, and what each visual token shows.

    Attributes:
        shown: per attribute the index of its word; one past the last word where the token shows background.
    """

    things: tuple[scenes.Thing, ...]
    encoded: EncodedImage
    shown: Mapping[str, Int[Tensor, "tokens"]]


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
class Talk:
    """Conversations about one scene."""

    captions: list[Tokens]
    questions: list[Question]

    @property
    def conversations(self) -> list[Tokens]:
        """All of them, captions first."""
        return [*self.captions, *(question.tokens for question in self.questions)]


class Probes(nn.Module):
    """Linear readers of hidden states: attributes of a visual feature, and the truth of an option."""

    def __init__(self, width: int):
        super().__init__()
        self.attributes = nn.ModuleDict({name: nn.Linear(width, len(words) + 1) for name, words in ATTRIBUTES.items()})
        self.truth = nn.Linear(width, 1)

    def reading_loss(self, features: Sequence[Tensor], seen: Sequence[SeenScene]) -> Tensor:
        """Cross-entropy of reading every attribute from the visual tokens on an object, and a little of telling
        all tokens' colour from the background: most tokens show it."""
        found, on_object = torch.cat(list(features)), _on_object(seen)
        loss = torch.zeros(())
        for name, reader in self.attributes.items():
            truth, read = _shown(seen, name), reader(found)
            loss = loss + nn.functional.cross_entropy(read[on_object], truth[on_object])
            if name == "colour":
                loss = loss + BACKGROUND_WEIGHT * nn.functional.cross_entropy(read, truth)
        return loss

    def accuracy(self, features: Sequence[Tensor], seen: Sequence[SeenScene]) -> dict[str, float]:
        """Share of visual tokens on an object whose attributes are read right."""
        found, on_object = torch.cat(list(features))[_on_object(seen)], _on_object(seen)
        return {
            name: (reader(found).argmax(1) == _shown(seen, name)[on_object]).float().mean().item()
            for name, reader in self.attributes.items()
        }

    def judging_loss(
        self, hidden: Float[Tensor, "batch tokens width"], packed: PackedImages, talks: Sequence[Talk]
    ) -> Tensor:
        """Binary cross-entropy of reading at the end of each option whether it is true."""
        rows, columns, truth = [], [], []
        for image, talk in enumerate(talks):
            for index, question in enumerate(talk.questions, len(talk.captions)):
                row, where = packed.places[image][index]
                rows += [row] * len(question.ends)
                columns.append(where[question.ends])
                truth += [float(option == question.label) for option in range(len(question.ends))]
        read = self.truth(hidden[torch.tensor(rows), torch.cat(columns)])[:, 0]
        return nn.functional.binary_cross_entropy_with_logits(read, torch.tensor(truth))


def _shown(seen: Sequence[SeenScene], attribute: str) -> Int[Tensor, "tokens"]:
    return torch.cat([scene.shown[attribute] for scene in seen])


def _on_object(seen: Sequence[SeenScene]) -> Bool[Tensor, "tokens"]:
    return _shown(seen, "colour") < len(scenes.COLOURS)


def look(vlm: Vlm, seed: int, scene_id: int) -> SeenScene:
    """Draw a scene and find what each visual token shows: the thing that covers most of it, if it covers enough."""
    scene = scenes.draw(seed, scene_id)
    encoded = vlm.encode_image(scene.image)
    best, which = vlm.coverages([thing.mask for thing in scene.things]).max(dim=0)
    looks = [(thing.colour, thing.shape, thing.texture, *thing.position.split()) for thing in scene.things]
    shown = {}
    for place, (name, words) in enumerate(ATTRIBUTES.items()):
        found = torch.tensor([words.index(look[place]) for look in looks])
        shown[name] = torch.where(best >= SEEN_THRESHOLD, found[which], len(words))
    return SeenScene(scene.things, encoded, shown)


def _word_ids(vlm: Vlm, phrase: str) -> list[int]:
    """Tokens of a phrase within a sentence; every word of the scenes is one."""
    return vlm.tokenizer(f" {phrase}", add_special_tokens=False)["input_ids"]


def in_words(vlm: Vlm, scene: SeenScene) -> Float[Tensor, "tokens width"]:
    """What the decoder reads in the place of the visual tokens: the sum of the embeddings of what each shows."""
    embeddings = vlm.model.get_input_embeddings()
    ids = [
        torch.tensor([_word_ids(vlm, word)[0] for word in (*words, BACKGROUND)])[scene.shown[name]]
        for name, words in ATTRIBUTES.items()
    ]
    return embeddings(torch.stack(ids)).sum(dim=0)


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
        words = _word_ids(vlm, option)
        start = next(at for at in range(start, len(ids)) if ids[at : at + len(words)] == words) + len(words)
        ends.append(start - 1)
    return torch.tensor(ends)


def converse(vlm: Vlm, scene: SeenScene, rng: np.random.Generator, questions: int, contrast_share: float) -> Talk:
    """Captions of every thing, and some questions, about one scene."""
    captions = [
        vlm.tokenize(vlm.caption(thing.rich if rng.random() < RICH_CAPTION_SHARE else thing.plain), scene.encoded.grid)
        for thing in scene.things
    ]
    return Talk(captions, [_ask(vlm, scene, rng, rng.random() < contrast_share) for _ in range(questions)])


@contextmanager
def _watch(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a module returns."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda *call: found.append(call[-1]))
    try:
        yield found
    finally:
        handle.remove()


def conversation_loss(vlm: Vlm, probes: Probes, talks: Sequence[Talk], features: Sequence[Tensor]) -> Tensor:
    """Mean NLL of the captions' tokens, plus that of the option labels, plus a little for ending the answer, plus
    the loss of judging each option."""
    packed = packing.pack_images([talk.conversations for talk in talks], vlm.bidirectional_prompt)
    with _watch(vlm.decoder.layers[JUDGED_LAYER]) as judged:  # pyright: ignore
        hidden = vlm.hidden_states(packed.batch, [features[image] for image in packed.images])
    picked = [tokens.answer for talk in talks for tokens in talk.conversations]
    chosen = iter(likelihood.log_probabilities(vlm, packed, hidden, picked))
    caption_tokens, labels, ends = [], [], []
    for talk in talks:
        caption_tokens += [next(chosen) for _ in talk.captions]
        for answer in [next(chosen) for _ in talk.questions]:
            labels.append(answer[:1])
            ends.append(answer[1:])
    said = torch.cat(caption_tokens).mean() + torch.cat(labels).mean() + END_WEIGHT * torch.cat(ends).mean()
    return probes.judging_loss(judged[0], packed, talks) - said


def emission_loss(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Squared distance of the visual features to those that are wanted, as a share of their variance."""
    target = torch.cat(list(wanted)).detach()
    return nn.functional.mse_loss(torch.cat(list(features)), target) / target.var()


@torch.inference_mode()
def evaluate(vlm: Vlm, seen: Sequence[SeenScene], features: Sequence[Tensor], seed: int) -> dict[str, float]:
    """Accuracy on rich four-option questions, and perplexity of plain captions, on held-out scenes."""
    talks, truth, labels = [], [], []
    for index, scene in enumerate(seen):
        options, label = draw_question(np.random.default_rng([seed, index]), scene.things, rich=True)
        question, ids = vlm.question_tokens(options, label, scene.encoded.grid)
        captions = [vlm.tokenize(vlm.caption(thing.plain), scene.encoded.grid) for thing in scene.things]
        talks.append([*captions, question])
        labels += [None] * len(captions) + [ids]
        truth.append(label)
    packed = packing.pack_images(talks, vlm.bidirectional_prompt)
    hidden = vlm.hidden_states(packed.batch, [features[image] for image in packed.images])
    options = likelihood.option_log_probabilities(vlm, packed, hidden, labels)
    targets = [
        tokens.target[: 0 if ids is not None else None]
        for tokens, ids in zip(itertools.chain(*talks), labels, strict=True)
    ]
    phrases = torch.cat(likelihood.log_probabilities(vlm, packed, hidden, targets))
    correct = (options.argmax(1).cpu() == torch.tensor(truth)).float().mean()
    return {"accuracy": correct.item(), "perplexity": phrases.mean().neg().exp().item()}


class Pretraining:
    """The state of one pretraining run: the model, the probes, and where it stands."""

    def __init__(self, vlm: Vlm, recipe: Recipe, checkpoint: Path):
        self.vlm = vlm
        self.recipe = recipe
        self.checkpoint = checkpoint
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.probes = Probes(vlm.text_config.hidden_size)
        self.held_out = self._look("held out", 0, recipe.held_out)
        self.history: list[Record] = []

    def _look(self, name: str, batch: int, size: int) -> list[SeenScene]:
        first = FIRST_SCENE[name] + batch * size
        return [look(self.vlm, self.recipe.seed, scene_id) for scene_id in range(first, first + size)]

    def _parameters(self, phase: str) -> dict[str, nn.Parameter]:
        """What a phase trains."""
        model = dict(self.vlm.model.named_parameters())
        probes = {f"probes.{k}": p for k, p in self.probes.named_parameters()}
        decoder = {k: p for k, p in model.items() if k.startswith((self.vlm.decoder_path, "lm_head"))}
        vision = {k: p for k, p in model.items() if k not in decoder}
        return {"language": decoder, "vision": vision, "joint": model}[phase] | probes

    def _optimizers(self, parameters: Mapping[str, nn.Parameter], rate: float) -> list[torch.optim.Optimizer]:
        """Muon for the weight matrices of hidden layers, AdamW for embeddings, norms, biases and probes."""
        hidden = {k for k, p in parameters.items() if p.ndim == 2 and not any(n in k for n in ("embed", "probes."))}
        others = [p for k, p in parameters.items() if k not in hidden]
        return [
            torch.optim.Muon(
                [parameters[k] for k in parameters if k in hidden],
                lr=rate,
                weight_decay=0.01,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(others, lr=rate, weight_decay=0.01, betas=(0.9, 0.98)),
        ]

    def loss(self, phase: str, step: int) -> Tensor:
        """The phase's loss on the batch of one step."""
        recipe = self.recipe
        if phase == "vision":
            seen = self._look(phase, step, recipe.vision_batch_images)
            features = self.vlm.image_features([scene.encoded for scene in seen])
            wanted = [in_words(self.vlm, scene) for scene in seen]
            return emission_loss(features, wanted) + self.probes.reading_loss(features, seen)
        rng = np.random.default_rng([recipe.seed, PHASES.index(phase), step])
        seen = self._look(phase, step, recipe.batch_images)
        contrast_share = CONTRAST_SHARE if phase == "joint" else 0.0
        talks = [converse(self.vlm, scene, rng, recipe.questions, contrast_share) for scene in seen]
        if phase == "language":
            words = [in_words(self.vlm, scene) for scene in seen]
            return conversation_loss(self.vlm, self.probes, talks, words)
        features = self.vlm.image_features([scene.encoded for scene in seen])
        read = self.probes.reading_loss(features, seen)
        return conversation_loss(self.vlm, self.probes, talks, features) + READING_WEIGHT * read

    @torch.inference_mode()
    def measure(self, phase: str) -> dict[str, float]:
        """Held-out figures of a phase."""
        if phase == "language":
            words = [in_words(self.vlm, scene) for scene in self.held_out]
            return evaluate(self.vlm, self.held_out, words, self.recipe.seed)
        features = self.vlm.image_features([scene.encoded for scene in self.held_out])
        said = evaluate(self.vlm, self.held_out, features, self.recipe.seed)
        return self.probes.accuracy(features, self.held_out) | said

    def _record(self, phase: str, step: int, metric: str, value: float) -> Record:
        self.history.append(Record(phase, step, metric, value))
        return self.history[-1]

    def _save(self, optimizers: Sequence[torch.optim.Optimizer], phase: str, step: int) -> None:
        # The output projection is the embedding: a file holds a tensor once.
        tensors = {k: v for k, v in self.vlm.model.state_dict().items() if not k.startswith("lm_head")}
        tensors |= {f"probes.{k}": v for k, v in self.probes.state_dict().items()}
        history = [[r.phase, r.step, r.metric, r.value] for r in self.history]
        state = {"recipe": asdict(self.recipe), "phase": phase, "step": step, "history": history}
        checkpoints.save(self.checkpoint, tensors, optimizers, state)

    def _resume(self) -> tuple[str, int, Moments]:
        """Phase, step and optimizer state of the checkpoint; the beginning where there is none of this recipe."""
        if not self.checkpoint.exists():
            return PHASES[0], 0, {}
        tensors, moments, state = checkpoints.load(self.checkpoint)
        if state["recipe"] != asdict(self.recipe):
            return PHASES[0], 0, {}
        probes = {k.removeprefix("probes."): v for k, v in tensors.items() if k.startswith("probes.")}
        self.probes.load_state_dict(probes)
        self.vlm.model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("probes.")}, strict=False)
        self.history = [Record(*row) for row in state["history"]]
        return state["phase"], state["step"], moments

    def run(self) -> Iterator[Record]:
        """Train through the phases, from the checkpoint if there is one; yields the learning curve as it grows,
        that of a resumed part first."""
        at_phase, at_step, moments = self._resume()
        yield from list(self.history)
        for phase in PHASES[PHASES.index(at_phase) :]:
            yield from self._run_phase(phase, at_step, moments)
            at_step, moments = 0, {}

    def _run_phase(self, phase: str, start: int, moments: Moments) -> Iterator[Record]:
        steps, rate = getattr(self.recipe, f"{phase}_steps"), getattr(self.recipe, f"{phase}_lr")
        parameters = self._parameters(phase)
        optimizers = self._optimizers(parameters, rate)
        checkpoints.restore_optimizers(optimizers, moments)
        for step in range(start, steps):
            warm = min(1.0, (step + 1) / (0.05 * steps))
            for group in itertools.chain(*(optimizer.param_groups for optimizer in optimizers)):
                group["lr"] = rate * warm * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            loss = self.loss(phase, step)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            done = step + 1
            yield self._record(phase, done, "loss", loss.item())
            if done % self.recipe.evaluation_steps == 0 or done == steps:
                for metric, value in self.measure(phase).items():
                    yield self._record(phase, done, metric, value)
            if done % self.recipe.checkpoint_steps == 0:
                self._save(optimizers, phase, done)
