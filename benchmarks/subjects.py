"""What is measured on: bases of three sizes, and images with as many objects as asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from headimpact.data import scenes
from headimpact.data.samples import Sample, key_object
from headimpact.lifecycle.rehearsal import checkpoints
from headimpact.tiny import bases
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm
from headimpact.vlm.families import family_class

SIZES = {
    "tiny": "tiny base, images of about 144x112",
    "geometry": "real image settings, tiny transformer, images of 640x480",
    "width": "real width, 4 layers (vision tower: 2), images of 640x480",
}
REAL = {
    "tiny-paligemma2": "google/paligemma2-3b-mix-448",
    "tiny-qwen2-vl": "Qwen/Qwen2-VL-2B-Instruct",
    "tiny-smolvlm": "HuggingFaceTB/SmolVLM-Instruct",
}
"""The real checkpoint of the family of each tiny base."""
BASES = tuple(REAL)
DECODER_LAYERS = {"tiny": bases.LAYERS, "geometry": bases.LAYERS, "width": 4}
VISION_LAYERS = 2


def build(size: str, base: str) -> Vlm:
    """A base of a size, in float32 on the CPU; ``base`` is a tiny base, or stands for its family."""
    if size == "tiny":
        folder = Path("models/bases") / base
        return loading.load(str(folder), device="cpu", dtype="float32")
    real, image_processor = checkpoints.published()[REAL[base]].settings()
    config = _narrow(base, real) if size == "geometry" else _shallow(real)
    tokenizer = checkpoints.make_tokenizer(base)
    family = family_class(config.model_type)
    if size == "geometry":
        config.get_text_config().vocab_size = len(tokenizer)  # with the markers of more crops
    config.image_token_id = tokenizer.get_vocab()[family.image_token]
    model = checkpoints.random_model(family, config, torch.device("cpu"), torch.float32)
    return family(model, tokenizer, image_processor, family.own_template, f"{size} {base}", None, "")


def _narrow(base: str, real: Any) -> Any:
    """The tiny transformer behind the real geometry."""
    config, _, _ = bases.TINY[base]()
    for name in ("image_size", "patch_size", "spatial_merge_size", "temporal_patch_size"):
        if hasattr(real.vision_config, name):
            setattr(config.vision_config, name, getattr(real.vision_config, name))
    if hasattr(real, "scale_factor"):
        config.scale_factor = real.scale_factor
    return config


def _shallow(real: Any) -> Any:
    """The real transformer with few layers."""
    text, vision = real.get_text_config(), real.vision_config
    text.num_hidden_layers = DECODER_LAYERS["width"]
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    setattr(vision, "depth" if hasattr(vision, "depth") else "num_hidden_layers", VISION_LAYERS)
    return real


def draw(size: str, images: int, objects: int, folder: Path) -> list[Sample]:
    """Scenes as files, with so many objects each; the same for the same arguments."""
    suitable = _suitable()
    return [_write(next(suitable), number, size, objects, folder) for number in range(images)]


def _suitable() -> Iterator[scenes.Scene]:
    """Scenes with three things at least, one after the other."""
    number = 0
    while True:
        if len((scene := scenes.draw(1, number)).things) >= 3:
            yield scene
        number += 1


def _write(scene: scenes.Scene, number: int, size: str, objects: int, folder: Path) -> Sample:
    """The first three objects are those of the scene; further ones have their masks, moved, and phrases of others."""
    width, height = scene.image.size if size == "tiny" else (640, 480)
    path = folder / f"{number}.jpg"
    scene.image.resize((width, height)).save(path, quality=90)
    found = []
    for index in range(objects):
        thing = scene.things[index % 3]
        mask = np.asarray(Image.fromarray(thing.mask).resize((width, height), Image.Resampling.NEAREST))
        phrase = thing.rich if index < 3 else _phrase(number, index)
        found.append(key_object(number * objects + index, phrase, np.roll(mask, 7 * (index // 3), axis=1), 1.0))
    return Sample(number, path, width, height, tuple(found))


def _phrase(number: int, index: int) -> str:
    rng = np.random.default_rng([number, index])
    words = (scenes.TEXTURES, scenes.COLOURS, scenes.SHAPES, scenes.VERTICALS, scenes.HORIZONTALS)
    return scenes.rich_phrase(*(str(rng.choice(of_kind)) for of_kind in words))
