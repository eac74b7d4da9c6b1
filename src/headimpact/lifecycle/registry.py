"""The steps: one entry each. Command line, entry points of MLflow, graph of DVC and docs/commands.md follow from it.

To add a step: write its entry here and its file in ``steps/``, then run ``headimpact write`` (a test holds what is
written to the entries).
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headimpact.lifecycle import layout

Per = Literal["project", "model", "setup"]
"""What a step is run for: once, for every model, or for every model and setup."""

Place = Path | Callable[..., Path]
"""A path, or what gives it for a model, or for a model and a setup."""

Among = Literal["job", "grid", "tournament"]
"""Whose files are read: those of the same model and setup, or of all in the grid or the tournament."""


@dataclass(frozen=True)
class Read:
    """What a step reads.

    Attributes:
        step: the step that writes it.
        place: where it is.
        among: for which models and setups ``step`` has to have run.
    """

    step: str
    place: Place
    among: Among = "job"


@dataclass(frozen=True)
class Step:
    """A step of the lifecycle.

    Attributes:
        name: the command.
        help: what it does, in a sentence.
        per: what it is run for.
        writes: its outputs; the first one names it.
        reads: what it is made from.
        values: values or sections of params.yaml that decide what it writes.
        untracked: those that it uses and that do not.
        unused: those within ``values`` that it does not use.
        overridable: whether a single run can be made with other ``values``; not where results are compared.
        beside_original: the setup's result is shown beside that of ``original``, which is made first.
        then: the step that follows when a person runs this one.
        in_git: its outputs are committed to git, and kept between runs; DVC's cache has no copy.
        draws: its figures and pages are outputs, so that it depends on the code that draws them.
        code: modules that its result depends on, with nothing that they import; None: all that it imports.
        as_it_is: it shows what is there: when a person runs it, nothing is made first.
        shares: several processes (``accelerate launch``) can share its work.
        metrics: those of its files whose figures ``dvc metrics`` shows.
        pictures: those of its files that ``dvc plots`` shows as they are.
        curves: training curves among its files, which ``dvc plots`` draws over each other for the setups of a model.
        datasets: the values of ``dataset`` for which it has something to do; None: all.
        in_grid: ``dvc repro`` runs it for the whole grid; else only where a person asked for it by name.
        softens: what it writes is the adapter of the softened setup, which stands in the place of a trained one.
    """

    name: str
    help: str
    per: Per
    writes: tuple[Place, ...]
    reads: tuple[Read, ...] = ()
    values: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    overridable: bool = True
    beside_original: bool = False
    then: str | None = None
    in_git: bool = False
    draws: bool = False
    code: tuple[str, ...] | None = None
    as_it_is: bool = False
    shares: bool = False
    metrics: tuple[Place, ...] = ()
    pictures: tuple[Place, ...] = ()
    curves: tuple[Place, ...] = ()
    datasets: tuple[str, ...] | None = None
    in_grid: bool = True
    softens: bool = False

    @property
    def module(self) -> str:
        """Its file; its function is ``run``."""
        return f"headimpact.lifecycle.steps.{self.name}"

    def needed_for(self, dataset: str) -> bool:
        """It has something to do for a dataset."""
        return self.datasets is None or dataset in self.datasets

    @property
    def runs_base(self) -> bool:
        """It computes with a base, so that it depends on the code of the base's family."""
        return any(read.step == "identify" for read in self.reads)


_DEVICE = ("compute.device", "compute.threads")
_ENGINE = (*_DEVICE, *(f"compute.{name}" for name in ("batch_tokens", "workers", "prefetch", "memory_mb", "disk_mb")))
_DATASET = Read("data", layout.DATASET)
_BASE = Read("identify", layout.identity)

STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step(
            "download",
            "Fetch what the datasets published and coco are made from; what is there is kept.",
            "project",
            writes=(layout.made("download"),),
            values=("coco", "dataset", "published"),
            untracked=("download",),
            in_git=True,
            datasets=("coco", "published"),
        ),
        Step(
            "ground",
            "Find the phrases of COCO's captions in the images (Florence-2); goes on where it was.",
            "project",
            writes=(layout.made("ground"),),
            reads=(Read("download", layout.made("download")),),
            values=("compute.dtype", "dataset", "ground"),
            untracked=("ground.batch_images", *_DEVICE),
            in_git=True,
            code=("data.annotators", "data.grounding", "lifecycle.steps.ground", "lifecycle.steps.model_pass"),
            shares=True,
            datasets=("coco",),
        ),
        Step(
            "segment",
            "Find the masks of the phrases' boxes (SAM 2); goes on where it was.",
            "project",
            writes=(layout.made("segment"),),
            reads=(Read("download", layout.made("download")), Read("ground", layout.made("ground"))),
            values=("compute.dtype", "dataset", "segment"),
            untracked=("segment.batch_images", *_DEVICE),
            in_git=True,
            code=("data.annotators", "data.segmentation", "lifecycle.steps.segment", "lifecycle.steps.model_pass"),
            shares=True,
            datasets=("coco",),
        ),
        Step(
            "data",
            "Make the dataset: images, masks and phrases, in four parts.",
            "project",
            writes=(layout.DATASET, layout.DATASET_LOOK),
            reads=(Read("download", layout.made("download")), Read("segment", layout.made("segment"))),
            values=("dataset", "min_score", "published", "scenes.sizes", "seed", "split"),
            draws=True,
        ),
        Step(
            "pretrain",
            "Pretrain an embedded base; goes on from its last checkpoint.",
            "model",
            writes=(layout.base,),
            values=("pretrain",),
            untracked=_DEVICE,
            unused=("pretrain.models",),
            in_git=True,
            code=("data.scenes", "tiny"),
        ),
        Step(
            "identify",
            "Find out which base a model is: source, commit, family, and the digests of its weights and settings.",
            "model",
            writes=(layout.identity,),
            reads=(Read("pretrain", layout.BASES),),
            values=("models",),
            in_git=True,
        ),
        Step(
            "score",
            "Compute the Head Impact of every attention head; goes on where it was.",
            "model",
            writes=(layout.impact,),
            reads=(_DATASET, _BASE),
            values=("compute.dtype", "dataset", "impact.chance_draws", "impact.mask_threshold", "seed"),
            untracked=_ENGINE,
            shares=True,
            draws=True,
            pictures=(layout.heatmap,),
        ),
        Step(
            "measure",
            "Measure each layer's gradient, knockout, attention share, localisation and kappa, for the rules by them.",
            "model",
            writes=(layout.measures,),
            reads=(_DATASET, _BASE),
            values=("compute.dtype", "measure", "seed"),
            untracked=_ENGINE,
            shares=True,
        ),
        Step(
            "examine",
            "Put Head Impact itself under test: other definitions, other images, layers against heads.",
            "model",
            writes=(layout.examination,),
            reads=(_DATASET, _BASE, Read("score", layout.impact_objects)),
            values=("compute.dtype", "examine", "impact.chance_draws", "impact.mask_threshold", "seed"),
            untracked=_ENGINE,
            shares=True,
            draws=True,
        ),
        Step(
            "select",
            "Select the layers of a setup.",
            "setup",
            writes=(layout.selection,),
            reads=(Read("score", layout.impact_table), Read("score", layout.impact_summary)),
            values=("seed",),
        ),
        Step(
            "finetune",
            "Train an adapter on the selected layers, evaluate and register it; whatever it needs is made first.",
            "setup",
            writes=(layout.finetune,),
            reads=(_DATASET, _BASE, Read("select", layout.selection)),
            values=("compute.dtype", "dataset", "lora", "train"),
            untracked=_ENGINE,
            then="evaluate",
            shares=True,
            curves=(layout.history,),
        ),
        Step(
            "soften",
            "Scale a trained adapter down until it forgets little enough, evaluate and register what is left.",
            "setup",
            writes=(layout.softening,),
            reads=(_DATASET, _BASE, Read("finetune", layout.finetune)),
            values=("compute.dtype", "dataset", "forgetting", "seed"),
            untracked=_ENGINE,
            then="evaluate",
            in_grid=False,
            softens=True,
            shares=True,
        ),
        Step(
            "evaluate",
            "Evaluate a setup on the test part, show it beside the original, and register its adapter.",
            "setup",
            writes=(layout.evaluation,),
            reads=(_DATASET, _BASE, Read("finetune", layout.finetune)),
            values=("compute.dtype", "seed"),
            untracked=("serve", *_ENGINE),
            beside_original=True,
            shares=True,
            metrics=(layout.metrics,),
        ),
        Step(
            "answer",
            "Ask a setup in every order of the options and in open questions, beside the original; with a gallery.",
            "setup",
            writes=(layout.answers,),
            reads=(_DATASET, _BASE, Read("finetune", layout.finetune)),
            values=("answer", "compute.dtype", "seed"),
            untracked=_ENGINE,
            overridable=False,
            beside_original=True,
            shares=True,
        ),
        Step(
            "tournament",
            "Set the rules for choosing layers against each other; finished runs are kept, the others are trained.",
            "project",
            writes=(layout.tournament(),),
            reads=(
                _DATASET,
                Read("identify", layout.IDENTITIES, "tournament"),
                Read("score", layout.IMPACT, "tournament"),
                Read("measure", layout.MEASURES, "tournament"),
            ),
            values=("compute.dtype", "lora", "seed", "tournament", "train"),
            untracked=("compute.cluster", "tournament.workers", *_ENGINE),
            unused=("train.seed",),
            in_git=True,
            draws=True,
        ),
        Step(
            "report",
            "Write the tables and figures of all models and setups that were run, and what they say.",
            "project",
            writes=(layout.REPORTS,),
            reads=(
                _DATASET,
                Read("score", layout.IMPACT, "grid"),
                Read("measure", layout.MEASURES, "grid"),
                Read("examine", layout.EXAMINATIONS, "grid"),
                Read("select", layout.SELECTIONS, "grid"),
                Read("finetune", layout.FINETUNED, "grid"),
                Read("evaluate", layout.EVALUATIONS, "grid"),
                Read("answer", layout.ANSWERS, "grid"),
                Read("tournament", layout.tournament()),
            ),
            values=("dataset", "forgetting", "lora"),
            in_git=True,
            draws=True,
            as_it_is=True,
        ),
    )
}
"""Every step by name, in the order of the lifecycle."""


@dataclass(frozen=True)
class Command:
    """A command that is no step: it writes nothing that another one reads.

    Attributes:
        help: what it does, in a sentence.
        entry_point: MLflow can run it, too.
        values: values of params.yaml that can be given for one run.
    """

    help: str
    entry_point: bool = False
    values: tuple[str, ...] = ()


COMMANDS = {
    "advise": Command(
        "Tell which setup of a model to use, from what was measured: gain, forgetting, cost, and what to do next.", True
    ),
    "plan": Command(
        "Tell what a model and its setups would cost, from its config alone: nothing heavy is fetched.", True
    ),
    "look": Command(
        "Show where every head looks on images of the dataset or on any picture, original beside adapter: one page.",
        True,
        values=("compute.dtype", *_ENGINE),
    ),
    "rehearse": Command(
        "Score, train a step and evaluate with a checkpoint of true size and random weights: what a real one will cost."
    ),
    "main": Command("Run the whole grid and the report: dvc repro in one process, its runs nested under one.", True),
    "register": Command(
        "Register the adapters of a model that are trained and evaluated, or bring their versions up to date."
    ),
    "demo": Command("Open a page on which the original and the adapters of a model answer side by side."),
    "check-data": Command(
        "Check every record and image of a dataset: what is wrong, and what it will and will not measure."
    ),
    "convert": Command("Make data of your own from the files of LabelMe, YOLO, a CSV table or a COCO export."),
    "export": Command(
        "Deliver a trained adapter: with a model card, checked for servers, and as merged weights where asked for."
    ),
    "write": Command("Write the files that follow from the registry of steps and from the code; for who edits these."),
}
"""Every command that is no step, by name."""


def locate(place: Place, model: str, setup: str) -> Path:
    """The path of a place for a model and a setup."""
    if isinstance(place, Path):
        return place
    return place(*(model, setup)[: len(inspect.signature(place).parameters)])
