"""Gain without forgetting: a trained adapter scaled down, by how much is decided on the validation part.

An adapter adds ``scale x alpha / rank x B A`` to a weight: at scale 1 it is what was trained, at 0 the base. In between
it often keeps most of its gain and forgets much less (the interpolation of weights of *Robust fine-tuning of zero-shot
models*). Nothing is trained for it.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from peft.helpers import rescale_adapter_scale
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

from headimpact.adapters import held
from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine
from headimpact.engine.watch import Watch
from headimpact.errors import InputError
from headimpact.evaluation.metrics import METRICS, gain_first
from headimpact.evaluation.objects import evaluate
from headimpact.files import read_json, write_json

SCALES = tuple(tenth / 10 for tenth in range(11))
"""The scales that are tried."""

FORGETTING = METRICS["accuracy"]
"""The metric that the bound is on."""

_ROUNDING = 1e-9  # of a difference that is the bound itself


@dataclass(frozen=True)
class Choice:
    """The scale of an adapter.

    Attributes:
        scale: the largest at which forgetting can be claimed to stay within the bound.
        by_estimate: the largest at which the estimate does; what was chosen if chance were left out of account.
    """

    scale: float
    by_estimate: float


def check(adapter: Path) -> None:
    """Refuse an adapter that is not the base at scale 0.

    Raises:
        InputError: a DoRA adapter, whose lengths of rows no scale takes back.
    """
    if read_json(adapter / CONFIG_NAME).get("use_dora"):
        raise InputError(
            f"The adapter in {adapter} is a DoRA adapter, which is not the original at scale 0: its lengths of rows "
            "stay. Train it with lora.method lora or rslora to soften it."
        )


def evaluate_scales(
    engine: Engine, samples: Sequence[Sample], seed: int, watch: Callable[[float], Watch]
) -> pd.DataFrame:
    """What a base with an adapter makes of a part at every one of :data:`SCALES`.

    Args:
        engine: the base with its adapter; what lies below its ``first`` is computed at the first scale alone.
        samples: the part.
        seed: draws the questions.
        watch: shows the images at a scale.

    Returns:
        The columns of :class:`headimpact.evaluation.objects.ObjectResult` with ``scale`` before them, scale by scale.

    Raises:
        InputError: the part has too few questions to measure forgetting by.
    """
    tables = []
    for scale in SCALES:
        with rescale_adapter_scale(engine.vlm.model, scale):
            table = evaluate(engine, samples, seed, watch(scale))
        if not FORGETTING.is_measured(table):
            raise InputError(
                "Forgetting cannot be measured: fewer than two validation images have a question, so that no scale can "
                "be chosen. It takes more images with different phrases in the part val (split.val in params.yaml)."
            )
        table.insert(0, "scale", scale)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def curve(objects: pd.DataFrame) -> pd.DataFrame:
    """Gain and forgetting by scale, from per-object results at several scales, 0 among them.

    Returns:
        One row a scale, ascending: scale, and for every compared metric its value and, against scale 0, the paired
        difference with its 95 % interval clustered by image: ``<metric>``, ``<metric>_difference``, ``<metric>_low``,
        ``<metric>_high``.
    """
    by_scale = {scale: objects[objects["scale"] == scale] for scale in sorted(set(objects["scale"].tolist()))}
    return pd.DataFrame([{"scale": scale, **changes(table, by_scale[0.0])} for scale, table in by_scale.items()])


def changes(objects: pd.DataFrame, original: pd.DataFrame) -> dict[str, float]:
    """Every compared metric of an evaluation that is measured, with its paired difference as in :func:`curve`."""
    found: dict[str, float] = {}
    for name, metric in gain_first().items():
        if not metric.is_measured(objects):
            continue
        change = metric.difference(objects, original)
        found |= {name: metric.estimate(objects).value, f"{name}_difference": change.value}
        found |= {f"{name}_low": change.low, f"{name}_high": change.high}
    return found


def choose(by_scale: pd.DataFrame, bound: float) -> Choice:
    """The largest scale whose forgetting stays within ``bound``, from 0 upwards to the first that does not.

    What is held against the bound is the interval: forgetting stays within it where the lower end of the accuracy's
    difference does. Scales are taken in order and the first failure ends it, however the larger ones fare: so the claim
    about the chosen scale holds with the confidence of a single interval (a fixed sequence of tests), though eleven
    scales were looked at. Scale 0 is always within.

    Args:
        by_scale: :func:`curve`.
        bound: of the loss of accuracy, from 0.
    """
    return Choice(*(_reached(by_scale, f"{FORGETTING.name}_{end}", bound) for end in ("low", "difference")))


def can_forget(by_scale: pd.DataFrame, bound: float) -> bool:
    """Whether the original has more to lose than ``bound``: else every scale stays within it, whatever it forgets.

    Args:
        by_scale: :func:`curve`.
        bound: of the loss of accuracy, from 0.
    """
    return float(by_scale[FORGETTING.name].iloc[0]) > bound


def _reached(by_scale: pd.DataFrame, column: str, bound: float) -> float:
    reached = 0.0
    for scale, change in zip(by_scale["scale"].tolist(), by_scale[column].tolist(), strict=True):
        if scale > 0 and change < -bound - _ROUNDING:
            break
        reached = scale
    return reached


def save(adapter: Path, folder: Path, scale: float, header: dict[str, Any]) -> None:
    """Write an adapter at another scale, in plain PEFT format: the same weights, ``lora_alpha`` and ``alpha_pattern``
    times ``scale``.

    Args:
        adapter: folder of the trained one.
        folder: where to write.
        scale: 0 to 1.
        header: of what is written.
    """
    config = read_json(adapter / CONFIG_NAME)
    config["lora_alpha"] = _scaled(config["lora_alpha"], scale)
    config["alpha_pattern"] = {name: _scaled(alpha, scale) for name, alpha in config["alpha_pattern"].items()}
    folder.mkdir(parents=True)
    shutil.copyfile(adapter / SAFETENSORS_WEIGHTS_NAME, folder / SAFETENSORS_WEIGHTS_NAME)
    write_json(folder / CONFIG_NAME, config)
    held.record(folder, header)


def _scaled(alpha: int | float, scale: float) -> float:
    return round(alpha * scale, 9)
