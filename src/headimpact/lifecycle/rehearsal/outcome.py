"""What a rehearsal found: as it is kept, and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from headimpact.errors import InputError
from headimpact.files import read_json, write_json

PARTS = {
    "data": "waiting for data",
    "vision": "vision tower",
    "decoder": "decoder",
    "capture": "capture of rows",
    "IoU": "IoU",
    "backward": "backward",
    "other": "all else",
}
"""Where time goes, in words."""


@dataclass(frozen=True)
class Run:
    """One thing that was tried.

    Attributes:
        what: score, evaluate, or a training step.
        seconds: an image, by part.
        processor: seconds of processor time an image, of all threads; above ``seconds`` where threads work together,
            below where a GPU works or the machine is shared.
        peak: bytes at most; on a GPU those that are allocated on it, else the memory of the process.
        planned_seconds: an image, as ``plan`` estimates it; None where it has no estimate.
        planned_peak: bytes, as ``plan`` estimates them.
        problem: why it could not be done, or empty.
    """

    what: str
    seconds: Mapping[str, float]
    processor: float
    peak: int
    planned_seconds: float | None
    planned_peak: float | None
    problem: str = ""


@dataclass(frozen=True)
class Outcome:
    """A rehearsal.

    Attributes:
        model: its name in params.yaml.
        source: its folder or name on the hub.
        parameters: of the base.
        visual: visual tokens of an image.
        tokenizer: the tiny base that it is of; empty where it is the checkpoint's own.
        device: in words.
        dtype: precision of the base.
        images: how many were worked on.
        size: their width and height in pixels.
        objects: in each of them.
        batch_tokens: tokens in a forward, at most.
        runs: what was tried.
    """

    model: str
    source: str
    parameters: int
    visual: int
    tokenizer: str
    device: str
    dtype: str
    images: int
    size: tuple[int, int]
    objects: int
    batch_tokens: int
    runs: Sequence[Run]

    @property
    def told(self) -> str:
        """What was tried, in a sentence."""
        words = (
            f"{self.model}: {self.parameters:,} random weights in {self.dtype} on {self.device}, {self.images} images "
            f"of {self.size[0]}x{self.size[1]} ({self.visual} visual tokens) with {self.objects} objects each, at most "
            f"{self.batch_tokens} tokens in a forward"
        )
        return f"{words}, tokenizer of {self.tokenizer}" if self.tokenizer else words

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))


def load(path: Path) -> Outcome:
    """What :meth:`Outcome.save` wrote.

    Raises:
        InputError: the file is missing or is none.
    """
    content = read_json(path)
    try:
        runs = [Run(**run) for run in content["runs"]]
        return Outcome(**content | {"runs": runs, "size": tuple(content["size"])})
    except (KeyError, TypeError):
        raise InputError(f"{path} is not what `headimpact rehearse` writes: delete it, or make it again.") from None


def table(outcome: Outcome) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: seconds an image in all and by part, and memory, beside what ``plan`` estimates."""
    runs = outcome.runs
    rows = [["s / image", *("not possible" if run.problem else _seconds(sum(run.seconds.values())) for run in runs)]]
    rows.append(["processor s / image", *("" if run.problem else _seconds(run.processor) for run in runs)])
    rows.append(["plan: s / image", *(_seconds(run.planned_seconds) for run in runs)])
    for part, words in PARTS.items():
        rows.append([words, *(_seconds(run.seconds.get(part)) for run in runs)])
    rows.append(["peak GB", *("" if run.problem else _gigabytes(run.peak) for run in runs)])
    rows.append(["plan: GB", *(_gigabytes(run.planned_peak) for run in runs)])
    return ["", *(run.what for run in runs)], rows


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _gigabytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f}"
