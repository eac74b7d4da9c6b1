"""Runs of training on a tiny base, and what they leave: what the tests of ``training/`` share."""

import collections
import dataclasses
import itertools
from pathlib import Path

import torch
from engines import captions_of, engine_of
from family_facts import fresh

from headimpact import files
from headimpact.adapters import lora
from headimpact.adapters.training import Measurement, Training, TrainSettings, epoch_order
from headimpact.engine.forward import Engine, Loaded

LORA = lora.LoraSettings(rank=2, alpha=4, targets=("q_proj", "k_proj", "v_proj"))
LAYERS = [0, 2, 3]
SETTINGS = TrainSettings(
    seed=0,
    lr=1e-2,
    epochs=3,
    batch_images=2,
    gradient_checkpointing=False,
    warmup_share=0.2,
    weight_decay=0.01,
    max_grad_norm=1.0,
    evals_per_epoch=1,
    patience=9,
    checkpoint_steps=2,
)


def prepare(
    parts,
    checkpoint: Path,
    family="idefics3",
    fingerprint="same",
    dtype=torch.float32,
    batch_tokens=8192,
    **changes,
) -> Training:
    """A run on a base of its own, as a new process would prepare it."""
    vlm = fresh(family)
    vlm.model.to(dtype)
    layers = [layer for layer in LAYERS if layer in vlm.attention_layers]
    peft_model = lora.attach(vlm, layers, LORA, seed=0)
    settings = dataclasses.replace(SETTINGS, **changes)
    run = Training(engine_of(vlm, batch_tokens), peft_model, *parts, settings, checkpoint, fingerprint)
    run.peft_model = peft_model  # type: ignore[attr-defined]
    return run


def adapter_digest(run: Training, folder: Path) -> str:
    """Digest of the adapter's files."""
    lora.save(run.peft_model, folder / "adapter", {})  # type: ignore[attr-defined]
    return files.digest_folder(folder / "adapter")


def weights(run: Training) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.parameters.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def values(history: list[Measurement], metric: str) -> list[float]:
    return [measured.value for measured in history if measured.metric == metric]


def kill_after(run: Training, measurements: int) -> None:
    """Abandon a run after so many measurements; what it did after that is lost, as with kill -9."""
    collections.deque(itertools.islice(run.run(), measurements), maxlen=0)


def nudge(run: Training, step: int) -> float:
    """A step of the optimizer that costs nothing."""
    with torch.no_grad():
        for parameter in run.parameters.values():
            parameter += 0.01 * (step + 1)
    return 1.0


class Script:
    """Validations that give what is written, and the weights that they saw."""

    def __init__(self, run: Training, *perplexities: float):
        self.run = run
        self.perplexities = map(float, perplexities)
        self.seen: list[dict[str, torch.Tensor]] = []

    def __call__(self, engine: Engine, images: list[Loaded[None]]) -> float:
        self.seen.append(weights(self.run))
        return next(self.perplexities)


def trained_a_little(run: Training) -> None:
    """At the start lora_B is zero, and so are the gradients of lora_A."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in run.parameters.items():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@dataclasses.dataclass
class Finished:
    """A run that nobody disturbed."""

    history: list[Measurement]
    digest: str


def gradients(run: Training) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first step."""
    found = {}
    run.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in run.parameters.items()})
    return run.optimize(first_images(run)), found


def first_images(run: Training) -> list[Loaded[None]]:
    """The images of the first step."""
    return captions_of(run.engine, epoch_order(run.train, 0, 0)[: run.settings.batch_images])
