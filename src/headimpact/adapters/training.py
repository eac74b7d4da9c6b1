"""LoRA training on the captions: a loop that yields what it measures, survives being killed, and knows nothing of
MLflow."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor

from headimpact.data.samples import Sample
from headimpact.engine import checkpoints
from headimpact.engine.phrases import batches, caption_loss, phrase_nll
from headimpact.errors import InputError
from headimpact.vlm.base import Vlm

_BEST = "best."
_LARGEST_NLL = 700.0  # nats; exp of a little more is beyond a float


@dataclass(frozen=True)
class TrainSettings:
    """The values of ``train`` in params.yaml."""

    seed: int
    lr: float
    epochs: int
    batch_images: int
    accumulation: int
    warmup_share: float
    weight_decay: float
    max_grad_norm: float
    evals_per_epoch: int
    patience: int
    checkpoint_steps: int


@dataclass(frozen=True)
class Measurement:
    """One measured value of a training run."""

    step: int
    epoch: float
    metric: str
    value: float


def epoch_order(samples: Sequence[Sample], seed: int, epoch: int) -> list[Sample]:
    """The samples in the order of one epoch, from ``(seed, epoch, sample id)`` alone."""
    return sorted(samples, key=lambda sample: np.random.default_rng([seed, epoch, sample.id]).random())


def validation_perplexity(vlm: Vlm, samples: Sequence[Sample], batch_images: int) -> float:
    """Perplexity of the phrases (eq. 3) on the validation part; infinite where the model gives no usable number."""
    nll = [value for group in batches(samples, batch_images) for *_, value, _ in phrase_nll(vlm, group)]
    mean = sum(nll) / len(nll)
    return math.exp(mean) if mean < _LARGEST_NLL else math.inf  # not a number is not below it, either


class Training:
    """One run: trains the adapter that is attached to ``vlm``, keeps the weights of the best validation.

    Args:
        vlm: the base with its adapter attached.
        peft_model: PEFT's view of the same model.
        train: the training part.
        val: the validation part.
        settings: hyperparameters.
        checkpoint: where to keep the state; an existing one with the same fingerprint is continued.
        fingerprint: identifies everything that the result depends on.

    Raises:
        InputError: a part without samples.
    """

    def __init__(
        self,
        vlm: Vlm,
        peft_model: PeftModel,
        train: Sequence[Sample],
        val: Sequence[Sample],
        settings: TrainSettings,
        checkpoint: Path,
        fingerprint: str,
    ):
        if not train or not val:
            raise InputError("Training needs images with objects in both parts, train and val: one has none.")
        self.vlm = vlm
        self.train = train
        self.val = val
        self.settings = settings
        self.checkpoint = checkpoint
        self.fingerprint = fingerprint
        half = {torch.bfloat16: "bf16", torch.float16: "fp16"}
        precision = half.get(vlm.model.dtype, "no")
        # The model is already where it shall be: accelerate must not choose a GPU for one that is not there.
        self.accelerator = Accelerator(cpu=vlm.device.type == "cpu", mixed_precision=precision)
        self.parameters = {n: p for n, p in peft_model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(self.parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.best: dict[str, Tensor] = {}
        self.history: list[Measurement] = []
        self.step = 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(len(self.train) / (self.settings.batch_images * self.settings.accumulation))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps_per_epoch * self.settings.epochs

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then cosine to zero."""
        warmup = max(1, round(self.settings.warmup_share * self.total_steps))
        if step < warmup:
            return self.settings.lr * (step + 1) / warmup
        done = (step - warmup) / max(1, self.total_steps - warmup)
        return self.settings.lr * 0.5 * (1 + math.cos(math.pi * done))

    @cached_property
    def _orders(self) -> dict[int, list[Sample]]:
        """The order of the epoch that was worked on last: to find it takes as long as several steps."""
        return {}

    def _micro_batches(self, step: int) -> list[Sequence[Sample]]:
        """The images of one optimizer step, in groups of ``batch_images``."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = epoch_order(self.train, self.settings.seed, epoch)
        size = self.settings.batch_images * self.settings.accumulation
        chosen = self._orders[epoch][within * size : (within + 1) * size]
        return list(batches(chosen, self.settings.batch_images))

    def _optimize(self, step: int) -> float:
        """One optimizer step; the mean NLL per answer token over all its images."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        nll, answer_tokens = 0.0, 0
        for samples in self._micro_batches(step):
            with self.accelerator.autocast():
                loss, tokens = caption_loss(self.vlm, samples)
            self.accelerator.backward(loss)
            nll += loss.item()
            answer_tokens += tokens
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                parameter.grad /= answer_tokens
        self.accelerator.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return nll / answer_tokens

    def _validate(self) -> Iterator[Measurement]:
        value = validation_perplexity(self.vlm, self.val, self.settings.batch_images)
        best = min(self._validations(), default=math.inf)
        if self.step > 0 and value < best:
            self.best = {name: p.detach().clone() for name, p in self.parameters.items()}
        yield self._note("val/perplexity", value)

    def _validations(self) -> list[float]:
        """Validation perplexities after training began, in order."""
        return [r.value for r in self.history if r.metric == "val/perplexity" and r.step > 0]

    def _note(self, metric: str, value: float) -> Measurement:
        self.history.append(Measurement(self.step, self.step / self.steps_per_epoch, metric, value))
        return self.history[-1]

    @property
    def stopped_early(self) -> bool:
        """Whether the last ``patience`` validations brought nothing better."""
        values = self._validations()
        before, last = values[: -self.settings.patience], values[-self.settings.patience :]
        return bool(before) and min(before) <= min(last)

    def _save(self) -> None:
        tensors = dict(self.parameters) | {_BEST + name: tensor for name, tensor in self.best.items()}
        state = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "history": [[r.step, r.epoch, r.metric, r.value] for r in self.history],
        }
        checkpoints.save(self.checkpoint, tensors, [self.optimizer], state)

    def _resume(self) -> bool:
        if not self.checkpoint.exists():
            return False
        tensors, moments, state = checkpoints.load(self.checkpoint)
        if state["fingerprint"] != self.fingerprint:
            return False
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])
        self.best = {n.removeprefix(_BEST): t for n, t in tensors.items() if n.startswith(_BEST)}
        checkpoints.restore_optimizers([self.optimizer], moments)
        self.history = [Measurement(*row) for row in state["history"]]
        self.step = state["step"]
        return True

    def run(self) -> Iterator[Measurement]:
        """Train to the end or to early stopping; yields every measurement, those of a resumed part first. Afterwards
        the adapter holds the best validated weights.

        Raises:
            InputError: training diverged: no validation gave a finite perplexity.
        """
        if self._resume():
            yield from list(self.history)
        else:
            yield from self._validate()
        every = max(1, self.steps_per_epoch // self.settings.evals_per_epoch)
        while self.step < self.total_steps and not self.stopped_early:
            rate = self.learning_rate(self.step)
            loss = self._optimize(self.step)
            self.step += 1
            yield self._note("train/loss", loss)
            yield self._note("train/lr", rate)
            if self.step % every == 0 or self.step == self.total_steps:
                yield from self._validate()
            if self.step % self.settings.checkpoint_steps == 0:
                self._save()
        if not self.best:
            raise InputError(
                f"Training diverged: the validation perplexity was not finite in any of "
                f"{len(self._validations())} validations. Lower train.lr (it is {self.settings.lr:g})."
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best[name])
