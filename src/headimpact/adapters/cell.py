"""One cell: an adapter trained on chosen layers and found to be alive."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel

from headimpact.adapters import lora
from headimpact.adapters.training import Measurement, Training, TrainSettings
from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine
from headimpact.engine.phrases import captions, phrase_nll
from headimpact.engine.watch import Watch
from headimpact.vlm.base import Vlm


@dataclass(frozen=True)
class Placement:
    """Where an adapter goes.

    Attributes:
        layers: the layers (ascending, from 0).
        heads: single heads of them, as (layer, head); empty where whole layers are adapted.
        ranks: a rank for each of the layers, where it is not the one of the settings.
    """

    layers: tuple[int, ...]
    heads: tuple[tuple[int, int], ...] = ()
    ranks: Mapping[int, int] | None = None


@dataclass(frozen=True)
class TrainingData:
    """The samples of the train and val parts."""

    train: Sequence[Sample]
    val: Sequence[Sample]


@dataclass(frozen=True)
class Step:
    """One optimizer step of a training, in words that a progress line can show."""

    loss: float
    perplexity: float | None

    def __str__(self) -> str:
        """The loss, and the last validation perplexity (infinite: it was no usable number)."""
        validated = "" if self.perplexity is None else f", validation perplexity {self.perplexity:.3f}"
        return f"loss {self.loss:.3f}{validated}"


def steps(measurements: Iterable[Measurement]) -> Iterator[Step]:
    """The optimizer steps among what a training measures, each with the last validation before it."""
    perplexity = None
    for measurement in measurements:
        if measurement.metric == "val/perplexity":
            perplexity = measurement.value
        elif measurement.metric == "train/loss":
            yield Step(measurement.value, perplexity)


def placement(layers: Sequence[int], heads: Sequence[tuple[int, int]], budget: int, rank: int) -> Placement:
    """Where the adapter of a selection goes; ``budget``: of how many layers of ``rank`` all layers share the budget,
    else 0."""
    if not budget:
        return Placement(tuple(layers), tuple(heads))
    ranks = {layers[place]: share for place, share in lora.spread(len(layers), budget, rank).items()}
    return Placement(tuple(ranks), (), ranks)


def training_fingerprint(
    vlm: Vlm, chosen: Placement, settings: lora.LoraSettings, train: TrainSettings, header: Mapping[str, Any]
) -> str:
    """SHA-256 of all that an adapter depends on but the code: a training state of anything else is not continued."""
    values = {
        "header": header,
        "layers": chosen.layers,
        "heads": chosen.heads,
        "ranks": sorted((chosen.ranks or {}).items()),
        "lora": asdict(settings),
        "train": asdict(train) | {"checkpoint_steps": None},
        "dtype": str(vlm.model.dtype),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def train_adapter(
    engine: Engine,
    chosen: Placement,
    settings: lora.LoraSettings,
    train: TrainSettings,
    data: TrainingData,
    checkpoint: Path,
    fingerprint: str,
    watch: Watch,
) -> tuple[PeftModel, list[Measurement]]:
    """Attach an adapter to a base, train it, and refuse it unless it is alive.

    Args:
        engine: the base; the adapter stays attached to it, and what is below it counts as frozen.
        chosen: where the adapter goes.
        settings: hyperparameters of the adapter.
        train: hyperparameters of the training; its seed is that of the adapter's first weights, too.
        data: what to train on, and what decides when to stop.
        checkpoint: where the state is kept; one of the same ``fingerprint`` is continued.
        fingerprint: :func:`training_fingerprint`.
        watch: shows the optimizer steps.

    Returns:
        PEFT's view of the model, with the weights of the best validation, and the history.

    Raises:
        InputError: as for :class:`headimpact.adapters.training.Training`, or training diverged.
        DeadAdapterError: the adapter has no effect, or adapts other modules than meant.
    """
    vlm = engine.vlm
    if chosen.heads:
        peft_model = lora.attach_heads(vlm, chosen.heads, settings, train.seed)
    else:
        peft_model = lora.attach(vlm, chosen.layers, settings, train.seed, chosen.ranks)
    engine.first = vlm.begins_at(min(chosen.layers))
    training = Training(engine, peft_model, data.train, data.val, train, checkpoint, fingerprint)
    for _ in watch(steps(training.run()), training.total_steps, "training"):
        pass
    engine.first = 0  # what comes next may come round only once
    change = _largest_change(engine, peft_model, data.val[: train.batch_images])
    lora.check_liveness(peft_model, vlm.projections(chosen.layers, settings.targets), change)
    return peft_model, training.history


def _largest_change(engine: Engine, peft_model: PeftModel, probe: Sequence[Sample]) -> float:
    """Largest absolute difference (nats) that the adapter makes to the NLL of a phrase."""
    images = list(engine.load(probe, captions(engine.vlm)))
    after = [nll for *_, nll, _ in phrase_nll(engine, images)]
    with lora.disabled(peft_model):
        before = [nll for *_, nll, _ in phrase_nll(engine, images)]
    return float(np.abs(np.subtract(after, before)).max())
