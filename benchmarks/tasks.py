"""One task done in one way, from files to numbers, and what it took. Runs in a process of its own."""

import math
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import subjects
import torch
import usual
from peft import PeftModel
from transformers.utils import logging as transformers_logging

from headimpact import clock
from headimpact.adapters import lora
from headimpact.adapters.training import Training, TrainSettings
from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine
from headimpact.engine.watch import unwatched
from headimpact.evaluation.objects import evaluate
from headimpact.impact.scoring import ChanceSettings, score_images
from headimpact.vlm.base import Vlm

CHANCE = ChanceSettings(threshold=0.5, draws=4, seed=0)
ADAPTER = lora.LoraSettings(8, 16, ("q_proj", "k_proj", "v_proj"))
EPOCHS = 2
SEED = 0


@dataclass(frozen=True)
class Case:
    """What to measure.

    Attributes:
        size, base: as of :func:`subjects.build`.
        task: score, train or evaluate.
        way: a key of the task's table below.
        images, objects: how many, and how many in each.
        layers: which are adapted.
        growth: it shows how cost grows with images and objects.
    """

    size: str
    base: str
    task: str
    way: str
    images: int
    objects: int = 3
    layers: tuple[int, ...] = ()
    growth: bool = False


@dataclass(frozen=True)
class Measured:
    """What it took.

    Attributes:
        processor, seconds: processor and wall time (s) of all images; of a training, of its last epoch.
        first: processor time of a training's first epoch.
        peak: MiB of resident memory at most, libraries and weights included.
        passes: passes of the image processor.
        forward: processor time within forwards, where it is known.
        numbers: what came out, to be held against the other ways.
    """

    processor: float
    seconds: float
    peak: float
    passes: int
    forward: float
    numbers: list[float] = field(repr=False)
    first: float = 0.0


def _numbers_of(table: pd.DataFrame, columns: Sequence[str]) -> list[float]:
    return table[list(columns)].to_numpy(dtype=float).ravel().tolist()


def _objects(table: pd.DataFrame) -> list[float]:
    return _numbers_of(table.sort_values("object_id"), ("nll", "ans_prob"))


def _score(vlm: Vlm, samples: list[Sample]) -> list[float]:
    impact, _ = score_images(Engine(vlm), samples, CHANCE)
    return _numbers_of(impact.table(), ("hi", "chance"))


def _plain(vlm: Vlm, samples: list[Sample]) -> list[float]:
    usual.plain_forward(vlm, samples)
    return []


PASSES: dict[str, dict[str, Callable[[Vlm, list[Sample]], list[float]]]] = {
    "score": {
        "engine": _score,
        "eager, a sequence an object": lambda vlm, s: _numbers_of(usual.score(vlm, s, CHANCE), ("hi", "chance")),
        "plain forward": _plain,
    },
    "evaluate": {
        "engine": lambda vlm, samples: _objects(evaluate(Engine(vlm), samples, SEED, unwatched)),
        "padded, a sequence a phrase and question": lambda vlm, s: _objects(usual.evaluate_padded(vlm, s, SEED)),
        "one by one, four sequences a question": lambda vlm, s: _objects(usual.evaluate_singly(vlm, s, SEED)),
    },
}
TRAININGS = ("engine", "Trainer and PEFT")
WAYS = {task: tuple(ways) for task, ways in PASSES.items()} | {"train": TRAININGS}


@contextmanager
def _counted(vlm: Vlm) -> Iterator[list[int]]:
    """Counts the passes of the image processor."""
    kind, count = type(vlm.image_processor), [0]
    whole = kind.preprocess

    def preprocess(self: Any, *arguments: Any, **named: Any) -> Any:
        count[0] += 1
        return whole(self, *arguments, **named)

    kind.preprocess = preprocess
    try:
        yield count
    finally:
        kind.preprocess = whole


def measure(case: Case) -> Measured:
    """Do it. What loads once in a process is loaded before."""
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    vlm = subjects.build(case.size, case.base)
    with tempfile.TemporaryDirectory() as name, _counted(vlm) as passes:
        folder = Path(name)
        validation = case.task == "train"
        samples = subjects.draw(case.size, case.images + validation, case.objects, folder)
        if case.task == "train":
            return _train(case, vlm, samples, folder, passes)
        function = PASSES[case.task][case.way]
        _warm_up(vlm, samples)
        passes[0] = 0
        processor, wall = time.process_time(), time.perf_counter()
        with clock.running(torch.device("cpu"), time.process_time) as parts:
            numbers = function(vlm, samples)
        spent = time.process_time() - processor, time.perf_counter() - wall
        forward = sum(parts.seconds.get(name, 0.0) for name in ("vision", "decoder", "capture"))
        return Measured(*spent, _peak(), passes[0], forward, numbers)


def _warm_up(vlm: Vlm, samples: list[Sample]) -> None:
    """The first forward loads libraries, whichever it is."""
    with torch.inference_mode():
        encoded = vlm.encode_image(samples[0].image())
        tokens = vlm.tokenize(vlm.caption("a thing"), encoded.grid)
        vlm.model.model(**vlm.native_inputs(tokens, encoded), use_cache=False)


def _settings(samples: list[Sample]) -> TrainSettings:
    return TrainSettings(
        seed=SEED,
        lr=2e-3,
        epochs=EPOCHS,
        batch_images=min(8, len(samples)),
        gradient_checkpointing=False,
        warmup_share=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        evals_per_epoch=1,
        patience=EPOCHS,
        checkpoint_steps=10**9,
    )


def _train(case: Case, vlm: Vlm, samples: list[Sample], folder: Path, passes: list[int]) -> Measured:
    settings = _settings(samples[:-1])
    adapter = lora.attach(vlm, case.layers, ADAPTER, settings.seed)
    if case.way == "engine":
        losses, times = _train_by_engine(vlm, adapter, min(case.layers), samples, settings, folder)
    else:
        usual.use_transformers_attention(vlm)
        losses, times = usual.train(vlm, adapter, samples[:-1], settings, _rates(len(samples) - 1, settings), folder)
    steps = len(losses) // EPOCHS
    return Measured(
        processor=times[-1][0] - times[-1 - steps][0],
        seconds=times[-1][1] - times[-1 - steps][1],
        peak=_peak(),
        passes=passes[0],
        forward=0.0,
        numbers=[losses[0], losses[-1]],
        first=times[steps][0] - times[0][0],
    )


def _rates(images: int, settings: TrainSettings) -> list[float]:
    """The learning rate of every step, as the product has it: a linear rise, then a cosine to zero."""
    total = math.ceil(images / settings.batch_images) * settings.epochs
    warmup = max(1, round(settings.warmup_share * total))
    rise = [settings.lr * (step + 1) / warmup for step in range(warmup)]
    fall = [(1 + math.cos(math.pi * step / max(1, total - warmup))) / 2 for step in range(total - warmup)]
    return [*rise, *(settings.lr * share for share in fall)]


def _train_by_engine(
    vlm: Vlm, adapter: PeftModel, first: int, samples: list[Sample], settings: TrainSettings, folder: Path
) -> tuple[list[float], list[tuple[float, float]]]:
    """The product's own training, validated on the last image, which does not count: the other way has no validation.

    Losses, and processor and wall time at the begin and after each step.
    """
    engine = Engine(vlm)
    engine.first = first
    training = Training(engine, adapter, samples[:-1], samples[-1:], settings, folder / "state.safetensors", "")
    run, losses, times = training.run(), [], [(0.0, 0.0)]
    while True:
        processor, wall = time.process_time(), time.perf_counter()
        measurement = next(run, None)
        if measurement is None:
            return losses, times
        if measurement.metric == "train/loss":
            before = times[-1]
            times.append((before[0] + time.process_time() - processor, before[1] + time.perf_counter() - wall))
            losses.append(measurement.value)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
