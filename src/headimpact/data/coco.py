"""The one dataset format: COCO JSON with a mask and a phrase per object; its splits and checks."""

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, NoReturn, TypeVar

import numpy as np
from jaxtyping import Bool
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as _pycocotools_mask
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from headimpact.errors import InputError
from headimpact.files import digest_file, write_json

# The stubs know nothing of the dictionaries that the functions take and give.
_codec: Any = _pycocotools_mask

PARTS = ("impact", "train", "val", "test")
FORMATS = ("PNG", "JPEG")
DEEP = ("I", "F")
"""Pillow's modes of more than 8 bits a channel: as RGB they would be white."""
MAX_PIXELS = 50_000_000
MAX_OUTLINE = 1_000_000
"""Pixels along all polygons of an object: each of them costs memory."""

_ORIENTATION = 0x0112  # EXIF
_MAX_SHIFT = 30  # bits: five more are read
_RESTORE = "Put the whole file back, or leave the image out."
_CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}
_RECORDS = (
    "Every image needs id, file_name, width and height; "
    "every annotation id, image_id, segmentation, score (0 to 1) and phrase."
)
_ONE_PART = "Keep it in one part: a model must not be tested on what it was trained on."


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset.

    Attributes:
        record: the image, annotation or field; empty where it is the file as a whole.
        what: what is wrong.
        advice: what to do about it.
    """

    file: Path
    record: str
    what: str
    advice: str

    def __str__(self) -> str:
        """All of it in a line."""
        return f"{self.file}{f': {self.record}:' if self.record else ''} {self.what}. {self.advice}"


class DataError(InputError):
    """A problem, raised."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


Report = Callable[[Problem], None]


def refuse(problem: Problem) -> NoReturn:
    """The report of those who take no dataset with a problem.

    Raises:
        DataError: always.
    """
    raise DataError(problem)


@contextmanager
def _reported(report: Report) -> Iterator[None]:
    """Hand a problem that is raised in the block to ``report``."""
    try:
        yield
    except DataError as error:
        report(error.problem)


@dataclass(frozen=True)
class KeyObject:
    """An object of an image and its phrase.

    Attributes:
        rle: the mask as pycocotools' compressed run lengths: ``{"size": [height, width], "counts": text}``.
        bbox: left, top, width, height of the mask, in pixels.
        area: pixels of the mask.
        score: confidence of the mask, in [0, 1].
    """

    id: int
    phrase: str
    rle: Mapping[str, Any]
    bbox: tuple[float, float, float, float]
    area: int
    score: float

    def mask(self) -> Bool[np.ndarray, "height width"]:
        """The object's pixels."""
        height, width = self.rle["size"]
        runs = _runs(self.rle["counts"])
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")


@dataclass(frozen=True)
class Sample:
    """An image with its objects."""

    id: int
    path: Path
    width: int
    height: int
    objects: tuple[KeyObject, ...]

    def image(self) -> Image.Image:
        """The image in RGB, fully decoded.

        Raises:
            InputError: it is missing, neither PNG nor JPEG, damaged or truncated, of more than ``MAX_PIXELS``
                or not of the size that the annotations say.
        """
        return _open_image(self.path, (self.width, self.height))


def _open_image(path: Path, size: tuple[int, int]) -> Image.Image:
    with _open_header(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(path)
        if image.size != size:
            what = f"is {_by(image.size)} pixels, its annotations are for {_by(size)}"
            if image.getexif().get(_ORIENTATION, 1) > 1:
                what += " (its EXIF turns it, which is not applied)"
            raise DataError(Problem(path, "", what, "Correct width and height, or the image."))
        if image.mode.startswith(DEEP):
            raise DataError(Problem(path, "", "has more than 8 bits a channel", "Save it with 8 bits."))
        try:
            return image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(path, error) from None


def _open_header(path: Path) -> Image.Image:
    # Opening what is no plain file (a pipe) could wait forever.
    if not path.is_file():
        raise DataError(Problem(path, "", "does not exist", "Add the image, or remove its record."))
    try:
        with warnings.catch_warnings():
            # Of an image that is somewhat too large Pillow only warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        raise DataError(Problem(path, "", f"is not a {' or '.join(FORMATS)} image", "Convert it.")) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(Problem(path, "", f"is damaged or truncated ({error})", _RESTORE))


def _too_large(path: Path, record: str = "") -> DataError:
    what = f"has more than {MAX_PIXELS // 10**6} megapixels"
    return DataError(Problem(path, record, what, "Make it smaller, with its masks, or leave it out."))


def digest_pixels(image: Image.Image) -> str:
    """SHA-256 of the size and the pixels: the same for the same picture, whatever its file."""
    return hashlib.sha256(f"{image.mode} {_by(image.size)} ".encode() + image.tobytes()).hexdigest()


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def key_object(object_id: int, phrase: str, mask: Bool[np.ndarray, "height width"], score: float) -> KeyObject:
    """An object from its pixels."""
    encoded = _codec.encode(np.asfortranarray(mask, dtype=np.uint8))
    return _from_rle(object_id, phrase, encoded, score)


def _from_rle(object_id: int, phrase: str, rle: dict[str, Any], score: float) -> KeyObject:
    counts = rle["counts"].decode("ascii") if isinstance(rle["counts"], bytes) else rle["counts"]
    left, top, width, height = map(float, _codec.toBbox(rle))
    return KeyObject(
        id=object_id,
        phrase=phrase,
        rle={"size": [int(side) for side in rle["size"]], "counts": counts},
        bbox=(left, top, width, height),
        area=int(_codec.area(rle)),
        score=score,
    )


def object_of_rle(
    path: Path, where: str, object_id: int, phrase: str, rle: Mapping[str, Any], size: tuple[int, int], score: float
) -> KeyObject:
    """An object from run lengths as pycocotools writes them, which must be of an image's width and height.

    Raises:
        DataError: they are of another size or do not decode to it; it names ``path`` and ``where``.
    """
    image = _Image(id=0, file_name="-", width=size[0], height=size[1])
    return _from_rle(object_id, phrase, _read_rle(path, where, _Rle.model_validate(dict(rle)), image), score)


class _Rle(BaseModel):
    size: tuple[PositiveInt, PositiveInt]
    counts: str | list[int]


# They seed generators and are columns of tables.
_Id = Annotated[int, Field(ge=0, lt=2**63)]


class _Image(BaseModel):
    id: _Id
    file_name: str = Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=255)
    width: PositiveInt
    height: PositiveInt


class _Annotation(BaseModel):
    id: _Id
    image_id: int
    segmentation: _Rle | list[list[float]]
    score: float = Field(ge=0, le=1)
    phrase: str = Field(pattern=r"\S")


Record = TypeVar("Record", _Image, _Annotation)


def images_path(folder: Path) -> Path:
    """The images of a dataset, all parts together."""
    return folder / "images"


def annotation_path(folder: Path, part: str) -> Path:
    """The COCO JSON of one part (one of ``PARTS``)."""
    return folder / "annotations" / f"{part}.json"


def manifest_path(folder: Path) -> Path:
    """The digests of a dataset's files."""
    return folder / "manifest.json"


def read_part(folder: Path, part: str) -> list[Sample]:
    """The samples of one part, by ascending id; objects by ascending id. No image is opened.

    Raises:
        InputError: the file is missing or not COCO JSON with phrases and scores; a mask does not fit its
            image, is empty or covers all of it; an id is there twice or unknown; a file_name leaves the dataset.
    """
    return read_annotations(annotation_path(folder, part), images_path(folder))


def read_annotations(path: Path, images: Path, report: Report = refuse, lenient: bool = False) -> list[Sample]:
    """The samples of one COCO JSON, by ascending id; objects by ascending id. No image is opened.

    Args:
        path: the file.
        images: the folder that its file names are relative to.
        report: is given every problem; where it returns, the record is left out.
        lenient: where an annotation has no ``phrase``, its ``caption`` or else the name of its category is taken;
            where it has no ``score``, 1.
    """
    content = _load(path, report)
    if lenient:
        content["annotations"] = _fill_in(content)
    found = _by_id(path, "image", _records(path, content, "images", _Image, report), report)
    objects = _read_objects(path, content, found, report)
    samples = []
    for image in found.values():
        with _reported(report):
            file = _image_file(images, path, image)
            samples.append(Sample(image.id, file, image.width, image.height, tuple(objects[image.id])))
    return samples


def _read_objects(
    path: Path, content: Mapping[str, Any], images: Mapping[int, _Image], report: Report
) -> dict[int, list[KeyObject]]:
    """The objects of each image. What belongs to an ill-formed record of an image cannot be judged."""
    listed = {str(record.get("id")) for record in content["images"] if isinstance(record, dict)}
    objects: dict[int, list[KeyObject]] = {image_id: [] for image_id in images}
    annotations = _records(path, content, "annotations", _Annotation, report)
    for annotation in _by_id(path, "annotation", annotations, report).values():
        where = f"annotation {annotation.id} of image {annotation.image_id}"
        if annotation.image_id in images:
            with _reported(report):
                obj = _read_object(path, where, annotation, images[annotation.image_id])
                objects[annotation.image_id].append(obj)
        elif str(annotation.image_id) not in listed:
            report(Problem(path, where, "the file lists no such image", "Add the image or remove the annotation."))
    return objects


def _load(path: Path, report: Report) -> dict[str, Any]:
    """The content of a COCO JSON: at least lists of images and of annotations, empty after a problem."""
    if not path.is_file():
        report(Problem(path, "", "does not exist", "Run `headimpact data`."))
        return {"images": [], "annotations": []}
    content = _load_dictionary(path, report)
    if content is None:
        return {"images": [], "annotations": []}
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            report(Problem(path, "", f"has no list of {key}", _RECORDS))
            content[key] = []
    return content


def _load_dictionary(path: Path, report: Report) -> dict[str, Any] | None:
    """The content of a JSON file that may hold anything; None after a problem."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        return report(Problem(path, "", f"is not valid JSON: {error}", "Correct the file."))
    if not isinstance(content, dict):
        return report(Problem(path, "", "is JSON, but no dictionary", _RECORDS))
    return content


def _fill_in(content: Mapping[str, Any]) -> list[Any]:
    """The annotations, with a phrase and a score where they have none of their own."""
    categories = content.get("categories")
    listed = [item for item in categories if isinstance(item, dict)] if isinstance(categories, list) else []
    names = {str(category.get("id")): category.get("name") for category in listed}
    filled = []
    for annotation in content["annotations"]:
        if isinstance(annotation, dict):
            name = annotation.get("caption", names.get(str(annotation.get("category_id"))))
            annotation = {"score": 1.0, **({} if name is None else {"phrase": name}), **annotation}
        filled.append(annotation)
    return filled


def _records(path: Path, content: Mapping[str, Any], key: str, model: type[Record], report: Report) -> Iterator[Record]:
    """The well-formed records of a list; every wrong field of the others is reported once."""
    for index, raw in enumerate(content[key]):
        try:
            yield model.model_validate(raw)
        except ValidationError as error:
            # A field that may be of several kinds has an error for each.
            wrong = {".".join(map(str, e["loc"][:1])): e["msg"] for e in reversed(error.errors())}
            for field in reversed(wrong):
                place = f"{key}.{index}.{field}" if field else f"{key}.{index}"
                report(Problem(path, place, wrong[field], _RECORDS))


def _by_id(path: Path, kind: str, records: Iterable[Record], report: Report) -> dict[int, Record]:
    found: dict[int, Record] = {}
    for record in sorted(records, key=lambda record: record.id):
        if record.id in found:
            advice = f"Give each {kind} an id of its own."
            report(Problem(path, f"{kind} {record.id}", "its id is there twice", advice))
        else:
            found[record.id] = record
    return found


def _image_file(images: Path, annotations: Path, image: _Image) -> Path:
    """Where an image lies. Judged by name alone: DVC may have put links into the folder."""
    posix, windows = PurePosixPath(image.file_name), PureWindowsPath(image.file_name)
    where = f"image {image.id}"
    if posix.is_absolute() or windows.anchor or ".." in windows.parts:
        what = f"file_name {image.file_name!r} leaves the dataset"
        advice = f"Put the image into {images} and name it relative to that folder."
        raise DataError(Problem(annotations, where, what, advice))
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(annotations, where)
    return images / posix


def _read_object(path: Path, where: str, annotation: _Annotation, image: _Image) -> KeyObject:
    """An object, measured anew from its mask in any of COCO's three forms.

    Raises:
        DataError: the mask is of another size than its image, or is none, is empty or covers the whole image.
    """
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, where)
    if isinstance(annotation.segmentation, list):
        rle = _read_polygons(path, where, annotation.segmentation, image)
    else:
        rle = _read_rle(path, where, annotation.segmentation, image)
    obj = _from_rle(annotation.id, annotation.phrase, rle, annotation.score)
    if not shows_something(obj):
        what = "the mask is empty" if obj.area == 0 else "the mask covers the whole image"
        raise DataError(Problem(path, where, what, "Correct the mask or remove the annotation."))
    return obj


def shows_something(obj: KeyObject) -> bool:
    """Whether a mask tells some pixels of its image from others: it is neither empty nor the whole image."""
    height, width = obj.rle["size"]
    return 0 < obj.area < height * width


def _read_rle(path: Path, where: str, rle: _Rle, image: _Image) -> dict[str, Any]:
    height, width = rle.size
    if (width, height) != (image.width, image.height):
        what = f"the mask is {_by((width, height))} pixels, its image {_by((image.width, image.height))}"
        advice = "Make a mask of the image's size, or correct the image's width and height."
        raise DataError(Problem(path, where, what, advice))
    counts = rle.counts
    try:
        runs = _runs(counts) if isinstance(counts, str) else counts
    except ValueError:
        runs = []
    # pycocotools itself decodes runs of another total to whatever the memory holds.
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        what = f"the mask's run lengths do not decode to {_by((width, height))} pixels"
        raise DataError(Problem(path, where, what, "Encode the mask anew with pycocotools.mask.encode."))
    if isinstance(counts, list):
        return _codec.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": counts}


def _read_polygons(path: Path, where: str, polygons: list[list[float]], image: _Image) -> dict[str, Any]:
    if not polygons or any(len(points) < 6 or len(points) % 2 for points in polygons):
        raise DataError(Problem(path, where, "a polygon is x, y, x, y, ... of at least three points", "Correct it."))
    # pycocotools stores every pixel of an outline, however far it leaves the image.
    length = sum(map(_outline, polygons))
    if not length <= MAX_OUTLINE:
        what = f"the outline of its polygons is longer than {MAX_OUTLINE} pixels or not a number"
        raise DataError(Problem(path, where, what, "Keep the points within the image."))
    return _codec.merge(_codec.frPyObjects(polygons, image.height, image.width))


def _outline(points: list[float]) -> float:
    """Length of a closed polygon in pixels, and at least as far as any of its points is from the corner."""
    x, y = points[::2], points[1::2]
    sides = zip(x, y, [*x[1:], x[0]], [*y[1:], y[0]], strict=True)
    return sum(math.hypot(x1 - x0, y1 - y0) for x0, y0, x1, y1 in sides) + max(map(abs, points))


def _runs(counts: str) -> list[int]:
    """Run lengths, column by column, off and on by turns, of COCO's text (rleFrString in maskApi.c).

    Raises:
        ValueError: it is malformed.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no part of run lengths")
        if shift > _MAX_SHIFT:
            raise ValueError("a run length is larger than any image")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the last run length is cut off")
    return runs


def write_part(folder: Path, part: str, samples: Iterable[Sample]) -> None:
    """Write the COCO JSON of one part, sorted by id, whole or not at all.

    The samples' paths must lie in the dataset's folder of images.
    """
    ordered = sorted(samples, key=lambda sample: sample.id)
    images = [
        {
            "id": sample.id,
            "file_name": sample.path.relative_to(images_path(folder)).as_posix(),
            "width": sample.width,
            "height": sample.height,
        }
        for sample in ordered
    ]
    annotations = [_annotation(sample, obj) for sample in ordered for obj in sample.objects]
    content = {
        "info": {"description": f"Objects with masks and phrases: {part}", "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": sorted(annotations, key=lambda annotation: annotation["id"]),
        "categories": [_CATEGORY],
    }
    write_json(annotation_path(folder, part), content)


def _annotation(sample: Sample, obj: KeyObject) -> dict[str, Any]:
    return {
        "id": obj.id,
        "image_id": sample.id,
        "category_id": _CATEGORY["id"],
        "segmentation": dict(obj.rle),
        "bbox": list(obj.bbox),
        "area": obj.area,
        "iscrowd": 0,
        "score": obj.score,
        "phrase": obj.phrase,
    }


def split(ids: Iterable[int], sizes: Mapping[str, int], seed: int) -> dict[str, list[int]]:
    """Image ids of each part, ascending: disjoint, drawn by seed, whatever the order of ``ids``.

    Raises:
        InputError: there are fewer ids than the parts need.
    """
    everything = sorted(set(ids))
    needed = sum(sizes.values())
    if len(everything) < needed:
        raise InputError(
            f"The parts need {needed} images, there are {len(everything)}. Make the parts smaller in params.yaml."
        )
    shuffled = np.random.default_rng(seed).permutation(everything).tolist()
    parts = {}
    for part, size in sizes.items():
        parts[part], shuffled = sorted(shuffled[:size]), shuffled[size:]
    return parts


def write_manifest(folder: Path) -> None:
    """Record the SHA-256 of every file of the dataset."""
    write_json(manifest_path(folder), {name: digest_file(folder / name) for name in _files(folder)})


def _files(folder: Path) -> list[str]:
    """Every file of the dataset but the manifest, relative to its folder."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path != manifest_path(folder))
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def verify(folder: Path) -> None:
    """Hold a dataset to its manifest, and its parts to each other.

    Raises:
        InputError: a file was changed, added or removed after the dataset was written, or an image is in two
            parts.
    """
    check_manifest(folder)
    listed = {part: annotation_path(folder, part) for part in PARTS}
    ids = {
        part: [image.id for image in _records(path, _load(path, refuse), "images", _Image, refuse)]
        for part, path in listed.items()
    }
    check_ids(folder, ids)


def check_manifest(folder: Path, report: Report = refuse) -> None:
    """Report every file that was changed, added or removed after the dataset was written."""
    manifest = manifest_path(folder)
    rebuild = f"To rebuild: delete {folder} and run `headimpact data`; of data of your own delete {manifest}."
    if not manifest.is_file():
        return report(Problem(manifest, "", "does not exist", rebuild))
    recorded = _load_dictionary(manifest, report)
    if recorded is None:
        return None
    present = set(_files(folder))
    for name in sorted(present | recorded.keys()):
        if name not in recorded:
            what = "was added after the dataset was written"
            report(Problem(folder / name, "", what, f"Remove it. {rebuild}"))
        elif name not in present:
            report(Problem(folder / name, "", "is missing", rebuild))
        elif digest_file(folder / name) != recorded[name]:
            report(Problem(folder / name, "", "was changed after it was written", rebuild))


def check_ids(folder: Path, parts: Mapping[str, Iterable[int]], report: Report = refuse) -> None:
    """Report every image whose id is in two parts."""
    part_of: dict[int, str] = {}
    for part, ids in parts.items():
        for image_id in ids:
            if part_of.setdefault(image_id, part) != part:
                what = f"it is in {part_of[image_id]} and in {part}"
                report(Problem(folder, f"image {image_id}", what, _ONE_PART))


def check_pictures(parts: Mapping[str, Iterable[Sample]], report: Report = refuse) -> None:
    """Report every image that cannot be read, and every picture that is in two parts under two ids."""
    seen: dict[str, tuple[str, Sample]] = {}
    for part, samples in parts.items():
        for sample in samples:
            try:
                digest = digest_pixels(sample.image())
            except DataError as error:
                report(replace(error.problem, record=f"image {sample.id}"))
                continue
            first, other = seen.setdefault(digest, (part, sample))
            if first != part and other.id != sample.id:
                what = f"it is in {part}, and the same picture is in {first} as image {other.id}"
                report(Problem(sample.path, f"image {sample.id}", what, _ONE_PART))


def dataset_digest(folder: Path) -> str:
    """SHA-256 of the manifest, which holds those of all files.

    Raises:
        InputError: there is no manifest.
    """
    if not manifest_path(folder).is_file():
        raise InputError(f"{manifest_path(folder)} does not exist. Run `headimpact data`.")
    return digest_file(manifest_path(folder))
