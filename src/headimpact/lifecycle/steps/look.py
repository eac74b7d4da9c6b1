"""Look: where every head looks, original beside adapter, as one page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from headimpact.data.pictures import open_picture
from headimpact.engine.forward import Engine
from headimpact.errors import InputError
from headimpact.files import read_json, write_text
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.jobs import Work
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.adapter import load_adapter
from headimpact.lifecycle.steps.inputs import dataset_digest, draw_images, engine_of, engine_settings, read_part
from headimpact.lifecycle.summary import Summary
from headimpact.report.look.making import ORIGINAL, Looked, of_picture, of_samples
from headimpact.vlm import loading

_NAME_LENGTH = 40


@dataclass(frozen=True)
class Asked:
    """What to look at.

    Attributes:
        images: of the dataset's part impact, if there is no picture.
        picture: an image file, with either
        phrases: what the model says to be in it, or
        question: what it is asked.
    """

    images: int
    picture: Path | None = None
    phrases: Sequence[str] = ()
    question: str | None = None

    def check(self) -> None:
        """Refuse what does not go together, before anything is made or loaded.

        Raises:
            InputError: words without a picture, or a picture without words or with both kinds.
        """
        words = bool(self.phrases) + (self.question is not None)
        if self.picture is None and words:
            raise InputError("--phrase and --question are for a picture: name it with --image photo.jpg.")
        if self.picture is not None and words != 1:
            raise InputError('--image needs what to look for: --phrase "the cat", or --question "What is this?"')
        if not all(text.strip() for text in (*self.phrases, *([] if self.question is None else [self.question]))):
            raise InputError("The phrase or question is empty: say in words what to look for, or what to ask.")
        if self.picture is not None:
            open_picture(self.picture)

    def reads(self, job: Job) -> tuple[Work, set[str]]:
        """A step that reads the same and more, and the steps that write what is read."""
        steps = {"identify"} | ({"data"} if self.picture is None else set())
        return (("score", job), steps) if job.setup == ORIGINAL else (("evaluate", job), steps | {"finetune"})


def run(config: Config, job: Job, asked: Asked) -> Summary:
    """Write the page of a model and a setup, and log it."""
    with tracking.run("look", job.model, job.setup) as run_id:
        engine = _load_engine(config, job, asked.picture is None)
        base = {"model": job.model, "setup": job.setup, "source": engine.vlm.source, "revision": engine.vlm.revision}
        tracking.log_parameters(base | {"images": asked.images} if asked.picture is None else base)
        load_adapter(engine, job)
        if asked.picture is None:
            looked, facts = _dataset(config, job, engine, asked.images)
        else:
            facts = [("picture", asked.picture.name)]
            most = config.answer.max_new_tokens
            looked = of_picture(
                engine, open_picture(asked.picture), asked.phrases, asked.question, most, adapter=job.setup
            )
        beside = "" if job.setup == ORIGINAL else f", {ORIGINAL} beside {job.setup}"
        path = layout.look_page(job.model, job.setup, _name(asked.picture))
        write_text(path, looked.html(f"Where {job.model} looks{beside}", facts))
        tracking.log_metrics({"look/objects": looked.objects})
        tracking.log_files(path)
    return _tell(job, looked, path, run_id)


def _load_engine(config: Config, job: Job, of_dataset: bool) -> Engine:
    """The base, as ``identify`` found it; there need not be a dataset.

    Raises:
        InputError: as for :func:`headimpact.vlm.loading.load`, or its weights are not those that were identified.
    """
    compute, identity = config.compute, read_json(layout.identity(job.model))
    if compute.threads:
        torch.set_num_threads(compute.threads)
    base = loading.load(identity["source"], identity["revision"], compute.device, compute.dtype)
    if base.digest != identity["digest"]:
        raise InputError(
            f"The weights of {base.source} have changed since {layout.identity(job.model)} was written. Put them back, "
            f"or go on with the new ones: headimpact identify --model {job.model}"
        )
    # On disk, what is kept of an image is known by its file, which a picture in memory has none of.
    return engine_of(engine_settings(config), base) if of_dataset else Engine(base, engine_settings(config))


def _dataset(config: Config, job: Job, engine: Engine, images: int) -> tuple[Looked, list[tuple[str, str]]]:
    tracking.log_dataset(config.dataset, layout.DATASET, dataset_digest(), "impact")
    looked = of_samples(
        engine,
        draw_images(read_part("impact"), images, config.seed),
        config.impact.mask_threshold,
        adapter=job.setup,
        watch=lambda items, total, what: track(items, total, f"{what} images: {job.model}"),
    )
    return looked, [("dataset", f"{config.dataset}, part impact")]


def _name(picture: Path | None) -> str:
    """A picture's name as a part of a file's: letters and digits, not too many."""
    return "-".join(re.findall("[a-z0-9]+", picture.stem.lower()))[:_NAME_LENGTH] or "picture" if picture else ""


def _tell(job: Job, looked: Looked, path: Path, run_id: str) -> Summary:
    rows = [("images, objects", f"{len(looked.subjects)}, {looked.objects}")]
    layer, head = looked.looks[ORIGINAL].top[0]
    what = "HI" if looked.looks[ORIGINAL].by_impact else "attention on the image"
    values = ", ".join(f"{name} {look.scores()[layer, head]:.3f}" for name, look in looked.looks.items())
    rows.append(("best head", f"layer {layer} head {head}: {what} {values}"))
    rows += [("note", note) for note in looked.notes]
    rows.append(("page", f"{path.stat().st_size / 1e6:.1f} MB: open it in a browser"))
    skipped = [(f"object {one.object_id} of image {one.image_id}", one.reason) for one in looked.skipped]
    return Summary(
        f"look {job.setup} of {job.model}",
        rows,
        skipped,
        files=[path],
        run=run_id,
        next=f"python -m webbrowser {path.as_posix()}",
    )
