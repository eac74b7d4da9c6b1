"""What people would otherwise write: one conversation a sequence, through transformers' own forward."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from headimpact import clock
from headimpact.adapters.training import TrainSettings, epoch_order
from headimpact.data.samples import Sample
from headimpact.evaluation.questions import draw_questions
from headimpact.impact.accumulator import ImpactAccumulator
from headimpact.impact.layer_scores import score_layer
from headimpact.impact.scoring import ChanceSettings, OtherObjects
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.packing import Tokens
from headimpact.vlm.tokengrid import token_mask

BATCH = 8
"""Conversations in a padded forward."""


def use_transformers_attention(vlm: Vlm) -> None:
    """transformers' own choice: SDPA, and ``eager`` where a logit softcap rules it out."""
    softcap = getattr(vlm.text_config, "attn_logit_softcapping", None)
    vlm.model.set_attn_implementation({"text_config": "eager" if softcap else "sdpa"})


# ---- scoring


@torch.inference_mode()
def score(vlm: Vlm, samples: Sequence[Sample], settings: ChanceSettings) -> pd.DataFrame:
    """One ``eager`` sequence an object, every attention matrix kept until its rows are read. The image processor sees
    an image once, and token masks are made the engine's way, so that only the forwards differ."""
    vlm.model.set_attn_implementation({"text_config": "eager"})
    accumulator, others = ImpactAccumulator(len(vlm.attention_layers), vlm.heads), OtherObjects(samples)
    for sample in samples:
        encoded = vlm.encode_image(sample.image())
        for obj in sample.objects:
            tokens = vlm.tokenize(vlm.caption(obj.phrase), encoded.grid)
            mask = token_mask(vlm.coverages([obj.mask()])[0], settings.threshold)
            if not mask.any():
                continue
            covered = others.coverages(vlm, sample, obj, settings.draws, settings.seed)
            foreign = torch.stack([token_mask(one, settings.threshold) for one in covered])
            output = vlm.model(**vlm.native_inputs(tokens, encoded), output_attentions=True, use_cache=False)
            for layer, attended in enumerate(output.attentions):
                rows = attended[0][:, tokens.target][:, :, tokens.visual].mean(dim=1)
                accumulator.update(layer, score_layer(rows[None], mask[None], foreign[None]))
            accumulator.close([sample.id], [obj.id])
    return accumulator.result().table()


@torch.inference_mode()
def plain_forward(vlm: Vlm, samples: Sequence[Sample]) -> None:
    """The image processor and one forward of one conversation an image; no attention is read."""
    use_transformers_attention(vlm)
    for sample in samples:
        encoded = vlm.encode_image(sample.image())
        tokens = vlm.tokenize(vlm.caption(sample.objects[0].phrase), encoded.grid)
        with clock.part("decoder"):
            vlm.model.model(**vlm.native_inputs(tokens, encoded), use_cache=False)


# ---- batches


def _example(vlm: Vlm, tokens: Tokens, encoded: EncodedImage) -> dict[str, Tensor]:
    labels = torch.full_like(tokens.ids, -100)
    labels[tokens.answer] = tokens.ids[tokens.answer]
    return vlm.native_inputs(tokens, encoded) | {"labels": labels[None]}


def collate(examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Pad conversations on the right to one length, and put their images together."""
    batch = {}
    for name in examples[0]:
        values = [example[name] for example in examples]
        if name in ("input_ids", "attention_mask", "labels", "token_type_ids", "mm_token_type_ids"):
            filler = -100 if name == "labels" else 0
            batch[name] = pad_sequence([value[0] for value in values], batch_first=True, padding_value=filler)
        elif name == "pixel_values" and values[0].ndim == 5:  # crops of an image; blank ones are ignored
            crops = pad_sequence([value[0] for value in values], batch_first=True)
            batch[name] = crops
        else:
            batch[name] = torch.cat(values)
    return batch


class Conversations(torch.utils.data.Dataset):
    """A conversation an object, read, resized and tokenised whenever it is asked for."""

    def __init__(self, vlm: Vlm, samples: Sequence[Sample]) -> None:
        self.vlm = vlm
        self.items = [(sample, obj) for sample in samples for obj in sample.objects]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample, obj = self.items[index]
        encoded = self.vlm.encode_image(sample.image())
        return _example(self.vlm, self.vlm.tokenize(self.vlm.caption(obj.phrase), encoded.grid), encoded)


# ---- training


class _Watch(TrainerCallback):
    """Processor and wall time at every optimizer step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []

    def on_train_begin(self, *arguments: Any, **named: Any) -> None:
        self.steps.append((time.process_time(), time.perf_counter()))

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        self.steps.append((time.process_time(), time.perf_counter()))


class _InOrder(Trainer):
    def _get_train_sampler(self, *arguments: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def train(
    vlm: Vlm,
    model: PeftModel,
    samples: Sequence[Sample],
    settings: TrainSettings,
    rates: Sequence[float],
    folder: Path,
) -> tuple[list[float], list[tuple[float, float]]]:
    """Trainer and PEFT, ``BATCH`` conversations a forward, as many forwards a step as its images have conversations
    for: the loss of every step, and processor and wall time before the first and after each."""
    together = min(BATCH, settings.batch_images * len(samples[0].objects))
    order = [s for epoch in range(settings.epochs) for s in epoch_order(samples, settings.seed, epoch)]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)] / settings.lr)
    watch = _Watch()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=together,
        gradient_accumulation_steps=settings.batch_images * len(samples[0].objects) // together,
        num_train_epochs=1,
        max_grad_norm=settings.max_grad_norm,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = _InOrder(
        model=model,
        args=arguments,
        train_dataset=Conversations(vlm, order),
        data_collator=collate,
        optimizers=(optimizer, schedule),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, watch.steps


# ---- evaluation


@torch.inference_mode()
def evaluate_padded(vlm: Vlm, samples: Sequence[Sample], seed: int) -> pd.DataFrame:
    """One sequence a phrase and a question, ``BATCH`` of them padded into a forward."""
    use_transformers_attention(vlm)
    questions = draw_questions(samples, seed)
    waiting: list[tuple[int, Tokens, Tensor | None, dict[str, Tensor]]] = []
    rows: dict[int, dict[str, float]] = {}

    def run() -> None:
        logits = vlm.model(**collate([inputs for *_, inputs in waiting]), use_cache=False).logits
        for (object_id, tokens, labels, _), of_one in zip(waiting, logits, strict=True):
            log_probs = of_one[tokens.target - 1].float().log_softmax(dim=-1)
            row = rows.setdefault(object_id, {})
            if labels is None:
                row["nll"] = -float(log_probs.gather(1, tokens.ids[tokens.target][:, None]).mean())
            else:
                row["ans_prob"] = float(log_probs[0][labels].softmax(dim=0)[questions[object_id].label])
        waiting.clear()

    for sample in samples:
        for obj in sample.objects:
            asked = questions[obj.id]
            grid = vlm.grid(sample.width, sample.height)
            question, labels = vlm.question_tokens(asked.options, asked.label, grid)
            for tokens, of_labels in ((vlm.tokenize(vlm.caption(obj.phrase), grid), None), (question, labels)):
                waiting.append((obj.id, tokens, of_labels, vlm.native_inputs(tokens, vlm.encode_image(sample.image()))))
                if len(waiting) == BATCH:
                    run()
    if waiting:
        run()
    return pd.DataFrame([{"object_id": object_id, **row} for object_id, row in rows.items()])


@torch.inference_mode()
def evaluate_singly(vlm: Vlm, samples: Sequence[Sample], seed: int) -> pd.DataFrame:
    """One sequence a phrase, and four a question, one with each label; one by one. The image processor sees an image
    once."""
    use_transformers_attention(vlm)
    questions = draw_questions(samples, seed)
    rows = []

    def log_probs(tokens: Tokens, encoded: EncodedImage) -> Tensor:
        logits = vlm.model(**vlm.native_inputs(tokens, encoded), use_cache=False).logits[0]
        chosen = logits[tokens.target - 1].float().log_softmax(dim=-1)
        return chosen.gather(1, tokens.ids[tokens.target][:, None])[:, 0]

    for sample in samples:
        encoded = vlm.encode_image(sample.image())
        for obj in sample.objects:
            asked = questions[obj.id]
            nll = -float(log_probs(vlm.tokenize(vlm.caption(obj.phrase), encoded.grid), encoded).mean())
            variants = [vlm.tokenize(vlm.question(asked.options, label), encoded.grid) for label in "ABCD"]
            of_labels = [float(log_probs(tokens, encoded)[0]) for tokens in variants]
            share = math.exp(of_labels[asked.label]) / sum(map(math.exp, of_labels))
            rows.append({"object_id": obj.id, "nll": nll, "ans_prob": share})
    return pd.DataFrame(rows)
