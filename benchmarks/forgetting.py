"""Two remedies against forgetting, side by side: an adapter scaled down, and one trained with a KL term to its base.

    headimpact soften --model tiny-paligemma2 --setup top-4        # and of every other model that is to be shown
    PYTHONPATH=src python benchmarks/forgetting.py [--models tiny-paligemma2] [--weights 0.1 1] [--draw]

Trains the setup once for every weight of the KL term (``train.kl``), on the layers that were selected for it, and puts
it beside what ``headimpact soften`` found at every scale: on the validation part, which the scale is chosen on, and on
the test part. What was measured goes to ``benchmarks/forgetting.csv``, that of models that are not named stays there;
``docs/forgetting.png`` is drawn from it (``--draw``: nothing else is done), and ``headimpact write`` writes the table
in docs/method.md.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from headimpact.adapters import cell, lora
from headimpact.adapters.softening import changes
from headimpact.adapters.training import TrainSettings
from headimpact.engine.watch import unwatched
from headimpact.evaluation.objects import evaluate
from headimpact.files import atomic_file, read_json
from headimpact.lifecycle import layout, params
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.steps.inputs import load_engine, read_part
from headimpact.report import figures, scales_figure
from headimpact.selection.grammar import read_setup, softened

SETUP = "top-4"
SCALED, TRAINED = "scaled", "kl"
FIGURE = Path("docs/forgetting.png")


def scaled(model: str) -> Iterator[dict[str, Any]]:
    """What soften found on the validation part, and what evaluate makes of it on the test part."""
    chosen = read_json(layout.adapter(model, softened(SETUP)) / lora.HEADER)["scale"]
    original = pd.read_parquet(layout.evaluated_objects(model, "original"))
    for row in pd.read_csv(layout.scales(model, SETUP)).to_dict("records"):
        yield {"amount": row.pop("scale"), "part": "val", **row}
    for scale, setup in {1.0: SETUP, chosen: softened(SETUP)}.items():  # one where the chosen scale is 1
        objects = pd.read_parquet(layout.evaluated_objects(model, setup))
        yield {"amount": scale, "part": "test", **changes(objects, original)}


def trained(config: Config, model: str, weight: float) -> Iterator[dict[str, Any]]:
    """The setup trained with a KL term, on both parts."""
    engine = load_engine(config, Job(model, SETUP))
    selected = read_json(layout.selection(model, SETUP))
    settings = lora.LoraSettings(**config.lora.model_dump())
    train = replace(TrainSettings(**config.train.model_dump()), kl=weight)
    chosen = cell.placement(selected["layers"], (), read_setup(SETUP).budget, settings.rank)
    data = cell.TrainingData(read_part("train"), read_part("val"))
    with tempfile.TemporaryDirectory() as folder:
        cell.train_adapter(engine, chosen, settings, train, data, Path(folder) / "state", "once", unwatched)
    scales = pd.read_parquet(layout.scaled_objects(model, SETUP))
    originals = {
        "val": scales[scales["scale"] == 0].reset_index(drop=True),
        "test": pd.read_parquet(layout.evaluated_objects(model, "original")),
    }
    for part, original in originals.items():
        yield {
            "amount": weight,
            "part": part,
            **changes(evaluate(engine, read_part(part), config.seed, unwatched), original),
        }


def measure(config: Config, models: Sequence[str], weights: Sequence[float]) -> None:
    """Measure models, and put what was found into the file, in the place of what it had of them."""
    for model in models:
        rows = [{"way": SCALED, **row} for row in scaled(model)]
        for weight in weights:
            print(f"{model}: training {SETUP} with train.kl {weight:g}", flush=True)
            rows += [{"way": TRAINED, **row} for row in trained(config, model, weight)]
        fresh = pd.DataFrame([{"model": model, "setup": SETUP, **row} for row in rows])
        known = pd.read_csv(layout.FORGETTING) if layout.FORGETTING.exists() else fresh.iloc[:0]
        table = pd.concat([known[known["model"] != model], fresh]).sort_values("model", kind="stable")
        with atomic_file(layout.FORGETTING) as aside:
            table.to_csv(aside, index=False, float_format="%.6g", lineterminator="\n")


def draw(bound: float) -> None:
    """A panel a model, from the file: the validation part, on which scales are chosen."""
    table = pd.read_csv(layout.FORGETTING)
    panels = {}
    for model, of_model in table.groupby("model"):
        val, test = of_model[of_model["part"] == "val"], of_model[of_model["part"] == "test"]
        scales = val[val["way"] == SCALED].rename(columns={"amount": "scale"})
        by_weight = {float(row["amount"]): row for _, row in val[val["way"] == TRAINED].iterrows()}
        if by_weight:
            by_weight[0.0] = scales[scales["scale"] == 1].iloc[0]
        chosen = test[test["way"] == SCALED]["amount"].min()
        panels[f"{model} {SETUP}"] = scales_figure.Panel(scales, bound, chosen, by_weight)
    figures.save(scales_figure.draw(panels), FIGURE)


def main() -> None:
    """Measure, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    config = params.load(layout.PARAMS)
    parser.add_argument("--models", nargs="+", default=config.grid.models, help="models to measure")
    parser.add_argument(
        "--weights", nargs="*", type=float, default=[0.1, 1.0], help="weights of the KL term; may be none"
    )
    parser.add_argument("--draw", action="store_true", help="draw what was measured before, and measure nothing")
    given = parser.parse_args()
    if not given.draw:
        measure(config, given.models, given.weights)
    draw(config.forgetting.bound)


if __name__ == "__main__":
    main()
