"""Images and models in memory, as a notebook has them."""

from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

import headimpact
from headimpact.data import scenes
from headimpact.data.samples import Sample
from headimpact.vlm import loading

TINY = ("tiny-paligemma2", "tiny-qwen2-vl", "tiny-smolvlm")


def in_memory(*scene_ids: int) -> list[Sample]:
    drawn = [scenes.draw(0, scene_id) for scene_id in scene_ids]
    return headimpact.make_samples([(s.image, [(thing.mask, thing.rich) for thing in s.things]) for s in drawn])


def from_memory(folder: Path) -> tuple:
    """A transformers model and its processor, whose class needs torchvision for one of the families."""
    base = loading.skeleton(str(folder))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = SimpleNamespace(
        tokenizer=AutoTokenizer.from_pretrained(folder),
        image_processor=base.image_processor,
        chat_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"),
    )
    return model, processor
