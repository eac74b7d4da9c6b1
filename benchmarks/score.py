"""Seconds per image and peak memory of scoring: the obvious way, the packed engine, one plain forward.

    PYTHONPATH=src python benchmarks/score.py [--images 8] [--objects 3] [--repeats 3]

The obvious way runs one conversation per object through the transformers model itself with ``eager`` attention and
``output_attentions=True``; the packed engine runs all of them in one forward and captures rows; the plain forward
is one conversation through the transformers model with SDPA. All start from the same processed images and tokens
and end with the same rows (the plain forward with none). Each is measured in a process of its own, so that its
peak memory (which includes the weights) is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import Idefics3Config, Idefics3ImageProcessorPil

from headimpact.data import scenes
from headimpact.tiny import bases
from headimpact.vlm import attention, packing
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.families.idefics3 import Idefics3
from headimpact.vlm.loading import load
from headimpact.vlm.packing import Tokens

WAYS = ("obvious", "packed", "plain")
REAL_WIDTH = "SmolVLM's width, 4 layers"
MODELS = (*bases.TINY, REAL_WIDTH)


def real_width() -> Vlm:
    """A decoder of SmolVLM's width with 4 layers and random weights, behind a narrow vision tower."""
    tiny = bases.build("tiny-smolvlm", 0)
    tiny.tokenizer.add_tokens([f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)])
    config = Idefics3Config(
        text_config={
            "model_type": "llama",
            "vocab_size": 49155,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 4,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 384,
            "patch_size": 14,
        },
        scale_factor=3,
        image_token_id=tiny.image_token_id,
    )
    processor = Idefics3ImageProcessorPil(size={"longest_edge": 1536}, max_image_size={"longest_edge": 384})
    torch.manual_seed(0)
    config._attn_implementation = {"text_config": attention.NAME, "vision_config": "sdpa"}
    model = Idefics3.model_class(config)
    return Idefics3(model, tiny.tokenizer, processor, tiny.template, REAL_WIDTH, None, "")


def build(model: str) -> Vlm:
    """One of ``MODELS``; a tiny base with its pretrained weights where they are there."""
    if model == REAL_WIDTH:
        return real_width()
    folder = Path("models/bases") / model
    return load(str(folder)) if folder.is_dir() else bases.build(model, 0)


def obvious(vlm: Vlm, encoded: EncodedImage, captions: list[Tokens]) -> None:
    """One conversation per object, every attention matrix kept until its rows are read."""
    for tokens in captions:
        output = vlm.model(**vlm.native_inputs(tokens, encoded), output_attentions=True, use_cache=False)
        for layer in output.attentions:
            layer[0][:, tokens.target][:, :, tokens.visual].mean(dim=1)


def packed(vlm: Vlm, encoded: EncodedImage, captions: list[Tokens]) -> None:
    """All conversations in one forward, rows captured."""
    together = packing.pack_images([captions], vlm.bidirectional_prompt)
    descriptions = []
    for (row, where), tokens in zip(together.places, together.tokens, strict=True):
        descriptions.append(attention.Description(row, where[tokens.target], tokens.visual))
    features = vlm.image_features([encoded])
    capture = attention.RowCapture(descriptions, lambda layer, maps: None)
    embeddings = vlm.embeddings(together.batch, [features[image] for image in together.images])
    vlm.hidden_states(together.batch, embeddings, capture)


def plain(vlm: Vlm, encoded: EncodedImage, captions: list[Tokens]) -> None:
    """One conversation, no attention read."""
    vlm.model.model(**vlm.native_inputs(captions[0], encoded), use_cache=False)


def measure(model: str, way: str, images: int, objects: int, repeats: int) -> dict[str, float]:
    """Seconds per image (best of ``repeats``) and peak resident memory in MiB."""
    torch.set_grad_enabled(False)
    vlm = build(model)
    if way == "obvious":
        vlm.model.set_attn_implementation("eager")
    if way == "plain" and not hasattr(vlm.text_config, "attn_logit_softcapping"):
        vlm.model.set_attn_implementation("sdpa")
    prepared = []
    for index in range(images):
        scene = scenes.draw(0, index)
        picture = scene.image.resize((640, 480)) if model == REAL_WIDTH else scene.image
        encoded = vlm.encode_image(picture)
        phrases = [f"{thing.rich}" for thing in scene.things]
        phrases = (phrases * objects)[:objects]
        prepared.append(
            (
                encoded,
                [vlm.tokenize(vlm.caption(f"{i + 1} {p}"), encoded.grid) for i, p in enumerate(phrases)],
            )
        )
    function: Callable[[Vlm, EncodedImage, list[Tokens]], None] = {
        "obvious": obvious,
        "packed": packed,
        "plain": plain,
    }[way]
    function(vlm, *prepared[0])
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        for encoded, captions in prepared:
            function(vlm, encoded, captions)
        seconds.append((time.perf_counter() - started) / images)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": min(seconds), "peak": peak, "visual": prepared[0][0].grid.tokens}


def child(arguments: argparse.Namespace, model: str, way: str) -> dict[str, float]:
    """``measure`` in a process of its own."""
    images = max(1, arguments.images // 4) if model == REAL_WIDTH else arguments.images
    command = [sys.executable, __file__, "--child", model, way, str(images)]
    command += ["--objects", str(arguments.objects), "--repeats", str(arguments.repeats)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure everything and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="images (a quarter of them at real width)")
    parser.add_argument("--objects", type=int, default=3, help="objects an image")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many is taken")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        model, way, images = arguments.child
        print(json.dumps(measure(model, way, int(images), arguments.objects, arguments.repeats)))
        return
    table = Table(
        title=f"{arguments.objects} objects an image, {torch.get_num_threads()} threads", title_justify="left"
    )
    for name in (
        "model",
        "visual tokens",
        "way",
        "s / image",
        "of plain",
        "of obvious",
        "peak MiB",
        "of obvious",
    ):
        table.add_column(name, justify="left" if name in ("model", "way") else "right")
    for model in MODELS:
        found = {way: child(arguments, model, way) for way in WAYS}
        for way, own in found.items():
            table.add_row(
                model,
                f"{own['visual']:.0f}",
                way,
                f"{own['seconds']:.4f}",
                f"{own['seconds'] / found['plain']['seconds']:.2f}",
                f"{own['seconds'] / found['obvious']['seconds']:.2f}",
                f"{own['peak']:.0f}",
                f"{own['peak'] / found['obvious']['peak']:.2f}",
            )
        table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
