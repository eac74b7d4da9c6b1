"""Scoring, training and evaluation of a few images, one after the other, each under a clock."""

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from headimpact import clock
from headimpact.adapters import cost, lora
from headimpact.adapters.training import Training, TrainSettings
from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine, EngineSettings
from headimpact.engine.watch import unwatched
from headimpact.errors import InputError
from headimpact.evaluation.objects import evaluate
from headimpact.impact.scoring import ChanceSettings, score_images
from headimpact.lifecycle.rehearsal.memory import watched
from headimpact.lifecycle.rehearsal.outcome import Run
from headimpact.vlm.base import Vlm

LAYERS = 4
"""Layers that are adapted: the last ones, and the first ones, whose backward is the longest."""
TRIED = 6
"""Things that are tried."""


@dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed.

    Attributes:
        vlm: the checkpoint on its device.
        samples: the images.
        engine: how much at a time.
        chance: how scoring makes masks.
        lora: the adapter.
        train: the training; a step has all images.
        seed: of the questions.
        rate: operations per second that the model is expected to reach.
        tell: says what a person should know.
    """

    vlm: Vlm
    samples: Sequence[Sample]
    engine: EngineSettings
    chance: ChanceSettings
    lora: lora.LoraSettings
    train: TrainSettings
    seed: int
    rate: float
    tell: Callable[[str], None]

    def run(self) -> Iterator[Run]:
        """Try everything. Gradient checkpointing comes last: it stays on once it is."""
        attending = self.vlm.attention_layers
        first, last = attending[:LAYERS], attending[-LAYERS:]
        yield self._measured("score", self._score, self._estimate([], False))
        yield self._measured("evaluate", self._evaluate, None)
        for checkpointing in (False, True):
            for words, layers in (("last", list(last)), ("first", list(first))):
                what = f"train {words} {len(layers)}{', checkpointed' if checkpointing else ''}"
                yield self._trained(what, layers, checkpointing)

    def _engine(self) -> Engine:
        return Engine(self.vlm, self.engine, tell=self.tell)

    def _score(self) -> None:
        score_images(self._engine(), self.samples, self.chance)

    def _evaluate(self) -> None:
        evaluate(self._engine(), self.samples, self.seed, unwatched)

    def _trained(self, what: str, layers: list[int], checkpointing: bool) -> Run:
        estimate = self._estimate(layers, checkpointing)
        adapter = lora.attach(self.vlm, layers, self.lora, self.train.seed)
        if checkpointing:
            self.vlm.checkpoint_gradients()

        def step() -> None:
            engine = self._engine()
            engine.first = self.vlm.begins_at(layers[0])
            training = Training(engine, adapter, self.samples, self.samples, self.train, Path(), "")
            training.optimize(engine.load(self.samples, training.captions))

        try:
            return self._measured(what, step, estimate)
        finally:
            lora.detach(adapter)

    def _measured(self, what: str, function: Callable[[], None], estimate: cost.Estimate | None) -> Run:
        """Run something; on a GPU once before it counts, since the first time kernels are loaded."""
        device, images = self.vlm.device, len(self.samples)
        load = self._load()
        seconds = None if estimate is None else estimate.flops / load.images / self.rate
        planned = None if estimate is None else estimate.memory
        problem = ""
        try:
            if device.type != "cpu":
                function()
            _free()
            with watched(device) as peak, clock.running(device) as times:
                begun = time.process_time()
                function()
                processor = time.process_time() - begun
        except (InputError, torch.OutOfMemoryError) as error:
            problem = str(error)
        if problem:  # beyond the error, which holds what was computed
            _free()
            return Run(what, {}, 0.0, 0, seconds, planned, problem)
        parts = {name: spent / images for name, spent in times.seconds.items()}
        return Run(what, parts, processor / images, peak.bytes, seconds, planned)

    def _load(self) -> cost.Workload:
        images = [(s.width, s.height, tuple(obj.phrase for obj in s.objects)) for s in self.samples]
        return cost.workload(self.vlm, images, self.engine.batch_tokens, len(images))

    def _estimate(self, layers: list[int], checkpointing: bool) -> cost.Estimate:
        """As ``plan`` makes it."""
        counts = cost.count_parameters(self.vlm, layers, self.lora)
        lowest = min(layers, default=None)
        return cost.estimate(self.vlm, self._load(), lowest, counts.trainable, self.vlm.model.dtype, checkpointing)


def _free() -> None:
    """Give back what the run before took."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":  # glibc keeps freed memory, which would count for the next run
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
