"""Outputs of all steps, made up for the tests of the report.

One model, *tiny*, of three layers and two heads. Its setups differ from the original by :data:`CHANGES`: top-4 gains
and forgets most, bottom-4 changes nothing that can be claimed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from headimpact.data.samples import Sample, key_object
from headimpact.evaluation import beside_original, metrics
from headimpact.impact import stability, variations
from headimpact.lifecycle import layout

MODEL = "tiny"
IMAGES, OBJECTS = 30, 60
BASE = 1000
"""Parameters of the original."""


@dataclass(frozen=True)
class Change:
    """How a setup differs from the original: nats of a phrase, probability of the truth, questions answered wrong."""

    nll: float
    ans_prob: float
    wrong: int


CHANGES = {
    "original": Change(0.0, 0.0, 0),
    "top-4": Change(-0.4, -0.4, 30),
    "bottom-4": Change(0.0, 0.0, 0),
    "random-4": Change(-0.1, -0.1, 10),
    "full": Change(0.2, 0.1, 0),
}
SETUPS = tuple(CHANGES)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_table(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)


def rounded(estimates: dict[str, Any]) -> dict[str, Any]:
    """Estimates as results.json has them, to six digits: the last bits differ between processors."""
    return {name: {"value": round(e.value, 6), "se": round(e.se, 6), "n": e.n} for name, e in estimates.items()}


# --- what is written of a model


def write_score(root: Path, model: str = MODEL) -> None:
    test = {"statistic": 12.5, "df": 2, "p_value": 0.00002}
    summary = {"model": model, "dataset": "scenes", "table_digest": "abc", "layers": 3, "heads": 2}
    summary["kruskal_wallis"] = {"layers": test, "heads": test | {"df": 1}}
    write_json(root / layout.impact_summary(model), summary)
    table = {
        "layer": np.repeat(np.arange(3), 2),
        "head": np.tile(np.arange(2), 3),
        "hi": [0.1, 0.3, 0.3, 0.5, 0.5, 0.7],
        "chance": 0.1,
        "excess": [0.0, 0.2, 0.2, 0.4, 0.4, 0.6],
        "auroc": [0.9, 0.9, 0.6, 0.6, 0.5, 0.5],
        "mass": 1.0,
    }
    write_table(root / layout.impact_table(model), pd.DataFrame(table))


def write_measures(root: Path, model: str = MODEL) -> None:
    measured = {"layer": range(3), "gradient": [9.0, 5.0, 1.0], "knockout": [0.1, 0.0, 0.2]}
    measured |= {"knockout_se": 0.01, "share": [0.1, 0.2, 0.3], "localisation": 0.5, "kappa": [0.1, 0.3, 0.2]}
    write_table(root / layout.measures(model), pd.DataFrame(measured))


def write_examination(root: Path, model: str = MODEL) -> None:
    """The definition ranks the layers 2, 1, 0; the threshold turns them round."""
    noise = np.random.default_rng(0)
    iou = (np.array([0.1, 0.3, 0.5])[:, None] + noise.normal(0, 0.01, (40, 3, 2))).astype(np.float32)
    images = np.repeat(np.arange(20), 2)
    chance, flat = np.full_like(iou, 0.1), np.full(40, 0.2)
    scores = {way.name: variations.Scores(iou, chance, flat, flat) for way in variations.variations(0.5)}
    scores["threshold: median"] = variations.Scores(iou[:, ::-1], chance, flat, flat)
    folder = root / layout.examination(model)
    table = variations.table(scores, images).round(6)
    numbers = table.select_dtypes("number").columns
    write_table(folder / "variations.csv", table.assign(**{name: table[name] + 0 for name in numbers}))  # no -0.0
    write_table(folder / "stability.csv", stability.curve(iou, images, 0))
    test = {"statistic": 12.5, "df": 2, "p_value": 0.00002}
    facts = {"layers": 3, "heads": 2, "examined_images": 20, "examined_objects": 40}
    facts |= {"variance": asdict(stability.variance_split(iou, images))}
    write_json(folder / "variance.json", facts | {"kruskal_wallis": {"layers": test, "heads": test | {"df": 1}}})


# --- what is written of a setup


def objects(change: Change) -> pd.DataFrame:
    """The results of every test object: what the original has, and the change, which varies a little."""
    noise = np.random.default_rng(0)
    nll, ans_prob = noise.normal(1.5, 0.3, OBJECTS), noise.uniform(0.5, 0.8, OBJECTS)
    varied = np.random.default_rng(round(1000 * abs(change.nll)) + 1)
    jitter = varied.normal(0, 0.02, (2, OBJECTS)) if change is not CHANGES["original"] else np.zeros((2, OBJECTS))
    place = np.arange(OBJECTS)
    return pd.DataFrame(
        {
            "image_id": place // (OBJECTS // IMAGES),
            "object_id": 100 + place,
            "tokens": 3 + place % 4,
            "nll": nll + change.nll + jitter[0],
            "correct": place >= 5 + change.wrong,
            "ans_prob": ans_prob + change.ans_prob + jitter[1],
        }
    )


def write_evaluation(root: Path, setup: str, model: str = MODEL, table: pd.DataFrame | None = None) -> None:
    """Results on the test part; ``table``: the objects, instead of those of :data:`CHANGES`."""
    table = objects(CHANGES[setup]) if table is None else table
    extra = 0 if setup == "original" else 10
    results = {
        "model": model,
        "setup": setup,
        "layers": [] if setup == "original" else [6, 8, 9, 11],
        "parameters": {"total": BASE + extra, "trainable": extra, "percent": 100 * extra / (BASE + extra)},
        "metrics": rounded(metrics.estimates(table)),
    }
    write_json(root / layout.results(model, setup), results)
    write_table(root / layout.evaluated_objects(model, setup), table)


def write_adapter(root: Path, setup: str, model: str = MODEL, source: str = f"bases/{MODEL}") -> None:
    write_json(root / layout.selection(model, setup), {"layers": [6, 8, 9, 11]})
    write_json(root / layout.adapter(model, setup) / "header.json", {"source": source})


def samples(folder: Path) -> list[Sample]:
    """Three images of the test part with two objects each."""
    masks = np.zeros((2, 60, 80), dtype=bool)
    masks[0, 10:30, 10:30], masks[1, 30:50, 50:70] = True, True
    path = folder / "grey.png"
    Image.new("RGB", (80, 60), (100, 100, 100)).save(path)
    return [
        Sample(image, path, 80, 60, tuple(key_object(10 * image + i, "red star", m, 1.0) for i, m in enumerate(masks)))
        for image in (1, 2, 3)
    ]


def orders(setup: str, ids: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """Answers over all orders: top-4 is at chance in them and prefers the label D; all others are right."""
    right = 0.25 if setup == "top-4" else 1.0
    labels = {"label_A": 0.2, "label_B": 0.2, "label_C": 0.2, "label_D": 0.4} if setup == "top-4" else {}
    table = pd.DataFrame(ids, columns=["image_id", "object_id"])
    same = {"correct_one": 1.0, "ans_prob_one": 0.9, "correct_all": right, "ans_prob_all": right, "changed": right < 1}
    return table.assign(**same, **({f"label_{label}": 0.25 for label in "ABCD"} | labels))


def generated(setup: str, ids: Sequence[tuple[int, int]]) -> pd.DataFrame:
    rows = [
        {"image_id": image, "object_id": obj, "phrase": "red star", "kind": kind, "prompt": f"{kind}?"}
        | {"answer": f"said by {setup}", "exact_match": 0.0, "f1": 0.5, "rouge_l": 0.5, "reference_log_prob": -1.5}
        for image, obj in ids
        for kind in ("caption", "question", "cutout")
    ]
    return pd.DataFrame(rows)


def write_answers(root: Path, setup: str, model: str = MODEL, images: Sequence[int] = (1, 2, 3)) -> None:
    """What the step answer wrote of a setup: about :func:`samples`."""
    ids = [(image, 10 * image + i) for image in images for i in range(2)]
    answered = beside_original.Answers(orders(setup, ids), generated(setup, ids))
    write_json(root / layout.answer_results(model, setup), {"metrics": rounded(beside_original.estimates(answered))})
    write_table(root / layout.order_answers(model, setup), answered.orders)
    write_table(root / layout.generated(model, setup), answered.generated)


# --- a tournament


def write_tournament(root: Path, model: str = MODEL) -> None:
    """K = 4: top, excess with top's layers, last (worse in every metric), two draws. The figure is a small picture."""
    names = ("perplexity", "accuracy", "ans_prob")
    changes = [
        (model, rule, 4, name, value, 0.01, value - 0.02, value + 0.02, runs, 200)
        for rule, value, runs in (("top", -0.4, 3), ("excess", -0.4, 3), ("last", -0.1, 3), ("draw", -0.2, 2))
        for name in names
    ]
    columns = ["model", "rule", "k", "metric", "value", "se", "low", "high", "runs", "images"]
    write_table(root / layout.tournament_table("changes"), pd.DataFrame(changes, columns=columns))
    comparisons = [
        (model, "top", rival, 4, name, better, low, high, twins, winner, 0.125, 0.05, needed)
        for rival, better, low, high, twins, winner, needed in (
            ("excess", 0.0, 0.0, 0.0, "top", None, float("inf")),
            ("last", 0.3, 0.2, 0.4, None, "top", 3542.0),
            ("draw", 0.2, -0.1, 0.5, None, None, float("inf")),
        )
        for name in names
    ]
    columns = ["model", "rule", "rival", "k", "metric", "advantage", "low", "high", "twins", "winner"]
    columns += ["visible", "difference", "images_needed"]
    write_table(root / layout.tournament_table("comparisons"), pd.DataFrame(comparisons, columns=columns))
    layers = {"top": ["0,3"] * 3, "excess": ["0,3"] * 3, "last": ["7"] * 3, "draw": ["1,5", "2,8"]}
    cells = [
        (model, rule, 4, seed, 0, chosen, 8, 18432)
        for rule, by_seed in layers.items()
        for seed, chosen in enumerate(by_seed)
    ]
    columns = ["model", "rule", "k", "seed", "draw", "layers", "rank", "trainable"]
    write_table(root / layout.tournament_table("cells"), pd.DataFrame(cells, columns=columns))
    write_json(root / layout.tournament_verdicts(), {model: ["top-4 <b>wins</b>."]})
    Image.new("RGB", (2, 2)).save(root / layout.tournament_figure())


def write_everything(root: Path) -> None:
    """One model with every setup, and a tournament."""
    write_score(root)
    write_measures(root)
    write_examination(root)
    for setup in SETUPS:
        write_evaluation(root, setup)
        write_answers(root, setup)
        if setup != "original":
            write_adapter(root, setup)
    write_json(root / layout.identity(MODEL), {"source": f"bases/{MODEL}"})
    write_tournament(root)
