"""Everything that goes over images, on a tiny random base: what several processes share (``test_shared_work.py``).

As a script it is one of the processes: ``shared_work.py DATASET RESULTS``.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from family_facts import fresh

from headimpact import processes
from headimpact.adapters import cell, lora
from headimpact.adapters.cell import Placement, TrainingData
from headimpact.adapters.training import TrainSettings
from headimpact.data import coco
from headimpact.data.samples import Sample
from headimpact.engine import forward, portions
from headimpact.engine.forward import Engine, Loaded
from headimpact.engine.phrases import captions
from headimpact.engine.watch import unwatched
from headimpact.errors import InputError
from headimpact.evaluation import answers, orders
from headimpact.evaluation.objects import evaluate
from headimpact.evaluation.questions import draw_questions
from headimpact.impact import variations
from headimpact.impact.examination import examine
from headimpact.impact.scoring import ChanceSettings, score_images
from headimpact.processes import ALONE, Processes
from headimpact.selection.measures import measure

SIZES = {"impact": 5, "train": 7, "val": 4, "test": 4}
TARGETS = ("q_proj", "k_proj", "v_proj")
LORA = lora.LoraSettings(rank=2, alpha=4, targets=TARGETS)
# Seven images, three a step: of the last step one process has nothing to do. The KL term is summed over tokens, too.
TRAIN = TrainSettings(0, 2e-3, 2, 3, False, 0.2, 0.0, 1.0, 1, 9, 2, kl=0.5)
CHANCE = ChanceSettings(0.5, 2, 0)


def parts(folder: Path) -> dict[str, list[Sample]]:
    """The images of every part."""
    return {part: coco.read_part(folder, part) for part in SIZES}


def base(shared_by: Processes = ALONE) -> Engine:
    """A tiny base of its own."""
    engine = Engine(fresh("idefics3"))
    engine.processes = shared_by
    return engine


def everything(folder: Path, shared_by: Processes, state: Path) -> dict[str, np.ndarray]:
    """What comes of all images, and the adapter."""
    data, engine = parts(folder), base(shared_by)
    test = data["test"]
    impact, skipped = score_images(engine, data["impact"], CHANCE)
    assert not skipped
    found: dict[str, Any] = {f"score {name}": values for name, values in vars(impact).items()}
    measures = measure(engine, data["impact"], TARGETS)
    found |= {f"measure {name}": values for name, values in measures.values.items()}
    examined = examine(engine, data["impact"], variations.variations(0.5), data["impact"], CHANCE)
    found |= {f"examine {name}": scores.iou for name, scores in examined.scores.items()}
    found["evaluate"] = evaluate(engine, test, 0, unwatched).drop(columns="phrase").to_numpy(float)
    found["orders"] = orders.ask_in_orders(engine, test, draw_questions(test, 0), orders.ORDERS[:3])
    generated = answers.answer_images(engine, test[:3], 4).join(
        answers.reference_log_prob(engine, test[:3]), on="object_id"
    )
    found["answers"] = np.array(generated.to_csv())
    training = TrainingData(data["train"], data["val"])
    adapter, history = cell.train_adapter(
        engine, Placement((1, 3)), LORA, TRAIN, training, state, "the same", unwatched
    )
    found["history"] = np.array([measured.value for measured in history])
    found |= {f"adapter {n}": p.detach().numpy() for n, p in adapter.named_parameters() if "lora_" in n}
    return found


def fail(folder: Path, shared_by: Processes) -> None:
    """The second process fails at its first image, while the first waits for it."""

    def compute(images: Iterator[Loaded[None]]) -> int:
        if shared_by.rank == 1:
            raise InputError("this image is bad")
        return len(list(images))

    engine = base(shared_by)
    list(portions.go_over(engine, parts(folder)["impact"], captions(engine.vlm), compute))


def _refused(work: Callable[[], Any]) -> str:
    try:
        work()
    except InputError as error:
        return str(error)
    return "nothing was refused"


def main(folder: Path, results: Path) -> None:
    """Share the work, write what this process found, and fail at the end."""
    forward.WINDOW = portions.WINDOW = 2
    together = processes.launched("cpu")
    found = everything(folder, together, results / f"{together.rank} state")
    refused = _refused(lambda: together.check_same({"base": "the same", "dataset": f"of process {together.rank}"}))
    with together.folder_of_first(results / "of first" if together.is_first else Path("nowhere")) as copy:
        found["folder"] = np.array([path.name + path.read_text() for path in sorted(copy.iterdir())])
    np.savez(results / f"{together.rank}.npz", **found, refused=np.array(refused))
    together.wait()
    try:
        fail(folder, together)
    except InputError as error:
        if (message := processes.told_here(error)) is not None:
            print(f"Error: {message}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
