"""What a setup costs, from a checkpoint's config alone: parameters exactly, memory and time as estimates."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from headimpact.adapters import lora
from headimpact.selection.grammar import Setup
from headimpact.vlm import packing
from headimpact.vlm.base import Vlm

FLOAT32_BYTES = 4
# An adapter's weight has a gradient and the two moments of AdamW, all in float32.
ADAPTER_BYTES = 4 * FLOAT32_BYTES
# Share of a matrix product's rate that a whole model reaches: the rest of a layer moves memory.
EFFICIENCY = 0.4
# Of a device that is not here: a GPU of 24 GB in bfloat16.
ASSUMED_RATE = 70e12


@dataclass(frozen=True)
class Workload:
    """What the images of one forward bring, on average over images.

    Attributes:
        images: images in a forward.
        visual: visual tokens of an image.
        tokens: tokens of an image's packed sequence, visual ones included.
        answers: tokens of an image's answers, which are projected to logits.
        blocks: parts of an image that the vision tower sees one by one (SmolVLM's crops; else 1).
    """

    images: int
    visual: float
    tokens: float
    answers: float
    blocks: float


@dataclass(frozen=True)
class Estimate:
    """One forward, with its backward where something is trained. All but ``weights`` and ``adapter`` are estimates.

    Attributes:
        weights: bytes of the base's parameters.
        adapter: bytes of the adapter, its gradients and the optimizer's state.
        activations: bytes that are alive at the peak beside those.
        flops: floating point operations.
    """

    weights: int
    adapter: int
    activations: float
    flops: float

    @property
    def memory(self) -> float:
        """Bytes at the peak; what the device's own libraries take comes on top."""
        return self.weights + self.adapter + self.activations


def setup_layers(setup: Setup, layers: Sequence[int]) -> list[int]:
    """The layers that a setup adapts, for a plan: those that a score would choose are not known before it, so the
    first ones stand for them, whose backward is the longest.

    Args:
        setup: of layers.
        layers: those that have attention.
    """
    if setup.kind == "layers":
        return list(setup.layers)
    return list(layers if setup.kind == "full" else layers[: setup.count])


def count_parameters(
    vlm: Vlm, layers: Sequence[int], settings: lora.LoraSettings, ranks: Mapping[int, int] | None = None
) -> lora.Parameters:
    """Total and trainable parameters with an adapter on ``layers`` (table 5), exactly; ``vlm`` is left as it was.

    ``ranks`` is as for :func:`headimpact.adapters.lora.attach`.

    Raises:
        DeadAdapterError: PEFT adapted other modules than asked for.
    """
    if not layers:
        return lora.Parameters(lora.count_parameters(vlm.model).total, 0)
    trainable = [parameter.requires_grad for parameter in vlm.model.parameters()]
    peft_model = lora.attach(vlm, layers, settings, seed=0, ranks=ranks)
    counts = lora.count_parameters(peft_model)
    vlm.model = peft_model.unload()
    for parameter, before in zip(vlm.model.parameters(), trainable, strict=True):
        parameter.requires_grad_(before)
    return counts


def workload(
    vlm: Vlm, images: Sequence[tuple[int, int, Sequence[str]]], batch_tokens: int, batch_images: int
) -> Workload:
    """The average image of a training step, and how many of them go into a forward.

    Args:
        vlm: its geometry, tokenizer and template count.
        images: width and height in pixels and the phrases of each.
        batch_tokens: tokens in a forward, at most.
        batch_images: images in an optimiser step.
    """
    visual = tokens = answers = blocks = 0
    for width, height, phrases in images:
        grid = vlm.grid(width, height)
        captions = [vlm.tokenize(vlm.caption(phrase), grid) for phrase in phrases]
        visual += grid.tokens
        blocks += grid.blocks
        tokens += sum(len(packed.ids) for packed in packing.pack_image(captions, vlm.prompt_attention))
        answers += sum(len(caption.answer) for caption in captions)
    count = len(images)
    together = min(batch_images, max(1, batch_tokens * count // tokens))
    return Workload(together, visual / count, tokens / count, answers / count, blocks / count)


def estimate(
    vlm: Vlm, load: Workload, lowest: int | None, trainable: int, dtype: torch.dtype, checkpointing: bool = False
) -> Estimate:
    """Memory and operations of one forward (and backward).

    Memory at the peak is the sum of
      - the base's parameters in ``dtype`` (exact), and 16 bytes per trainable parameter (weight, gradient, two
        moments of AdamW, in float32);
      - what the backward needs of every layer from the lowest adapted one up, per token: ``3 width + 4 heads x
        head_width + 3 feed_forward`` numbers in ``dtype`` (inputs of the adapters; queries, keys, values, output;
        gate, its activation, up) and ``width`` float32 numbers per norm; a layer that has no attention keeps its own
        numbers in the place of those of queries, keys, values and output. With a logit softcap (Gemma 2) the
        attention's probabilities are kept, too: 8 bytes x heads x tokens x tokens per image;
      - the logits of the answer tokens: 3 float32 numbers per vocabulary entry (5 with a final softcap) and one
        in ``dtype``;
    or, where that is more than the last two together, of one layer of the vision tower: ``4 width + 2
    feed_forward`` numbers in ``dtype`` per patch. Without training one decoder layer counts instead of all.

    Operations: 2 per parameter and token forward, in the decoder's layers, the vision tower and (answer tokens
    alone) the output projection; 4 x tokens x tokens x width for attention, in layers that have it. Backward
    through frozen layers costs as much again, not twice as much, because no weight has a gradient; attention costs
    twice as much. Both from the lowest adapted layer up, and for the output projection; the vision tower has no
    backward.

    Measured on small models of the three families in float32 on a CPU: the backward kept 5 to 15 % less than
    the activations estimated here; the time of a step was between 0.3 and 2.5 times that of the operations at
    ``EFFICIENCY`` of a matrix product's rate. Half precision and GPUs were not measured.

    Args:
        vlm: the architecture; a skeleton is enough.
        load: what one forward works on.
        lowest: the lowest adapted layer; None where nothing is trained.
        trainable: trainable parameters.
        dtype: precision of the base.
        checkpointing: the backward keeps what enters each layer, and computes the rest of one layer at a time again.
    """
    return Estimate(
        weights=lora.count_parameters(vlm.model).total * dtype.itemsize,
        adapter=trainable * ADAPTER_BYTES,
        activations=_activations(vlm, load, lowest, dtype.itemsize, checkpointing),
        flops=_flops(vlm, load, lowest, checkpointing),
    )


def _activations(vlm: Vlm, load: Workload, lowest: int | None, size: int, checkpointing: bool) -> float:
    text, vision = vlm.text_config, vlm.model.config.vision_config
    layer = vlm.decoder.get_submodule("layers.0")
    attention, feed_forward = _width_of(vlm, "self_attn.o_proj"), _width_of(vlm, "mlp.down_proj")
    norms = sum("norm" in name for name, _ in layer.named_children())
    per_token = size * (3 * text.hidden_size + 4 * attention + 3 * feed_forward)
    per_token += FLOAT32_BYTES * text.hidden_size * norms
    per_image = per_token * load.tokens
    if getattr(text, "attn_logit_softcapping", None):
        per_image += 8 * text.num_attention_heads * load.tokens**2
    recurrent = (per_token - size * 4 * attention + FLOAT32_BYTES * vlm.recurrent_numbers) * load.tokens
    layers = 1 if lowest is None else vlm.layers - lowest
    entering = layers * load.tokens * text.hidden_size * size if checkpointing else 0
    in_layers = max(per_image, recurrent) if len(vlm.attention_layers) < vlm.layers else per_image
    if lowest is not None and not checkpointing:
        attending = sum(layer >= lowest for layer in vlm.attention_layers)
        in_layers = max(in_layers, attending * per_image + (layers - attending) * recurrent)
    copies = 5 if getattr(text, "final_logit_softcapping", None) else 3
    logits = load.answers * text.vocab_size * (copies * FLOAT32_BYTES + size)
    width, widened = _vision_widths(vision)
    patches = load.visual * vlm.patches_per_token
    seen = patches * size * (4 * width + 2 * widened)
    return load.images * max(in_layers + entering + logits, seen)


def _flops(vlm: Vlm, load: Workload, lowest: int | None, checkpointing: bool) -> float:
    text, vision = vlm.text_config, vlm.model.config.vision_config
    in_layer = lora.count_parameters(vlm.decoder.get_submodule("layers")).total / vlm.layers
    matrices = 2 * in_layer * load.tokens
    attention = 4 * load.tokens**2 * _width_of(vlm, "self_attn.o_proj") * len(vlm.attention_layers) / vlm.layers
    backward = 0 if lowest is None else vlm.layers - lowest
    forwards = vlm.layers + (backward if checkpointing else 0)
    decoder = forwards * (matrices + attention) + backward * (matrices + 2 * attention)
    logits = 2 * text.hidden_size * text.vocab_size * load.answers * (1 if lowest is None else 2)
    patches = load.visual * vlm.patches_per_token
    width, _ = _vision_widths(vision)
    depth = getattr(vision, "depth", None) or vision.num_hidden_layers
    tower = 2 * _vision_parameters(vlm) * patches + depth * 4 * patches * (patches / load.blocks) * width
    return load.images * (decoder + logits + tower)


def _width_of(vlm: Vlm, part: str) -> float:
    """What a layer that has attention makes of a token in one of its parts, on average over these layers."""
    layers = [vlm.decoder.get_submodule(f"layers.{layer}.{part}") for layer in vlm.attention_layers]
    return sum(layer.weight.shape[1] for layer in layers) / len(layers)  # pyright: ignore


def _vision_widths(vision) -> tuple[int, int]:
    """Width and feed-forward width of the vision tower; Qwen2-VL names them in its own way."""
    if hasattr(vision, "embed_dim"):
        return vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio)
    return vision.hidden_size, vision.intermediate_size


def _vision_parameters(vlm: Vlm) -> int:
    """Parameters outside of the language model: the vision tower and what connects it; no image goes through what is
    for audio (Gemma 4)."""
    decoder = {id(parameter) for parameter in vlm.decoder.parameters()}
    decoder |= {id(parameter) for name, parameter in vlm.model.named_parameters() if "audio" in name}
    decoder |= {id(parameter) for parameter in vlm.model.get_output_embeddings().parameters()}
    return sum(parameter.numel() for parameter in vlm.model.parameters() if id(parameter) not in decoder)


def measure_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Operations per second of a matrix product on ``device``, in about ``seconds``."""
    side = 4096 if device.type == "cuda" else 1024
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    _product(left, right)  # the first one loads libraries
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        _product(left, right)
        done += 1
    return done * 2 * side**3 / passed


def _product(left: torch.Tensor, right: torch.Tensor) -> float:
    return (left @ right)[0, 0].item()  # reading a number waits for the device
