"""How far every family is from transformers' own numbers, in what the contract tests hold it to.

    python benchmarks/contract.py [family ...]

Runs the tests' own measurements (``tests/test_family_contract.py``, ``tests/test_family_geometry.py``) on the tiny
random model of each family, and the geometry of the real checkpoint's image processor, and writes
``benchmarks/contract.json``, in place of what was there of the same families; ``headimpact write`` writes the table in
docs/models.md from it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import family_facts
import obvious
import test_family_contract as contract
import test_family_geometry as geometry
from PIL import Image

from headimpact.files import read_json, write_json
from headimpact.vlm import packing
from headimpact.vlm.base import Vlm
from headimpact.vlm.families import FAMILIES

RESULTS = Path("benchmarks/contract.json")
SIZES = [(37, 911), (1920, 1080), (28, 28), (333, 777), (4000, 300), (640, 480), (427, 640), (1000, 667), (33, 500)]
SIZES += [(200, 145)]
MASKS = [(640, 480), (333, 777)]
BATCH = contract.BATCHES[-1]


def measure(family: str) -> dict[str, Any]:
    """Largest absolute differences, by property; of the properties that hold or not, whether they do."""
    vlm = family_facts.tiny(family)
    images = [vlm.encode_image(contract.noise(index, size)) for index, (size, _) in enumerate(BATCH)]
    captions = [
        [vlm.tokenize(vlm.caption(phrase), image.grid) for phrase in contract.PHRASES[:objects]]
        for image, (_, objects) in zip(images, BATCH, strict=True)
    ]
    nothing: list[list] = [[] for _ in images]
    rows, answers, _ = contract.packed_forward(vlm, images, captions, nothing)
    of_rows, of_answers = 0.0, 0.0
    for image, of_image in zip(images, captions, strict=True):
        for tokens in of_image:
            plain = obvious.native_forward(vlm, tokens, image, output_attentions=True)
            expected = torch.cat(plain.attentions)[:, :, tokens.target][..., tokens.visual].mean(dim=2)
            of_rows = max(of_rows, float((next(rows) - expected).abs().max()))
            logs = plain.logits[0, tokens.answer - 1].log_softmax(-1)
            chosen = logs.gather(1, tokens.ids[tokens.answer, None])[:, 0]
            of_answers = max(of_answers, float((next(answers) - chosen).abs().max()))
    return {
        "family": family,
        "conversations": {packing.PromptAttention.RECURRENT: "alone"}.get(vlm.prompt_attention, "packed"),
        "attention rows": of_rows,
        "answers, nats": of_answers,
        "packed or alone, nats": _packed_or_alone(vlm, images[-1], captions[-1]),
        "coverage of a token": _coverage(family),
        "visual tokens": f"{_same_tokens(family)} of {len(SIZES)} sizes",
    }


def _packed_or_alone(vlm: Vlm, image, captions: list) -> float:
    together = list(contract.packed_forward(vlm, [image], [captions], [[]])[1])
    alone = [next(contract.packed_forward(vlm, [image], [[tokens]], [[]])[1]) for tokens in captions]
    return max(float((one - other).abs().max()) for one, other in zip(together, alone, strict=True))


def _coverage(family: str) -> float:
    """Of the real checkpoint, against masks that go through its image processor as pictures."""
    vlm, largest = family_facts.real(family), 0.0
    for size in MASKS:
        masks = geometry.drawn_masks(*size)
        found, expected = vlm.coverages(masks), family_facts.processed_coverages(family, vlm, masks)
        largest = max(largest, float((found - expected).abs().max()))
    return largest


def _same_tokens(family: str) -> int:
    """In how many sizes the image processor itself makes as many visual tokens of the real checkpoint."""
    vlm = family_facts.real(family)
    return sum(vlm.grid(*size) == vlm.encode_image(Image.new("RGB", size)).grid for size in SIZES)


def main() -> None:
    """Measure the families that are named, or all."""
    families = sys.argv[1:] or list(FAMILIES)
    before = {row["family"]: row for row in read_json(RESULTS)} if RESULTS.exists() else {}
    for family in families:
        before[family] = measure(family)
        Console().print(before[family])
        write_json(RESULTS, [before[name] for name in FAMILIES if name in before])


if __name__ == "__main__":
    main()
