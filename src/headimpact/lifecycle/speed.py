"""The tables of docs/speed.md, from what the benchmark wrote: records of one task done in one way each."""

from itertools import groupby
from pathlib import Path
from typing import Any

from headimpact.files import read_json

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
"""Columns and rows."""

_ENGINE = "engine"
_EAGER, _PLAIN = "eager, a sequence an object", "plain forward"
_PADDED, _SINGLY = "padded, a sequence a phrase and question", "one by one, four sequences a question"
_TRAINER = "Trainer and PEFT"


def groups(path: Path, task: str, grown: bool = False) -> list[dict[str, Record]]:
    """The records of a task by way, a group for what was measured together.

    Args:
        path: what the benchmark wrote.
        task: score, train or evaluate.
        grown: those that show growth with images and objects, or the others.

    Raises:
        FileNotFoundError: nothing was measured.
        InputError: the file is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    chosen = [record for record in read_json(path) if record["task"] == task and record["growth"] == grown]
    found = [
        {record["way"]: record for record in together}
        for _, together in groupby(
            chosen, key=lambda r: [r[name] for name in ("size", "base", "images", "objects", "layers")]
        )
    ]
    if not found:
        raise FileNotFoundError(path)
    return found


def scoring(path: Path) -> Table:
    """Scoring against ``eager`` attention and against one plain forward."""
    columns = ["size", "base", "processor s / image", "eager takes", "files to table, of plain", "forward, of plain"]
    rows = []
    for ways in groups(path, "score"):
        ours, plain = ways[_ENGINE], ways[_PLAIN]
        forward = f"{ours['forward'] / plain['forward']:.2f}"
        row = [*_of(ours), _per_image(ours), _times(ways[_EAGER], ours), _share(ours, plain), forward]
        rows.append([*row, _passes(ours), _peaks(ours, ways[_EAGER])])
    return [*columns, "passes / image", "peak MiB, engine / eager"], rows


def training(path: Path) -> Table:
    """A LoRA epoch against transformers' Trainer with PEFT."""
    columns = ["size", "base", "adapted layers", "first epoch", "later epochs", "Trainer and PEFT", "Trainer takes"]
    rows = []
    for ways in groups(path, "train"):
        ours, usual = ways[_ENGINE], ways[_TRAINER]
        layers = ", ".join(map(str, ours["layers"]))
        first = f"{ours['first'] / ours['images']:.3g}"
        row = [*_of(ours), layers, first, _per_image(ours), _per_image(usual), _times(usual, ours)]
        rows.append([*row, _peaks(ours, usual), f"{usual['apart']:.0e}"])
    return [*columns, "peak MiB, engine / Trainer", "losses differ by"], rows


def evaluation(path: Path) -> Table:
    """Evaluation against one sequence a phrase and question."""
    columns = ["size", "base", "processor s / image", "padded takes", "one by one takes", "peak MiB, engine / padded"]
    rows = []
    for ways in groups(path, "evaluate"):
        ours = ways[_ENGINE]
        takes = [_times(ways[_PADDED], ours), _times(ways[_SINGLY], ours)]
        rows.append([*_of(ours), _per_image(ours), *takes, _peaks(ours, ways[_PADDED])])
    return columns, rows


def growth(path: Path) -> Table:
    """How scoring and evaluation grow with objects and images."""
    columns = ["task", "images", "objects in each", "engine, s / image", "otherwise, s / image", "peak MiB, both"]
    rows = []
    for task, usual in (("score", _EAGER), ("evaluate", _PADDED)):
        for ways in groups(path, task, grown=True):
            ours, other = ways[_ENGINE], ways[usual]
            counts = [str(ours["images"]), str(ours["objects"])]
            rows.append([task, *counts, _per_image(ours), _per_image(other), _peaks(ours, other)])
    return columns, rows


def _of(record: Record) -> list[str]:
    return [record["size"], record["base"].removeprefix("tiny-")]


def _per_image(record: Record) -> str:
    return f"{record['processor'] / record['images']:.3g}"


def _passes(record: Record) -> str:
    return f"{record['passes'] / record['images']:.3g}"


def _times(other: Record, ours: Record) -> str:
    return f"{other['processor'] / ours['processor']:.1f} x"


def _share(ours: Record, other: Record) -> str:
    return f"{ours['processor'] / other['processor']:.2f}"


def _peaks(ours: Record, other: Record) -> str:
    return f"{ours['peak']:.0f} / {other['peak']:.0f}"
