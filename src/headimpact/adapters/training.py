"""LoRA training on the captions: a loop that yields what it measures, survives being killed, and knows nothing of
MLflow."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import kl_div

from headimpact.adapters import lora
from headimpact.data.samples import Sample
from headimpact.engine import checkpoints, likelihood
from headimpact.engine.forward import Engine, Forward, Loaded
from headimpact.engine.phrases import Losses, backward, caption_losses, captions, phrase_nll
from headimpact.engine.portions import go_over
from headimpact.errors import InputError

_BEST = "best."
_LARGEST_NLL = 700.0  # nats; exp of a little more is beyond a float


@dataclass(frozen=True)
class TrainSettings:
    """The values of ``train`` in params.yaml; ``kl`` is the weight in :func:`anchored_losses`."""

    seed: int
    lr: float
    epochs: int
    batch_images: int
    gradient_checkpointing: bool
    warmup_share: float
    weight_decay: float
    max_grad_norm: float
    evals_per_epoch: int
    patience: int
    checkpoint_steps: int
    kl: float = 0.0


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


def validation_perplexity(engine: Engine, samples: Sequence[Sample]) -> float:
    """Perplexity of the phrases (eq. 3) of some images that come round again; infinite where the model gives no usable
    number."""

    def compute(images: Iterator[Loaded[None]]) -> list[float]:
        return [value for *_, value, _ in phrase_nll(engine, images)]

    portions = go_over(engine, samples, captions(engine.vlm), compute, keep=True)
    nll = [value for of_portion in portions for value in of_portion]
    mean = sum(nll) / len(nll)
    return math.exp(mean) if mean < _LARGEST_NLL else math.inf  # not a number is not below it, either


def anchored_losses(peft_model: PeftModel, weight: float) -> Losses:
    """The loss that keeps an adapter near its base: NLL + ``weight`` x KL(base || adapter), in nats.

    KL(base || adapter) = sum over the vocabulary of p_base x (log p_base - log p_adapter), at each of the answer's
    tokens; p_base is what the same base says of the same conversation with the adapter switched off. What lies below
    the lowest adapted layer is the same in both and computed once.
    """

    def losses(forward: Forward) -> list[Tensor]:
        vlm, packed = forward.engine.vlm, forward.packed
        answers = [tokens.answer for tokens in packed.tokens]
        # The base first: switching an adapter off and on must not come between its forward and its backward.
        with torch.no_grad(), lora.disabled(peft_model):
            before = likelihood.distributions(vlm, packed, forward.hidden(), answers)
        after = likelihood.distributions(vlm, packed, forward.hidden(), answers)
        found = []
        for tokens, base, adapted in zip(packed.tokens, before, after, strict=True):
            ids = tokens.ids[tokens.answer].to(adapted.device)
            nll = -adapted.gather(1, ids[:, None])[:, 0]
            found.append(nll + weight * kl_div(adapted, base, reduction="none", log_target=True).sum(1))
        return found

    return losses


class Training:
    """One run: trains the adapter that is attached to a base, keeps the weights of the best validation.

    The engine's processes share the images of every step and of every validation; gradients are summed over them and
    divided by all answer tokens, so that all make the same step. The first one writes the checkpoint.

    Args:
        engine: the base with its adapter attached.
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
        engine: Engine,
        peft_model: PeftModel,
        train: Sequence[Sample],
        val: Sequence[Sample],
        settings: TrainSettings,
        checkpoint: Path,
        fingerprint: str,
    ):
        self.train = [sample for sample in train if sample.objects]
        self.val = [sample for sample in val if sample.objects]
        if not self.train or not self.val:
            raise InputError("Training needs images with objects in both parts, train and val: one has none.")
        self.places = {sample.id: place for place, sample in enumerate(self.train)}
        self.engine = engine
        self.losses = anchored_losses(peft_model, settings.kl) if settings.kl else caption_losses
        self.captions = captions(engine.vlm)
        self.settings = settings
        self.checkpoint = checkpoint
        self.fingerprint = fingerprint
        if settings.gradient_checkpointing:
            engine.vlm.checkpoint_gradients()
        half = {torch.bfloat16: "bf16", torch.float16: "fp16"}
        precision = half.get(engine.vlm.model.dtype, "no")
        # The model is already where it shall be: accelerate must not choose a GPU for one that is not there.
        self.accelerator = Accelerator(cpu=engine.vlm.device.type == "cpu", mixed_precision=precision)
        self.parameters = {n: p for n, p in peft_model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(self.parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.best: dict[str, Tensor] = {}
        self.history: list[Measurement] = []
        self.step = 0
        self._saved_step: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(len(self.train) / self.settings.batch_images)

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

    def _images(self, step: int) -> Iterator[Iterator[Loaded[None]]]:
        """This process's images of every optimizer step from ``step`` to the end; those of one are taken before the
        next ones."""
        epoch, within = divmod(step, self.steps_per_epoch)
        size = self.settings.batch_images
        while epoch < self.settings.epochs:
            order = epoch_order(self.train, self.settings.seed, epoch)
            shares = [self._share(order[first : first + size]) for first in range(within * size, len(order), size)]
            loaded = self.engine.load([sample for share in shares for sample in share], self.captions, keep=True)
            for share in shares:
                yield islice(loaded, len(share))
            next(loaded, None)  # keeps the last one
            epoch, within = epoch + 1, 0

    def _share(self, images: Sequence[Sample]) -> list[Sample]:
        """What this process does of the images of a step: no process has more than its part of them, and each image
        goes to the process that had it in earlier epochs, and has kept what is frozen, wherever that allows it."""
        processes = self.engine.processes
        room = [math.ceil(len(images) / processes.count)] * processes.count
        shares: list[list[Sample]] = [[] for _ in room]
        left = []
        for sample in images:
            home = self.places[sample.id] % processes.count
            (shares[home] if len(shares[home]) < room[home] else left).append(sample)
        for sample in left:
            min(shares, key=len).append(sample)
        return shares[processes.rank]

    def _backward(self, loss: Tensor) -> None:
        """Add a loss's gradient to what is there; nothing is added where memory ends on the way."""
        before = {name: parameter.grad for name, parameter in self.parameters.items()}
        self.optimizer.zero_grad()
        try:
            self.accelerator.backward(loss)
        except torch.OutOfMemoryError:
            for name, parameter in self.parameters.items():
                parameter.grad = before[name]
            raise
        for name, parameter in self.parameters.items():
            if (earlier := before[name]) is not None:
                parameter.grad = earlier if parameter.grad is None else earlier.add_(parameter.grad)

    def optimize(self, images: Iterable[Loaded[None]]) -> float:
        """One optimizer step; the mean loss per answer token over all its images: NLL, and ``train.kl`` times KL."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        with self.accelerator.autocast():
            of_this_process = backward(self.engine, images, self._backward, self.losses)
            loss, answer_tokens = self._sum_over_processes(*of_this_process)
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                parameter.grad /= answer_tokens
        self.accelerator.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss / answer_tokens

    def _sum_over_processes(self, loss: float, tokens: int) -> tuple[float, int]:
        """Add the gradients of all processes up, in each of them; gives loss and tokens of all."""
        processes = self.engine.processes
        if processes.count == 1:
            return loss, tokens
        totals = processes.gather((loss, tokens))
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()]
        total = processes.add(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = total.split([gradient.numel() for gradient in gradients])
        for parameter, part in zip(self.parameters.values(), parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return sum(part for part, _ in totals), sum(part for _, part in totals)

    def _validate(self) -> Iterator[Measurement]:
        value = validation_perplexity(self.engine, self.val)
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
        if not self.engine.processes.is_first:
            return
        tensors = dict(self.parameters) | {_BEST + name: tensor for name, tensor in self.best.items()}
        state = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "history": [[r.step, r.epoch, r.metric, r.value] for r in self.history],
        }
        checkpoints.save(self.checkpoint, tensors, [self.optimizer], state)
        self._saved_step = self.step

    def _resume(self) -> bool:
        processes = self.engine.processes
        found = processes.give(self._read_state() if processes.is_first else None)
        if found is None:
            return False
        tensors, moments, state = found
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])
        self.best = {n.removeprefix(_BEST): t for n, t in tensors.items() if n.startswith(_BEST)}
        checkpoints.restore_optimizers([self.optimizer], moments)
        self.history = [Measurement(*row) for row in state["history"]]
        self.step = self._saved_step = state["step"]
        return True

    def _read_state(self) -> tuple[dict[str, Tensor], checkpoints.Moments, dict[str, Any]] | None:
        """What the checkpoint holds, if it is of the same training."""
        if not self.checkpoint.exists():
            return None
        found = checkpoints.load(self.checkpoint)
        return found if found[-1]["fingerprint"] == self.fingerprint else None

    def run(self) -> Iterator[Measurement]:
        """Train to the end or to early stopping; yields every measurement, those of a resumed part first. Afterwards
        the adapter holds the best validated weights, and the checkpoint the end, until it is removed.

        Raises:
            InputError: training diverged: no validation gave a finite perplexity.
        """
        if self._resume():
            yield from list(self.history)
        else:
            yield from self._validate()
        every = max(1, self.steps_per_epoch // self.settings.evals_per_epoch)
        steps = self._images(self.step)
        while self.step < self.total_steps and not self.stopped_early:
            rate = self.learning_rate(self.step)
            loss = self.optimize(next(steps))
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
        if self._saved_step != self.step:
            self._save()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best[name])
