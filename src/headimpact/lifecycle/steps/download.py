"""Fetch what the dataset is made from, where it is neither generated nor your own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from headimpact.data import captions, lines, published, published_masks
from headimpact.data.download import RemoteFile, fetch, image_fault, mirrored
from headimpact.errors import InputError
from headimpact.files import digest_file, digest_folder, write_json
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.progress import track
from headimpact.lifecycle.steps.sources import release
from headimpact.lifecycle.summary import Summary

# COCO's archive of annotations has 241 MB.
_MAX_ARCHIVE_BYTES = 2 * 2**30


def run(config: Config, job: Job) -> Summary:
    """Fetch the published release and its images, or COCO's captions and images; what is there is kept."""
    if config.dataset == "published":
        return _tracked(config, _fetch_published, {"published": config.published.model_dump()})
    return _tracked(config, _fetch_coco, {"coco": config.coco.model_dump()})


def _tracked(config: Config, function: Callable[[Config], tuple[str, list[tuple[str, str]]]], values: dict) -> Summary:
    with tracking.run("download") as run_id:
        tracking.log_parameters({"dataset": config.dataset, **values})
        digest, rows = function(config)
        write_json(layout.made("download"), {"digest": digest})
    return Summary(
        "download",
        [*rows, ("digest", digest[:12])],
        files=[layout.download(config.dataset)],
        run=run_id,
        next="headimpact data",
    )


def _fetch(config: Config, files: Sequence[RemoteFile], folder: Path, what: str, **rules) -> int:
    return fetch(
        files,
        folder,
        workers=config.download.workers,
        attempts=config.download.attempts,
        timeout=config.download.timeout_seconds,
        progress=lambda items: track(items, len(items), f"fetching {what}"),
        **rules,
    )


def _fetch_published(config: Config) -> tuple[str, list[tuple[str, str]]]:
    source, settings = release(config), config.published
    if source != Path(settings.source):
        index = published.index_file(settings.source, settings.index_revision, settings.index_sha256)
        _fetch(config, [index], source, "the index")
    records = published.read_records(source)
    if source != Path(settings.source):
        masks = published.mask_files(records, settings.source, settings.masks_revision)
        _fetch(config, masks, source, "masks", verify=published_masks.mask_fault)
    files = published.image_files(records, config.download.mirror)
    images = layout.downloaded_images("published")
    fetched = _fetch(config, files, images, "images", verify=image_fault)
    holds = published.count(records, config.min_score)
    rows = [
        ("the release holds", f"{holds.records:,} records, {holds.phrases:,} phrases, {holds.masks:,} masks"),
        (
            f"of confidence {config.min_score:g} or more",
            f"{holds.confident_masks:,} masks on {holds.confident_images:,} images",
        ),
        ("images", f"{len(files):,}, {fetched:,} of them fetched now"),
    ]
    return f"{digest_folder(source)} {digest_folder(images)}", rows


def _fetch_coco(config: Config) -> tuple[str, list[tuple[str, str]]]:
    choice = captions.choose(_captions_file(config), layout.CAPTIONS, config.coco.images, config.coco.seed)
    files = [
        RemoteFile(mirrored(image.url, config.download.mirror), image.file_name)
        for image in lines.read(layout.CAPTIONS, lines.Captioned)
    ]
    images = layout.downloaded_images("coco")
    fetched = _fetch(config, files, images, "images", verify=image_fault)
    rows = [
        ("images in the captions file", f"{choice.images:,}, {choice.without_caption:,} of them without a caption"),
        ("images", f"{choice.chosen:,} of {config.coco.images:,} wanted, {fetched:,} of them fetched now"),
    ]
    return f"{digest_file(layout.CAPTIONS)} {digest_folder(images)}", rows


def _captions_file(config: Config) -> Path:
    """COCO's captions: a file here, or fetched, and taken out of its archive if it is in one."""
    source, folder = config.coco.captions, layout.download("coco")
    path = Path(source)
    if source.startswith(("http://", "https://")):
        path = folder / Path(urlsplit(source).path).name
        _fetch(config, [RemoteFile(source, path.name)], folder, "captions", max_bytes=_MAX_ARCHIVE_BYTES)
    if not path.is_file():
        raise InputError(f"coco.captions in {layout.PARAMS} is {source}: neither an http address nor a file here.")
    if path.suffix != ".zip":
        return path
    extracted = folder / Path(config.coco.member).name
    captions.extract(path, config.coco.member, extracted)
    return extracted
