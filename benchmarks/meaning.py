"""Do the tiny bases mean something? Accuracy, perplexity with and without the image, and the best head.

    PYTHONPATH=src python benchmarks/meaning.py [--images 200]

On the test part of the dataset (make it first: ``headimpact data``). Without the image: the same model on
a grey image of the same size. The best head is scored on as many images of the impact part (its HI on the whole part
stands in ``outputs/impact/``).
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console
from rich.table import Table

from headimpact import statistics
from headimpact.data.coco import read_part
from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine
from headimpact.engine.phrases import captions, phrase_nll
from headimpact.engine.watch import unwatched
from headimpact.evaluation.objects import evaluate
from headimpact.impact.scoring import ChanceSettings, score_images
from headimpact.lifecycle import config, layout, params
from headimpact.tiny import bases
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm


@dataclass(frozen=True)
class Meaning:
    """What a base makes of the dataset."""

    accuracy: statistics.Estimate
    perplexity: statistics.Estimate
    blank_perplexity: statistics.Estimate
    best_head: pd.Series


def blank(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """The same samples with grey images."""
    found = []
    for sample in samples:
        path = folder / f"{sample.id}.png"
        Image.new("RGB", (sample.width, sample.height), (128, 128, 128)).save(path)
        found.append(replace(sample, path=path))
    return found


def perplexity(base: Vlm, samples: Sequence[Sample]) -> statistics.Estimate:
    """Perplexity of the phrases (eq. 3); an engine of its own, because others know images of these ids."""
    engine = Engine(base)
    rows = list(phrase_nll(engine, engine.load(samples, captions(base))))
    return statistics.perplexity(np.array([row[2] for row in rows]), np.array([row[0].id for row in rows]))


def measure(base: Vlm, data: Path, images: int, settings: config.Config) -> Meaning:
    """Evaluate on the first ``images`` test images, whose phrases are the options, score on as many impact images."""
    test = [sample for sample in read_part(data, "test") if sample.objects][:images]
    results = evaluate(Engine(base), test, settings.seed, unwatched)
    images_of_objects = results["image_id"].to_numpy()
    accuracy = statistics.clustered_mean(results["correct"].to_numpy(), images_of_objects)
    seen = statistics.perplexity(results["nll"].to_numpy(), images_of_objects)
    with tempfile.TemporaryDirectory() as folder:
        without = perplexity(base, blank(test, Path(folder)))
    impact = [sample for sample in read_part(data, "impact") if sample.objects][:images]
    chance = ChanceSettings(settings.impact.mask_threshold, settings.impact.chance_draws, settings.seed)
    scores, _ = score_images(Engine(base), impact, chance)
    table = scores.table()
    best = table.iloc[int(table["hi"].to_numpy().argmax())]
    return Meaning(accuracy, seen, without, best)


def main() -> None:
    """Print one row a base."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="images of each part")
    images = parser.parse_args().images
    settings = params.load(layout.PARAMS)
    table = Table()
    for name in ("base", "accuracy", "perplexity", "without image", "best head", "HI", "chance", "standard errors"):
        table.add_column(name, justify="left" if name == "base" else "right")
    for name in bases.TINY:
        found = measure(loading.load(str(layout.base(name))), layout.DATASET, images, settings)
        best = found.best_head
        table.add_row(
            name,
            f"{found.accuracy.value:.3f} ± {found.accuracy.se:.3f}",
            f"{found.perplexity.value:.2f} ± {found.perplexity.se:.2f}",
            f"{found.blank_perplexity.value:.2f} ± {found.blank_perplexity.se:.2f}",
            f"{best['layer']:.0f}.{best['head']:.0f}",
            f"{best['hi']:.3f}",
            f"{best['chance']:.3f}",
            f"{best['excess_z']:.1f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
