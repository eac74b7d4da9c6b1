"""Pretraining of the tiny bases on generated scenes, in three phases.

1. ``language``: the decoder learns to describe and to choose, reading an *oracle* in the place of the visual tokens:
   learned embeddings of what each visual token shows. No vision tower runs.
2. ``vision``: the vision tower learns to emit what the decoder has learned to read.
3. ``joint``: everything together on real pixels; from ``contrast_step`` on, most questions have options that differ
   from the truth in a single word, so that every attribute has to be seen.

Every random draw derives from (seed, phase, step), so that a run that is killed and resumed ends with the same bytes.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headimpact import checkpoints, likelihood, packing, scenes
from headimpact.packing import Tokens
from headimpact.vlm import OPTION_LABELS, EncodedImage, Vlm

PHASES = ("language", "vision", "joint")
# Far away from the ids of the embedded dataset: no base has seen an image of it.
POOL_START = 10_000_000
HELD_OUT_START = 20_000_000
RICH_CAPTION_SHARE = 0.1
RICH_QUESTION_SHARE = 0.5
CONTRAST_SHARE = 0.6
SEEN_THRESHOLD = 0.35


@dataclass(frozen=True)
class Recipe:
    """How to pretrain: the values of ``pretrain`` in params.yaml."""

    seed: int
    pool: int
    held_out: int
    batch_images: int
    vision_batch_images: int
    questions: int
    language_steps: int
    vision_steps: int
    joint_steps: int
    contrast_step: int
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
    """A scene as the model takes it, and what each visual token shows (the last class is the background)."""

    things: tuple[scenes.Thing, ...]
    encoded: EncodedImage
    colour: Int[Tensor, "tokens"]
    shape: Int[Tensor, "tokens"]
    texture: Int[Tensor, "tokens"]


class Oracle(nn.Module):
    """Learned embeddings of what a visual token shows, and linear readers that find it in a visual feature."""

    def __init__(self, width: int):
        super().__init__()
        sizes = {"colour": len(scenes.COLOURS), "shape": len(scenes.SHAPES), "texture": len(scenes.TEXTURES)}
        tables = {name: nn.Embedding(size + 1, width) for name, size in sizes.items()}
        self.tables = nn.ModuleDict(tables)
        self.readers = nn.ModuleDict({name: nn.Linear(width, size + 1) for name, size in sizes.items()})
        for table in tables.values():
            nn.init.normal_(table.weight, std=0.5)

    def embed(self, scene: SeenScene) -> Float[Tensor, "tokens width"]:
        """What the decoder reads in the place of the visual tokens."""
        return sum(table(getattr(scene, name)) for name, table in self.tables.items())  # pyright: ignore

    def loss(self, features: Sequence[Tensor], seen: Sequence[SeenScene]) -> Tensor:
        """Squared distance to the oracle's embeddings, and cross-entropy of reading colour, shape and texture."""
        found = torch.cat(list(features))
        loss = nn.functional.mse_loss(found, torch.cat([self.embed(scene) for scene in seen]).detach())
        return loss + self.reading_loss(found, seen, torch.ones(len(found), dtype=torch.bool))

    def reading_loss(
        self, found: Float[Tensor, "tokens width"], seen: Sequence[SeenScene], where: Bool[Tensor, "tokens"]
    ) -> Tensor:
        """Cross-entropy of reading colour, shape and texture from some of the visual tokens of all scenes."""
        loss = torch.zeros(())
        for name, reader in self.readers.items():
            truth = torch.cat([getattr(scene, name) for scene in seen])
            loss = loss + nn.functional.cross_entropy(reader(found[where]), truth[where])
        return loss

    def object_loss(self, features: Sequence[Tensor], seen: Sequence[SeenScene]) -> Tensor:
        """``reading_loss`` of the visual tokens on an object alone: most tokens show the background."""
        on_object = torch.cat([scene.colour for scene in seen]) < len(scenes.COLOURS)
        return self.reading_loss(torch.cat(list(features)), seen, on_object)

    def accuracy(self, features: Sequence[Tensor], seen: Sequence[SeenScene]) -> dict[str, float]:
        """Share of visual tokens on an object whose colour, shape and texture are read right."""
        found = torch.cat(list(features))
        on_object = torch.cat([scene.colour for scene in seen]) < len(scenes.COLOURS)
        scores = {}
        for name, reader in self.readers.items():
            truth = torch.cat([getattr(scene, name) for scene in seen])
            scores[name] = (reader(found).argmax(1) == truth)[on_object].float().mean().item()
        return scores


def look(vlm: Vlm, seed: int, scene_id: int) -> SeenScene:
    """Draw a scene and find what each visual token shows: the thing that covers most of it, if it covers enough."""
    scene = scenes.draw(seed, scene_id)
    encoded = vlm.encode_image(scene.image)
    covered = vlm.coverages([thing.mask for thing in scene.things])
    best, which = covered.max(dim=0)

    def classes(names: Sequence[str], attribute: str) -> Tensor:
        found = torch.tensor([names.index(getattr(thing, attribute)) for thing in scene.things])
        return torch.where(best >= SEEN_THRESHOLD, found[which], len(names))

    return SeenScene(
        scene.things,
        encoded,
        classes(scenes.COLOURS, "colour"),
        classes(scenes.SHAPES, "shape"),
        classes(scenes.TEXTURES, "texture"),
    )


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


def converse(
    vlm: Vlm, scene: SeenScene, rng: np.random.Generator, questions: int, contrast_share: float
) -> tuple[list[Tokens], list[Tokens]]:
    """Captions of every thing, and some questions, about one scene."""
    grid = scene.encoded.grid
    captions = [
        vlm.tokenize(vlm.caption(thing.rich if rng.random() < RICH_CAPTION_SHARE else thing.plain), grid)
        for thing in scene.things
    ]
    draws = [draw_contrast if rng.random() < contrast_share else draw_question for _ in range(questions)]
    asked = [draw(rng, scene.things, rng.random() < RICH_QUESTION_SHARE) for draw in draws]
    return captions, [vlm.tokenize(vlm.question(options, OPTION_LABELS[label]), grid) for options, label in asked]


def conversation_loss(
    vlm: Vlm, talks: Sequence[tuple[list[Tokens], list[Tokens]]], features: Sequence[Tensor]
) -> Tensor:
    """Mean NLL of the captions' tokens, plus that of the option labels, plus a little for ending the answer."""
    packed = packing.pack_images([[*captions, *asked] for captions, asked in talks], vlm.bidirectional_prompt)
    hidden = vlm.hidden_states(packed.batch, [features[image] for image in packed.images])
    picked = [tokens.answer for captions, asked in talks for tokens in (*captions, *asked)]
    chosen = iter(likelihood.log_probabilities(vlm, packed, hidden, picked))
    caption_tokens, labels, ends = [], [], []
    for captions, asked in talks:
        caption_tokens += [next(chosen) for _ in captions]
        for answer in [next(chosen) for _ in asked]:
            labels.append(answer[:1])
            ends.append(answer[1:])
    return -(torch.cat(caption_tokens).mean() + torch.cat(labels).mean() + 0.1 * torch.cat(ends).mean())


@torch.inference_mode()
def evaluate(vlm: Vlm, seen: Sequence[SeenScene], seed: int, oracle: Oracle | None) -> dict[str, float]:
    """Accuracy on rich four-option questions, and perplexity of plain captions, on held-out scenes."""
    talks, truth, labels = [], [], []
    for index, scene in enumerate(seen):
        options, label = draw_question(np.random.default_rng([seed, index]), scene.things, rich=True)
        question, ids = vlm.question_tokens(options, label, scene.encoded.grid)
        captions = [vlm.tokenize(vlm.caption(thing.plain), scene.encoded.grid) for thing in scene.things]
        talks.append([*captions, question])
        labels += [None] * len(captions) + [ids]
        truth.append(label)
    features = [oracle.embed(s) for s in seen] if oracle else vlm.image_features([s.encoded for s in seen])
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
    """The state of one pretraining run: the model, the oracle, the pool of scenes, and where it stands."""

    def __init__(self, vlm: Vlm, recipe: Recipe, checkpoint: Path):
        self.vlm = vlm
        self.recipe = recipe
        self.checkpoint = checkpoint
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.oracle = Oracle(vlm.text_config.hidden_size)
        self.pool = [look(vlm, recipe.seed, POOL_START + i) for i in range(recipe.pool)]
        self.held_out = [look(vlm, recipe.seed, HELD_OUT_START + i) for i in range(recipe.held_out)]
        self.history: list[Record] = []

    def _parameters(self, phase: str) -> dict[str, nn.Parameter]:
        """What a phase trains: never the oracle's tables once the decoder has learned to read them."""
        model = dict(self.vlm.model.named_parameters())
        readers = {f"readers.{k}": p for k, p in self.oracle.readers.named_parameters()}
        tables = {f"tables.{k}": p for k, p in self.oracle.tables.named_parameters()}
        decoder = {k: p for k, p in model.items() if k.startswith((self.vlm.decoder_path, "lm_head"))}
        vision = {k: p for k, p in model.items() if k not in decoder}
        return {"language": decoder | tables, "vision": vision | readers, "joint": model | readers}[phase]

    def _batch(self, phase: str, step: int, size: int) -> tuple[list[SeenScene], np.random.Generator]:
        rng = np.random.default_rng([self.recipe.seed, PHASES.index(phase), step])
        return [self.pool[i] for i in rng.integers(len(self.pool), size=size)], rng

    def loss(self, phase: str, step: int) -> Tensor:
        """The phase's loss on the batch of one step."""
        if phase == "vision":
            seen, _ = self._batch(phase, step, self.recipe.vision_batch_images)
            return self.oracle.loss(self.vlm.image_features([scene.encoded for scene in seen]), seen)
        seen, rng = self._batch(phase, step, self.recipe.batch_images)
        contrast = phase == "joint" and step >= self.recipe.contrast_step
        share = CONTRAST_SHARE if contrast else 0.0
        talks = [converse(self.vlm, scene, rng, self.recipe.questions, share) for scene in seen]
        if phase == "language":
            return conversation_loss(self.vlm, talks, [self.oracle.embed(scene) for scene in seen])
        features = self.vlm.image_features([scene.encoded for scene in seen])
        read = self.oracle.object_loss if contrast else self.oracle.loss
        return conversation_loss(self.vlm, talks, features) + 0.3 * read(features, seen)

    def measure(self, phase: str) -> dict[str, float]:
        """Held-out figures of a phase."""
        scores = {}
        if phase != "language":
            with torch.inference_mode():
                features = self.vlm.image_features([scene.encoded for scene in self.held_out])
                scores |= self.oracle.accuracy(features, self.held_out)
        oracle = self.oracle if phase == "language" else None
        return scores | evaluate(self.vlm, self.held_out, self.recipe.seed, oracle)

    def _record(self, phase: str, step: int, metric: str, value: float) -> Record:
        self.history.append(Record(phase, step, metric, value))
        return self.history[-1]

    def _save(self, optimizer: torch.optim.Optimizer, phase: str, step: int) -> None:
        # The output projection is the embedding: a file holds a tensor once.
        tensors = {k: v for k, v in self.vlm.model.state_dict().items() if not k.startswith("lm_head")}
        tensors |= {f"oracle.{k}": v for k, v in self.oracle.state_dict().items()}
        history = [[r.phase, r.step, r.metric, r.value] for r in self.history]
        state = {"recipe": asdict(self.recipe), "phase": phase, "step": step, "history": history}
        checkpoints.save(self.checkpoint, tensors, optimizer, state)

    def _resume(self) -> tuple[str, int, dict[int, dict[str, Tensor]]]:
        """Phase, step and optimizer state of the checkpoint; the beginning where there is none of this recipe."""
        if not self.checkpoint.exists():
            return PHASES[0], 0, {}
        tensors, moments, state = checkpoints.load(self.checkpoint)
        if state["recipe"] != asdict(self.recipe):
            return PHASES[0], 0, {}
        oracle = {k.removeprefix("oracle."): v for k, v in tensors.items() if k.startswith("oracle.")}
        self.oracle.load_state_dict(oracle)
        self.vlm.model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("oracle.")}, strict=False)
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

    def _run_phase(self, phase: str, start: int, moments: dict[int, dict[str, Tensor]]) -> Iterator[Record]:
        steps, rate = getattr(self.recipe, f"{phase}_steps"), getattr(self.recipe, f"{phase}_lr")
        parameters = self._parameters(phase)
        optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
        if moments:
            checkpoints.restore_optimizer(optimizer, moments)
        for step in range(start, steps):
            warm = min(1.0, (step + 1) / (0.05 * steps))
            for group in optimizer.param_groups:
                group["lr"] = rate * warm * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            loss = self.loss(phase, step)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.step()
            done = step + 1
            yield self._record(phase, done, "loss", loss.item())
            if done % self.recipe.evaluation_steps == 0 or done == steps:
                for metric, value in self.measure(phase).items():
                    yield self._record(phase, done, metric, value)
            if done % self.recipe.checkpoint_steps == 0:
                self._save(optimizer, phase, done)
