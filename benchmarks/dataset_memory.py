"""Memory and time of reading, checking, splitting and writing a dataset, by its number of images.

    PYTHONPATH=src python benchmarks/dataset_memory.py [--images 1000 5000 20000] [--objects 3] [--command]

The annotations are made up: images of 640 x 480 that are not there, with ragged ellipses as masks, each of a few
hundred run lengths. Each size is measured in a process of its own. *Peak* is the largest resident memory beyond what
the process had before it read anything, *kept* what the samples take afterwards (by ``tracemalloc``, in a second
process, because it slows down), an image and an object.

``--command`` measures what a person sees instead: resident memory at most of ``headimpact check-data`` on a folder with
images of 64 x 48 pixels and one COCO JSON, and of what ``score`` holds beside a model: the part, the objects that
masks are drawn from, and the scores of all heads of tiny-smolvlm until their tables are written.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from headimpact.data import masks
from headimpact.data.coco import annotation_path, images_path, read_annotations, read_image_ids, read_part
from headimpact.data.packed import packed
from headimpact.data.samples import Sample, key_object, object_of_rle
from headimpact.data.split import split_in_proportion
from headimpact.data.writing import write_part

WIDTH, HEIGHT = 640, 480
SHAPES = 200
WINDOW = 64
"""Images of a portion."""
SMALL = (64, 48)
HEADS = (14, 16)
"""Layers and heads of tiny-smolvlm."""
PARTS = {"impact": 1000, "train": 1200, "val": 300, "test": 500}


def draw_rle(seed: int) -> dict:
    """A ragged ellipse as compressed run lengths."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    center, radius = rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.3, 2)
    edge = 1 + rng.normal(0, 0.1, WIDTH)
    return masks.encode(((y / HEIGHT - center[0]) / radius[0]) ** 2 + ((x / WIDTH - center[1]) / radius[1]) ** 2 < edge)


def make_samples(folder: Path, images: int, objects: int) -> Iterator[Sample]:
    """Samples as a dataset has them."""
    shapes = [draw_rle(seed) for seed in range(SHAPES)]
    for image in range(images):
        numbers = range(image * objects, (image + 1) * objects)
        of_image = tuple(
            object_of_rle(number, f"a thing on the left, number {number}", shapes[number % SHAPES], 0.9)
            for number in numbers
        )
        yield Sample(image, images_path(folder) / f"{image:012d}.jpg", WIDTH, HEIGHT, of_image)


def resident(name: str) -> int:
    """Bytes of resident memory of this process: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def measure(folder: Path, traced: bool) -> dict[str, float]:
    """What one size costs: seconds, and bytes beyond those at the start."""
    start = resident("VmRSS")
    if traced:
        tracemalloc.start()
    began = time.process_time()
    samples = read_part(folder, "train")
    read = time.process_time()
    if traced:
        return {"kept": tracemalloc.get_traced_memory()[0]}
    peak = resident("VmHWM") - start
    ids = read_image_ids(folder, "train")
    checked = time.process_time()
    split_in_proportion(ids, PARTS, seed=0)
    divided = time.process_time()
    write_part(folder, "val", samples)
    written = time.process_time()
    seconds = {"read": read - began, "ids": checked - read, "split": divided - checked, "write": written - divided}
    return {"start": start, "peak_read": peak, "peak": resident("VmHWM") - start, **seconds}


def make_folder(folder: Path, images: int, objects: int) -> None:
    """Data as a person has them: small images, each another, and one COCO JSON."""
    shapes = [np.roll(np.pad(np.ones((12, 16), bool), ((0, 36), (0, 48))), (n % 30, n), (0, 1)) for n in range(40)]
    rng = np.random.default_rng(0)

    def sample(image: int) -> Sample:
        path = images_path(folder) / f"{image:06d}.png"
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(SMALL, Image.Resampling.NEAREST).save(path)
        numbers = range(image * objects, (image + 1) * objects)
        of_image = tuple(key_object(n, f"a thing on the left, number {n}", shapes[n % 40], 0.9) for n in numbers)
        return Sample(image, path, *SMALL, of_image)

    images_path(folder).mkdir(parents=True)
    write_part(folder, "train", packed(map(sample, range(images))))
    annotation_path(folder, "train").rename(folder / "annotations.json")
    (folder / "annotations").rmdir()


def hold_scores(folder: Path) -> None:
    """What ``score`` holds beside a model and its forwards, with made-up scores."""
    from headimpact.engine.portions import join
    from headimpact.impact.accumulator import impact_of
    from headimpact.impact.head_impact import SCORES
    from headimpact.impact.scoring import OtherObjects
    from headimpact.lifecycle.steps.results import MOST_ROWS, write_frames, write_table

    samples = read_annotations(folder / "annotations.json", images_path(folder))
    OtherObjects(samples)
    rng = np.random.default_rng(0)

    def portion(start: int) -> dict[str, np.ndarray]:
        pairs = np.array([(s.id, obj.id) for s in samples[start : start + WINDOW] for obj in s.objects])
        scores = rng.random((len(SCORES), len(pairs), *HEADS), np.float32)
        return {"image_ids": pairs[:, 0], "object_ids": pairs[:, 1]} | dict(zip(SCORES, scores, strict=True))

    impact = impact_of(join(map(portion, range(0, len(samples), WINDOW))))
    write_table(folder / "impact.csv", impact.table())
    write_frames(folder / "objects.parquet", (part.objects_frame() for part in impact.portions(MOST_ROWS)))


def peak_of(command: list[str]) -> tuple[float, float]:
    """Resident memory at most of a command (MiB), and its processor time (s)."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed.")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def show_commands(images: list[int], objects: int) -> None:
    """Measure what a person sees, and print one table."""
    table = Table(title=f"{objects} objects an image", title_justify="left")
    for name in ("images", "check-data MiB", "check-data s", "beside a model in score MiB"):
        table.add_column(name, justify="right")
    for count in images:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "own"
            make_folder(folder, count, objects)
            peak, seconds = peak_of([sys.executable, "-m", "headimpact", "check-data", str(folder)])
            scores, _ = peak_of([sys.executable, __file__, "--scores", str(folder)])
        table.add_row(str(count), f"{peak:.0f}", f"{seconds:.1f}", f"{scores:.0f}")
    Console(width=130).print(table)


def child(folder: Path, traced: bool) -> dict[str, float]:
    """``measure`` in a process of its own."""
    command = [sys.executable, __file__, "--child", str(folder), *(["--traced"] if traced else [])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Measure every size and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000, 20000], help="sizes of the dataset")
    parser.add_argument("--objects", type=int, default=3, help="objects an image")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--command", action="store_true", help="what a person sees of commands")
    parser.add_argument("--scores", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments.traced)))
        return
    if arguments.scores:
        return hold_scores(arguments.scores)
    if arguments.command:
        return show_commands(arguments.images, arguments.objects)
    table = Table(title=f"{arguments.objects} objects an image", title_justify="left")
    for name in ("images", "file MiB", "at start MiB", "peak read", "peak all", "kept B / image", "kept B / object"):
        table.add_column(name, justify="right")
    for name in ("read s", "ids s", "split s", "write s"):
        table.add_column(name, justify="right")
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_part(folder, "train", make_samples(folder, images, arguments.objects))
            size = (folder / "annotations" / "train.json").stat().st_size
            costs = child(folder, traced=False) | child(folder, traced=True)
        mebibytes = [f"{value / 2**20:.1f}" for value in (size, costs["start"], costs["peak_read"], costs["peak"])]
        kept = [f"{costs['kept'] / count:.0f}" for count in (images, images * arguments.objects)]
        seconds = [f"{costs[key]:.2f}" for key in ("read", "ids", "split", "write")]
        table.add_row(str(images), *mebibytes, *kept, *seconds)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
