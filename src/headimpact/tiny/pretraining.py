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
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from headimpact.engine import checkpoints
from headimpact.engine.checkpoints import Moments
from headimpact.tiny.losses import Probes, conversation_loss, emission_loss, held_out_figures
from headimpact.tiny.scene_conversations import converse
from headimpact.tiny.seen_scenes import SeenScene, in_words, see
from headimpact.vlm.base import Vlm

PHASES = ("language", "vision", "joint")
# Far away from the ids of the embedded dataset: no base has seen an image of it.
FIRST_SCENE = {"language": 10_000_000, "vision": 20_000_000, "joint": 30_000_000, "held out": 40_000_000}
CONTRAST_SHARE = 0.3
READING_WEIGHT = 0.3


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
class Measurement:
    """One measured value of the learning curve."""

    phase: str
    step: int
    metric: str
    value: float


class Pretraining:
    """The state of one pretraining run: the model, the probes, and where it stands."""

    def __init__(self, vlm: Vlm, recipe: Recipe, checkpoint: Path):
        self.vlm = vlm
        self.recipe = recipe
        self.checkpoint = checkpoint
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.probes = Probes(vlm.text_config.hidden_size)
        self.held_out = self._scenes("held out", 0, recipe.held_out)
        self.history: list[Measurement] = []

    def _scenes(self, name: str, batch: int, size: int) -> list[SeenScene]:
        first = FIRST_SCENE[name] + batch * size
        return [see(self.vlm, self.recipe.seed, scene_id) for scene_id in range(first, first + size)]

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
            seen = self._scenes(phase, step, recipe.vision_batch_images)
            features = self.vlm.image_features([scene.encoded for scene in seen])
            wanted = [in_words(self.vlm, scene) for scene in seen]
            return emission_loss(features, wanted) + self.probes.reading_loss(features, seen)
        rng = np.random.default_rng([recipe.seed, PHASES.index(phase), step])
        seen = self._scenes(phase, step, recipe.batch_images)
        contrast_share = CONTRAST_SHARE if phase == "joint" else 0.0
        conversations = [converse(self.vlm, scene, rng, recipe.questions, contrast_share) for scene in seen]
        if phase == "language":
            words = [in_words(self.vlm, scene) for scene in seen]
            return conversation_loss(self.vlm, self.probes, conversations, words)
        features = self.vlm.image_features([scene.encoded for scene in seen])
        read = self.probes.reading_loss(features, seen)
        return conversation_loss(self.vlm, self.probes, conversations, features) + READING_WEIGHT * read

    @torch.inference_mode()
    def measure(self, phase: str) -> dict[str, float]:
        """Held-out figures of a phase."""
        if phase == "language":
            words = [in_words(self.vlm, scene) for scene in self.held_out]
            return held_out_figures(self.vlm, self.held_out, words, self.recipe.seed)
        features = self.vlm.image_features([scene.encoded for scene in self.held_out])
        figures = held_out_figures(self.vlm, self.held_out, features, self.recipe.seed)
        return self.probes.accuracy(features, self.held_out) | figures

    def _note(self, phase: str, step: int, metric: str, value: float) -> Measurement:
        self.history.append(Measurement(phase, step, metric, value))
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
        self.history = [Measurement(*row) for row in state["history"]]
        return state["phase"], state["step"], moments

    def run(self) -> Iterator[Measurement]:
        """Train through the phases, from the checkpoint if there is one; yields the learning curve as it grows,
        that of a resumed part first."""
        at_phase, at_step, moments = self._resume()
        yield from list(self.history)
        for phase in PHASES[PHASES.index(at_phase) :]:
            yield from self._run_phase(phase, at_step, moments)
            at_step, moments = 0, {}

    def _run_phase(self, phase: str, start: int, moments: Moments) -> Iterator[Measurement]:
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
            yield self._note(phase, done, "loss", loss.item())
            if done % self.recipe.evaluation_steps == 0 or done == steps:
                for metric, value in self.measure(phase).items():
                    yield self._note(phase, done, metric, value)
            if done % self.recipe.checkpoint_steps == 0:
                self._save(optimizers, phase, done)
