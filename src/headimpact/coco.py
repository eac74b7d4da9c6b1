"""The one dataset format: COCO JSON with a mask and a phrase per object; its splits and checks."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as _pycocotools_mask
from pydantic import BaseModel, Field, PositiveInt, TypeAdapter, ValidationError

from headimpact.errors import InputError
from headimpact.files import digest_file, read_json, write_json

# The stubs know nothing of the dictionaries that the functions take and give.
_codec: Any = _pycocotools_mask

PARTS = ("impact", "train", "val", "test")
FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 50_000_000

_RESTORE = "Put the original file back, or rebuild the dataset."
_ARTICLES = {"a", "an", "the"}
_CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}


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
            raise InputError(f"{path} is {_by(image.size)} pixels, its annotations are for {_by(size)}. {_RESTORE}")
        try:
            return image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(path, error) from None


def _open_header(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Of an image that is somewhat too large Pillow only warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path, formats=FORMATS)
    except FileNotFoundError:
        raise InputError(f"The image {path} does not exist. {_RESTORE}") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is not a {' or '.join(FORMATS)} image. {_RESTORE}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged or truncated ({error}). {_RESTORE}")


def _too_large(path: Path) -> InputError:
    limit = f"{MAX_PIXELS // 10**6} megapixels"
    return InputError(f"{path} has more than {limit}. Make it smaller, with its masks, or leave it out.")


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


class _Rle(BaseModel):
    size: tuple[PositiveInt, PositiveInt]
    counts: str | list[int]


class _Image(BaseModel):
    id: int
    file_name: str = Field(min_length=1)
    width: PositiveInt
    height: PositiveInt


class _Annotation(BaseModel):
    id: int
    image_id: int
    segmentation: _Rle | list[list[float]]
    score: float = Field(ge=0, le=1)
    phrase: str = Field(pattern=r"\S")


class _File(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]


_FILE = TypeAdapter(_File)
Item = TypeVar("Item", _Image, _Annotation)


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
            image; an id is there twice or unknown; a file_name leaves the dataset.
    """
    path = annotation_path(folder, part)
    content = _parse(path)
    images = _by_id(path, "image", content.images)
    objects: dict[int, list[KeyObject]] = {image_id: [] for image_id in images}
    for annotation in _by_id(path, "annotation", content.annotations).values():
        where = f"{path}: annotation {annotation.id} of image {annotation.image_id}"
        if annotation.image_id not in images:
            raise InputError(f"{where}: the file lists no such image. Add the image or remove the annotation.")
        image = images[annotation.image_id]
        rle = _read_mask(where, annotation.segmentation, image)
        objects[image.id].append(_from_rle(annotation.id, annotation.phrase, rle, annotation.score))
    return [
        Sample(image.id, _image_file(folder, path, image), image.width, image.height, tuple(objects[image.id]))
        for image in images.values()
    ]


def _parse(path: Path) -> _File:
    if not path.is_file():
        raise InputError(f"{path} does not exist. Run `python -m headimpact data`.")
    try:
        return _FILE.validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{path}: {place}: {first['msg']}. Every image needs id, file_name, width and height; "
            f"every annotation id, image_id, segmentation, score (0 to 1) and phrase."
        ) from None


def _by_id(path: Path, kind: str, items: Iterable[Item]) -> dict[int, Item]:
    found: dict[int, Item] = {}
    for item in sorted(items, key=lambda item: item.id):
        if item.id in found:
            raise InputError(f"{path}: {kind} id {item.id} is there twice. Give each {kind} an id of its own.")
        found[item.id] = item
    return found


def _image_file(folder: Path, annotations: Path, image: _Image) -> Path:
    """Where an image lies. Judged by name alone: DVC may have put links into the folder."""
    posix, windows = PurePosixPath(image.file_name), PureWindowsPath(image.file_name)
    if posix.is_absolute() or windows.anchor or ".." in windows.parts:
        raise InputError(
            f"{annotations}: image {image.id}: file_name {image.file_name!r} leaves the dataset. "
            f"Put the image into {images_path(folder)} and name it relative to that folder."
        )
    return images_path(folder) / posix


def _read_mask(where: str, segmentation: _Rle | list[list[float]], image: _Image) -> dict[str, Any]:
    """Compressed run lengths of a mask in any of COCO's three forms.

    Raises:
        InputError: the mask is of another size than its image, or is none.
    """
    if isinstance(segmentation, list):
        return _read_polygons(where, segmentation, image)
    height, width = segmentation.size
    if (width, height) != (image.width, image.height):
        raise InputError(
            f"{where}: the mask is {_by((width, height))} pixels, its image "
            f"{_by((image.width, image.height))}. "
            f"Make a mask of the image's size, or correct the image's width and height."
        )
    counts = segmentation.counts
    try:
        runs = _runs(counts) if isinstance(counts, str) else counts
    except ValueError:
        runs = []
    # pycocotools itself decodes runs of another total to whatever the memory holds.
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise InputError(
            f"{where}: the mask's run lengths do not decode to {_by((width, height))} pixels. "
            f"Encode the mask anew with pycocotools.mask.encode."
        )
    if isinstance(counts, list):
        return _codec.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": counts}


def _read_polygons(where: str, polygons: list[list[float]], image: _Image) -> dict[str, Any]:
    if not polygons or any(len(points) < 6 or len(points) % 2 for points in polygons):
        raise InputError(f"{where}: a polygon is x, y, x, y, ... of at least three points. Correct it.")
    return _codec.merge(_codec.frPyObjects(polygons, image.height, image.width))


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
    rebuild = f"To rebuild: delete {folder} and run `python -m headimpact data`; keep your own data elsewhere."
    if not manifest_path(folder).is_file():
        raise InputError(f"{manifest_path(folder)} does not exist. {rebuild}")
    recorded = read_json(manifest_path(folder))
    if not isinstance(recorded, dict):
        raise InputError(f"{manifest_path(folder)} was changed after it was written. {rebuild}")
    present = set(_files(folder))
    for name in sorted(present | recorded.keys()):
        if name not in recorded:
            raise InputError(f"{folder / name} was added after the dataset was written. Remove it. {rebuild}")
        if name not in present:
            raise InputError(f"{folder / name} is missing. {rebuild}")
        if digest_file(folder / name) != recorded[name]:
            raise InputError(f"{folder / name} was changed after it was written. {rebuild}")
    _check_disjoint(folder)


def _check_disjoint(folder: Path) -> None:
    part_of: dict[int, str] = {}
    for part in PARTS:
        for image in _parse(annotation_path(folder, part)).images:
            if part_of.setdefault(image.id, part) != part:
                raise InputError(
                    f"{folder}: image {image.id} is in {part_of[image.id]} and in {part}. "
                    f"Keep it in one part: a model must not be tested on what it was trained on."
                )


def dataset_digest(folder: Path) -> str:
    """SHA-256 of the manifest, which holds those of all files.

    Raises:
        InputError: there is no manifest.
    """
    if not manifest_path(folder).is_file():
        raise InputError(f"{manifest_path(folder)} does not exist. Run `python -m headimpact data`.")
    return digest_file(manifest_path(folder))


def normalise(phrase: str) -> str:
    """A phrase for comparison: lower case, without punctuation, articles and extra spaces."""
    words = re.sub(r"[\W_]+", " ", phrase.casefold()).split()
    return " ".join(word for word in words if word not in _ARTICLES)
