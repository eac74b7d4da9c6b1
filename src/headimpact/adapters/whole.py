"""Adapters on all projections of a layer's attention and MLP, with as many parameters as one on some of them has.

A rank of one projection costs its inputs and outputs, so equal numbers need ranks for each projection: all the same as
far as that goes, and one more for those that use up the rest.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from math import gcd
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel, get_peft_model

from headimpact.adapters import lora
from headimpact.adapters.cell import Placement, TrainingData, steps
from headimpact.adapters.training import Training, TrainSettings
from headimpact.engine.forward import Engine
from headimpact.engine.phrases import captions, phrase_nll
from headimpact.engine.watch import Watch
from headimpact.errors import InputError
from headimpact.vlm.base import Vlm
from headimpact.vlm.layers import PROJECTIONS

_ALL = tuple(PROJECTIONS)


def budget(vlm: Vlm, chosen: Placement, settings: lora.LoraSettings) -> int:
    """The trainable parameters of an adapter on the settings' targets."""
    ranks = chosen.ranks or dict.fromkeys(chosen.layers, settings.rank)
    return sum(rank * sum(_costs(vlm, [layer], settings.targets).values()) for layer, rank in ranks.items())


def ranks_of(vlm: Vlm, chosen: Placement, settings: lora.LoraSettings) -> dict[str, int]:
    """A rank for every projection, by its full name, of the chosen layers: together they have the parameters of
    :func:`budget`, or as many less as no further rank of one of them could use.

    Where that is less than rank 1 for all of them, evenly spaced layers have it, and the others are not in the result.

    Raises:
        InputError: it is less than rank 1 for a single layer, or the method is DoRA, whose magnitudes cost parameters
            that no rank saves.
    """
    if settings.method == "dora":
        raise InputError("Whole layers are matched by ranks: lora.method must be lora or rslora, not dora.")
    available, layers = budget(vlm, chosen, settings), chosen.layers
    for count in range(len(layers), 0, -1):
        spaced = [layers[(2 * place + 1) * len(layers) // (2 * count)] for place in range(count)]
        costs = _costs(vlm, spaced, _ALL)
        rank, rest = divmod(available, sum(costs.values()))
        if rank:
            further = _using(list(costs.values()), rest)
            return {name: rank + (place in further) for place, name in enumerate(costs)}
    raise InputError(
        f"{vlm.source}: lora.rank {settings.rank} on {', '.join(settings.targets)} has fewer parameters than rank 1 on "
        "all projections of a layer. Choose a larger lora.rank."
    )


def attach(vlm: Vlm, ranks: Mapping[str, int], settings: lora.LoraSettings, seed: int) -> PeftModel:
    """Put fresh adapters on projections, by full name, each of its own rank; else as :func:`lora.attach`.

    Raises:
        DeadAdapterError: PEFT adapted other modules than asked for.
    """
    config = lora.peft_config(vlm, (), replace(settings, targets=_ALL))
    config.target_modules = sorted(ranks)
    config.rank_pattern = {re.escape(name): rank for name, rank in ranks.items()}
    power = 0.5 if settings.method == "rslora" else 1
    config.alpha_pattern = {
        re.escape(name): settings.alpha * (rank / settings.rank) ** power for name, rank in ranks.items()
    }
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        torch.manual_seed(seed)
        peft_model = get_peft_model(vlm.model, config)
    lora.check_modules(peft_model, list(ranks))
    return peft_model


def train(
    engine: Engine,
    chosen: Placement,
    settings: lora.LoraSettings,
    train: TrainSettings,
    data: TrainingData,
    checkpoint: Path,
    fingerprint: str,
    watch: Watch,
) -> PeftModel:
    """As :func:`headimpact.adapters.cell.train_adapter`, on all projections of the chosen layers at :func:`ranks_of`.

    Raises:
        InputError: as for :func:`ranks_of`, or training diverged.
        DeadAdapterError: the adapter has no effect, or adapts other modules than meant.
    """
    vlm, ranks = engine.vlm, ranks_of(engine.vlm, chosen, settings)
    peft_model = attach(vlm, ranks, settings, train.seed)
    engine.first = vlm.begins_at(min(layer for layer in chosen.layers if {*vlm.projections([layer], _ALL)} & {*ranks}))
    training = Training(engine, peft_model, data.train, data.val, train, checkpoint, fingerprint)
    for _ in watch(steps(training.run()), training.total_steps, "training"):
        pass
    engine.first = 0
    images = list(engine.load(data.val[: train.batch_images], captions(vlm)))
    after = [nll for *_, nll, _ in phrase_nll(engine, images)]
    with lora.disabled(peft_model):
        before = [nll for *_, nll, _ in phrase_nll(engine, images)]
    lora.check_liveness(peft_model, list(ranks), float(np.abs(np.subtract(after, before)).max()))
    return peft_model


def _costs(vlm: Vlm, layers: Sequence[int], targets: Sequence[str]) -> dict[str, int]:
    """What a rank of each projection costs, by its full name."""
    names = vlm.projections(layers, targets)
    return {name: sum(vlm.model.get_submodule(name).weight.shape) for name in names}


def _using(costs: Sequence[int], rest: int) -> set[int]:
    """Places of the costs that together use up as much of ``rest`` as can be: the subset sum, a bit a sum."""
    unit = gcd(*costs)
    sizes, within = [cost // unit for cost in costs], (1 << rest // unit + 1) - 1
    reached = list(accumulate(sizes, lambda sums, size: (sums | sums << size) & within, initial=1))
    total, places = reached[-1].bit_length() - 1, set()
    for place in reversed(range(len(sizes))):
        if not reached[place] >> total & 1:
            places.add(place)
            total -= sizes[place]
    return places
