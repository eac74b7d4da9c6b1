"""What a person waits for, from files to numbers: the engine against what people would otherwise write.

    PYTHONPATH=src python benchmarks/speed.py [--sizes tiny geometry width] [--tasks score train evaluate growth]

Scoring, LoRA training and evaluation, each on the same images in every way, in three sizes (``subjects.SIZES``), and
how cost grows with objects and images. Every way is measured in a process of its own, with one thread, in processor
time, and its numbers are held to the engine's: where they differ, nothing is written. The results go to
``benchmarks/speed.json``, in place of those of the same cases; ``headimpact write`` writes docs/speed.md from it.
"""

import argparse
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import subjects
import tasks
from rich.console import Console
from rich.table import Table
from tasks import WAYS, Case, Measured

from headimpact.files import read_json, write_json

RESULTS = Path("benchmarks/speed.json")
IMAGES = {
    "score": {"tiny": 16, "geometry": 4, "width": 2},
    "train": {"tiny": 16, "geometry": 2, "width": 2},
    "evaluate": {"tiny": 16, "geometry": 2, "width": 2},
}
LAYERS = {
    "tiny": ((7, 9, 11, 13), (0, 1, 2, 9)),
    "geometry": ((7, 9, 11, 13), (0, 1, 2, 9)),
    "width": ((2, 3), (0, 1)),
}
GROWN_BASE = "tiny-smolvlm"
GROWN = [(4, 1), (4, 3), (4, 10), (4, 60), (16, 3), (48, 3)]
"""Images, and objects in each."""
TOLERANCE = {"score": 2e-4, "train": 2e-3, "evaluate": 2e-4}
"""Largest difference of HI and its chance level; of losses (nats); of NLL (nats) and AnsProb. On IoU a tie at the
threshold can flip a token."""

Record = dict[str, Any]


def cases(sizes: Sequence[str], chosen: Sequence[str], bases: Sequence[str]) -> Iterator[list[Case]]:
    """The cases whose ways are held against each other."""
    for task in WAYS:
        for size in sizes if task in chosen else ():
            for base in bases:
                images = IMAGES[task][size]
                for layers in LAYERS[size] if task == "train" else ((),):
                    yield [Case(size, base, task, way, images, 3, layers) for way in WAYS[task]]
    for images, objects in GROWN if "growth" in chosen else ():
        for task in ("score", "evaluate"):
            yield [Case("tiny", GROWN_BASE, task, way, images, objects, (), True) for way in WAYS[task][:2]]


def measure(group: Sequence[Case]) -> list[Measured]:
    """Every way in a fresh process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tasks"])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return [pool.apply(tasks.measure, [case]) for case in group]


def difference(one: Measured, other: Measured) -> float:
    """Largest absolute difference of what came out; 0 where a way has no numbers."""
    if not other.numbers:
        return 0.0
    return float(np.nanmax(np.abs(np.array(one.numbers) - np.array(other.numbers))))


def records(group: Sequence[Case]) -> list[Record]:
    """What every way took, beside the engine.

    Raises:
        SystemExit: a way gives other numbers.
    """
    measured = measure(group)
    found = []
    for case, result in zip(group, measured, strict=True):
        apart = difference(measured[0], result)
        if apart > TOLERANCE[case.task]:
            raise SystemExit(f"{case}: its numbers are up to {apart:.2g} from those of the engine.")
        taken = {name: value for name, value in asdict(result).items() if name != "numbers"}
        found.append(asdict(case) | {"layers": list(case.layers)} | taken | {"apart": apart})
    return found


def place(record: Record) -> tuple[Any, ...]:
    """What a record is of."""
    return tuple(str(record[name]) for name in ("size", "base", "task", "images", "objects", "layers", "growth", "way"))


def merge(before: Sequence[Record], after: Sequence[Record]) -> list[Record]:
    """New records in the place of old ones of the same case."""
    return list(({place(record): record for record in before} | {place(r): r for r in after}).values())


def show(found: Sequence[Record]) -> None:
    """Print the records of one group."""
    table = Table(title=" ".join(str(found[0][n]) for n in ("size", "base", "task", "images", "objects", "layers")))
    for column in ("way", "processor s / image", "engine is", "s / image", "peak MiB", "passes / image", "apart"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for record in found:
        images = record["images"]
        table.add_row(
            record["way"],
            f"{record['processor'] / images:.4f}",
            f"{record['processor'] / found[0]['processor']:.2f} x",
            f"{record['seconds'] / images:.4f}",
            f"{record['peak']:.0f}",
            f"{record['passes'] / images:.2f}",
            f"{record['apart']:.1g}",
        )
    Console(width=130).print(table)


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=subjects.SIZES, default=list(subjects.SIZES))
    parser.add_argument("--tasks", nargs="+", choices=[*WAYS, "growth"], default=[*WAYS, "growth"])
    parser.add_argument("--bases", nargs="+", choices=subjects.BASES, default=list(subjects.BASES))
    arguments = parser.parse_args()
    for group in cases(arguments.sizes, arguments.tasks, arguments.bases):
        found = records(group)
        show(found)
        before = read_json(RESULTS) if RESULTS.exists() else []
        write_json(RESULTS, merge(before, found))


if __name__ == "__main__":
    main()
