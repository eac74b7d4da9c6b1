"""Make the dataset from whatever ``dataset`` names, and look at it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from headimpact.data import assembly, coco, manifest, published, segmented
from headimpact.data.own_data import import_own_data
from headimpact.data.packed import PackedSamples
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.errors import InputError
from headimpact.files import atomic_folder
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.outlook import outlook
from headimpact.lifecycle.params import is_own
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.inputs import project_facts
from headimpact.lifecycle.steps.sources import release
from headimpact.lifecycle.summary import Summary
from headimpact.lifecycle.unrecorded import TAKEN, once
from headimpact.report import contact_sheet, figures
from headimpact.vlm import loading

SHEET_IMAGES = 12


def run(config: Config, job: Job) -> Summary:
    """Write the dataset as COCO JSON in four parts, a contact sheet of it, and histograms."""
    with tracking.run("data") as run_id:
        tracking.log_parameters(_values(config))
        own = [Path(config.dataset)] if is_own(config.dataset) else [layout.OBJECTS]
        facts, place = project_facts("data", config, job, *own), layout.unrecorded_step("data")
        given, again = once(layout.DATASET, place, facts, lambda: _write(config))
        skipped, noted = ([(what, why) for what, why in rows] for rows in given)
        digest = manifest.dataset_digest(layout.DATASET)
        parts = {part: coco.read_part(layout.DATASET, part) for part in coco.PARTS}
        for part, samples in parts.items():
            tracking.log_dataset(config.dataset, layout.DATASET, digest, part)
            objects = int(samples.object_counts.sum())
            tracking.log_metrics({f"data/{part}/images": len(samples), f"data/{part}/objects": objects})
        not_drawn = _look(config, parts)
        tracking.log_files(manifest.manifest_path(layout.DATASET))
        tracking.log_files(layout.DATASET_LOOK)
    rows = [
        (part, f"{len(samples):,} images, {samples.object_counts.sum():,} objects") for part, samples in parts.items()
    ]
    told = [row for row in outlook(parts, config.seed) if row[0] != "parts"] if is_own(config.dataset) else []
    return Summary(
        f"data {config.dataset}",
        [*rows, *noted, *told, ("digest", digest[:12]), *([("kept", TAKEN)] if again else [])],
        skipped=[*skipped, *not_drawn],
        files=[layout.DATASET, layout.DATASET_LOOK],
        run=run_id,
        next="headimpact score",
    )


def _values(config: Config) -> dict:
    if config.dataset == "scenes":
        return {"dataset": config.dataset, "seed": config.seed, "scenes": config.scenes.model_dump()}
    values = {"dataset": config.dataset, "seed": config.seed, "split": config.split.model_dump()}
    return values if is_own(config.dataset) else values | {"min_score": config.min_score}


Told = list[tuple[str, str]]


def _write(config: Config) -> tuple[Told, Told]:
    """Write the dataset; what was left out, and why, and what was read otherwise than a person may think."""
    sizes = config.split.model_dump()
    match config.dataset:
        case "scenes":
            sizes = config.scenes.sizes.model_dump()
            write_scenes(layout.DATASET, sizes, config.seed, lambda ids: track(ids, len(ids), "drawing scenes"))
            return [], []
        case "published":
            return _write_published(config, sizes), []
        case "coco":
            account = segmented.account(layout.OBJECTS, config.min_score)
            samples = segmented.samples(layout.OBJECTS, layout.downloaded_images("coco"), config.min_score)
            written = assembly.write_dataset(layout.DATASET, samples, sizes, config.seed, _read)
            counts = [("images", account.dropped_images), ("objects", account.dropped_objects)]
            dropped = [(f"{n} {what}", why) for what, reasons in counts for why, n in reasons.items()]
            return [*dropped, *written.left_out], []
    written = import_own_data(layout.DATASET, Path(config.dataset), sizes, config.seed, _read)
    return written.left_out, written.noted


def _write_published(config: Config, sizes: dict[str, int]) -> list[tuple[str, str]]:
    source, images = release(config), layout.downloaded_images("published")
    unusable: list[published.Unusable] = []
    records = published.read_records(source)
    samples = published.read_samples(records, source, images, config.min_score, unusable.append)
    tracked = track(samples, len(records), "reading the published masks")
    written = assembly.write_dataset(layout.DATASET, tracked, sizes, config.seed, _read)
    reasons = Counter(("image" if item.position is None else "object", item.reason) for item in unusable)
    few = {key: [str(u.image_id) for u in unusable if u.reason == key[1]] for key, n in reasons.items() if n <= 3}
    counted = [
        (f"{n} {what}{'s' * (n > 1)}", why + (f" ({', '.join(few[what, why])})" if (what, why) in few else ""))
        for (what, why), n in reasons.items()
    ]
    return [*counted, *written.left_out]


def _read(samples: Sequence[Sample]) -> Iterator[Sample]:
    return track(samples, len(samples), "reading images")


def _look(config: Config, parts: dict[str, PackedSamples]) -> list[tuple[str, str]]:
    """Contact sheet and histograms; which models the sheet lacks, and why."""
    models, missing = {}, []
    for name in dict.fromkeys([*config.grid.models, config.model]):
        try:
            models[name] = loading.skeleton(config.models[name].source, config.models[name].revision)
        except InputError as error:
            missing.append((f"{name} in the contact sheet", str(error)))
    on_sheet: list[Sample] = []
    for sample in parts["impact"]:
        reasons = list(filter(None, (model.unfit(sample.width, sample.height) for model in models.values())))
        missing += [(f"image {sample.id} in the contact sheet", reasons[0])] if reasons else []
        on_sheet += [sample] if sample.objects and not reasons else []
        if len(on_sheet) == SHEET_IMAGES:
            break
    with atomic_folder(layout.DATASET_LOOK) as aside:
        sheet = contact_sheet.contact_sheet(on_sheet, models, config.impact.mask_threshold)
        figures.save(sheet, aside / "contact_sheet.png")
        figures.save(contact_sheet.histograms(chain(*parts.values()), config.dataset), aside / "histograms.png")
    return missing
