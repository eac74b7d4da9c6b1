"""Reading the one dataset format: COCO JSON with a mask and a phrase per object, one file a part."""

import json
import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from jaxtyping import Int
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from headimpact.data import masks
from headimpact.data.fields import UnknownCategory, problems_of
from headimpact.data.images import MAX_PIXELS, too_large
from headimpact.data.json_lists import Entry, UnevenJsonError, walk
from headimpact.data.packed import PackedSamples, Packer, as_numbers
from headimpact.data.problems import DataError, LeftOut, Problem, Reporter, refuse, reporting
from headimpact.data.samples import KeyObject, object_of_rle
from headimpact.files import leaves_folder

PARTS = ("impact", "train", "val", "test")
_LISTS = ("images", "annotations")

_NEEDED = (
    "Every image needs id, file_name, width and height; "
    "every annotation id, image_id, segmentation, score (0 to 1) and phrase."
)


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


@dataclass
class _Head:
    """A COCO JSON but its annotations.

    Attributes:
        packer: has the well-formed records of images, as listed.
        wrong_ids: what the other records of images have as their ids.
        problems: of these.
        lists: those of ``_LISTS`` that are there.
        categories: what the file has under this key.
        content: all of it, where it cannot be read item by item.
    """

    packer: Packer = field(default_factory=Packer)
    wrong_ids: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    lists: set[str] = field(default_factory=set)
    categories: Any = None
    content: dict[str, Any] | None = None


Record = TypeVar("Record", _Image, _Annotation)


def images_path(folder: Path) -> Path:
    """The images of a dataset, all parts together."""
    return folder / "images"


def annotation_path(folder: Path, part: str) -> Path:
    """The COCO JSON of one part (one of ``PARTS``)."""
    return folder / "annotations" / f"{part}.json"


def read_part(folder: Path, part: str) -> PackedSamples:
    """The samples of one part, by ascending id; objects by ascending id. No image is opened.

    Raises:
        InputError: the file is missing or not COCO JSON with phrases and scores; a mask does not fit its
            image, is empty or covers all of it; an id is there twice or unknown; a file_name leaves the dataset.
    """
    return read_annotations(annotation_path(folder, part), images_path(folder))


def read_image_ids(folder: Path, part: str) -> Int[np.ndarray, " images"]:
    """The ids of the images of one part, as the file lists them; its annotations are not looked at.

    Raises:
        InputError: the file is missing or not COCO JSON.
    """
    return as_numbers(_read_head(annotation_path(folder, part), refuse).packer.ids)


@dataclass(frozen=True)
class Leniency:
    """How a COCO JSON is read that this project did not write.

    Where an annotation has no ``phrase``, its ``caption`` or else the name of its category is taken; where it has no
    ``score``, 1. Crowds and boxes without a mask are left out.

    Attributes:
        find: the file that a ``file_name`` means.
        left_out: is counted what is left out.
    """

    find: Callable[[str], str] = lambda name: name
    left_out: LeftOut = field(default_factory=LeftOut)


def read_annotations(
    path: Path, images: Path, report: Reporter = refuse, lenient: Leniency | None = None
) -> PackedSamples:
    """The samples of one COCO JSON, by ascending id; objects by ascending id. No image is opened.

    Args:
        path: the file.
        images: the folder that its file names are relative to.
        report: is given every problem; where it returns, the record is left out.
        lenient: how it is read if the project did not write it.
    """
    head = _read_head(path, report, lenient.find if lenient else None)
    listed = _Listed(head.packer.ids, _unique(path, "image", head.packer.ids, report))
    objects = _read_objects(path, head, listed, report, lenient)
    rows = array("i")
    for row in listed.rows:
        with reporting(report):
            _check_image(images, path, head.packer, row)
            rows.append(row)
    return head.packer.pack(images, rows, objects)


class _Listed:
    """The rows of images by their ids.

    Args:
        ids: of the images, as listed.
        rows: of those that count, by ascending id.
    """

    def __init__(self, ids: Sequence[int], rows: Iterable[int]) -> None:
        self.rows = array("i", rows)
        self._ids = array("q", (ids[row] for row in self.rows))

    def row(self, image_id: int) -> int | None:
        """Of the image with this id, if there is one."""
        index = bisect_left(self._ids, image_id)
        return self.rows[index] if index < len(self._ids) and self._ids[index] == image_id else None


def _read_objects(
    path: Path, head: _Head, listed: _Listed, report: Reporter, lenient: Leniency | None
) -> Sequence[int]:
    """Give the objects to the packer; the numbers of those to keep. What belongs to an ill-formed record of an image
    cannot be judged."""
    raw = _read_annotations(path, head)
    ids, numbers = array("q"), array("i")
    wrong: dict[int, Problem] = {}
    unknown: dict[int, int] = {}
    if lenient:
        raw = _fill_in(path, head, raw, lenient.left_out, report)
    for place, annotation in enumerate(_records(path, raw, "annotations", _Annotation, report)):
        ids.append(annotation.id)
        numbers.append(-1)
        if (row := listed.row(annotation.image_id)) is None:
            unknown[place] = annotation.image_id
            continue
        try:
            numbers[place] = head.packer.add_object(row, _read_object(path, annotation, head.packer.size(row)))
        except DataError as error:
            wrong[place] = error.problem
    kept = array("i")
    for place in _unique(path, "annotation", ids, report):
        if place in wrong:
            report(wrong[place])
        elif place not in unknown:
            kept.append(numbers[place])
        elif str(unknown[place]) not in head.wrong_ids:
            name = f"annotation {ids[place]} of image {unknown[place]}"
            report(Problem(path, name, "the file lists no such image", "Add the image or remove the annotation."))
    return kept


def _read_head(path: Path, report: Reporter, find: Callable[[str], str] | None = None) -> _Head:
    """A COCO JSON but its annotations; without what has a problem."""
    if not path.is_file():
        report(Problem(path, "", "does not exist", "Run `headimpact data`."))
        return _Head(content={})
    try:
        head = _head(path, walk(path, _LISTS), find)
    except (OSError, UnevenJsonError):
        content = load_dictionary(path, _NEEDED, report)
        if content is None:
            return _Head(content={})
        head = _head(path, _entries(content), find)
        head.content = content
    for key in _LISTS:
        if key not in head.lists:
            report(Problem(path, "", f"has no list of {key}", _NEEDED))
    for problem in head.problems:
        report(problem)
    return head


def _head(path: Path, entries: Iterable[Entry], find: Callable[[str], str] | None) -> _Head:
    head = _Head()

    def images() -> Iterator[Any]:
        for key, index, value in entries:
            if index is None and key in _LISTS and isinstance(value, list):
                head.lists.add(key)
            elif key == "categories":
                head.categories = value
            elif key == "images" and index is not None:
                yield value

    for image in _records(path, images(), "images", _Image, head.problems.append, head.wrong_ids):
        # Too large is refused later, and in its place; it may be larger than a table of integers can hold.
        size = (min(side, MAX_PIXELS + 1) for side in (image.width, image.height))
        head.packer.add_image(image.id, find(image.file_name) if find else image.file_name, *size)
    return head


def _entries(content: Mapping[str, Any]) -> Iterator[Entry]:
    """A dictionary as :func:`walk` gives it."""
    for key, value in content.items():
        if key in _LISTS and isinstance(value, list):
            yield key, None, []
            yield from ((key, index, item) for index, item in enumerate(value))
        else:
            yield key, None, value


def _read_annotations(path: Path, head: _Head) -> Iterator[Any]:
    entries = walk(path, _LISTS) if head.content is None else _entries(head.content)
    return (value for key, index, value in entries if key == "annotations" and index is not None)


def load_dictionary(path: Path, advice: str, report: Reporter) -> dict[str, Any] | None:
    """The content of a JSON file that may hold anything; None after a problem.

    Args:
        path: the file.
        advice: what to do where it holds something else than a dictionary.
        report: is given the problem.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        return report(Problem(path, "", f"is not valid JSON: {error}", "Correct the file."))
    if not isinstance(content, dict):
        return report(Problem(path, "", "is JSON, but no dictionary", advice))
    return content


_CROWD = "they are crowds (iscrowd is 1; in an export from CVAT, painted masks; headimpact convert keeps them)"
_BOX = "they have a box and no mask (headimpact convert --boxes makes masks of boxes)"


class _Nothing:
    """What stands in the place of an annotation that is left out."""


def _fill_in(path: Path, head: _Head, annotations: Iterable[Any], left_out: LeftOut, report: Reporter) -> Iterator[Any]:
    """The annotations, with a phrase and a score where they have none."""
    names = _categories(path, head, report)
    for annotation in annotations:
        if not isinstance(annotation, dict):
            yield annotation
        elif annotation.get("iscrowd") in (1, True):
            left_out["objects", _CROWD] += 1
            yield _Nothing
        elif not annotation.get("segmentation") and annotation.get("bbox"):
            left_out["objects", _BOX] += 1
            yield _Nothing
        else:
            category = annotation.get("category_id")
            name = annotation.get("caption", names.get(str(category)))
            if name is None and category is not None and "phrase" not in annotation:
                annotation = {"phrase": UnknownCategory(category), **annotation}
            yield {"score": 1.0, **({} if name is None else {"phrase": name}), **annotation}


def _categories(path: Path, head: _Head, report: Reporter) -> dict[str, Any]:
    """The names of categories by their ids as text."""
    listed = [item for item in head.categories if isinstance(item, dict)] if isinstance(head.categories, list) else []
    names: dict[str, Any] = {}
    for category in listed:
        number, name = str(category.get("id")), category.get("name")
        if names.setdefault(number, name) != name:
            what = f"two categories have this id: {names[number]!r} and {name!r}"
            report(Problem(path, f"category {number}", what, "Give each category an id of its own."))
    return names


def _records(
    path: Path,
    raw: Iterable[Any],
    key: str,
    model: type[Record],
    report: Reporter,
    wrong_ids: set[str] | None = None,
) -> Iterator[Record]:
    """The well-formed records of the list ``key``; every wrong field of the others is reported once, and what they
    have as an id is added to ``wrong_ids``."""
    for index, item in enumerate(raw):
        if item is _Nothing:
            continue
        try:
            yield model.model_validate(item)
        except ValidationError as error:
            if wrong_ids is not None and isinstance(item, dict):
                wrong_ids.add(str(item.get("id")))
            for problem in problems_of(path, f"{key}.{index}", item, error):
                report(problem)


def _unique(path: Path, kind: str, ids: array, report: Reporter) -> Iterator[int]:
    """The places of ids in ascending order; of the same ids the first, and the others reported."""
    before = None
    for place in map(int, np.argsort(as_numbers(ids), kind="stable")):
        if ids[place] == before:
            advice = f"Give each {kind} an id of its own."
            report(Problem(path, f"{kind} {ids[place]}", "its id is there twice", advice))
        else:
            before = ids[place]
            yield place


def _check_image(images: Path, annotations: Path, packer: Packer, row: int) -> None:
    """Refuse an image that is too large or not in the dataset. Judged by name alone: DVC may have put links into the
    folder."""
    name, file_name = f"image {packer.ids[row]}", packer.path(row)
    if leaves_folder(file_name):
        what = f"file_name {file_name!r} leaves the dataset"
        advice = f"Put the image into {images} and name it relative to that folder."
        raise DataError(Problem(annotations, name, what, advice))
    if math.prod(packer.size(row)) > MAX_PIXELS:
        raise too_large(annotations, name)


def _read_object(path: Path, annotation: _Annotation, size: tuple[int, int]) -> KeyObject:
    """An object, measured anew from its mask in any of COCO's three forms.

    Raises:
        DataError: the mask is of another size than its image, or is none, is empty or covers the whole image.
    """
    name, segmentation = f"annotation {annotation.id} of image {annotation.image_id}", annotation.segmentation
    if math.prod(size) > MAX_PIXELS:
        raise too_large(path, name)
    if isinstance(segmentation, list):
        rle = masks.from_polygons(path, name, segmentation, size)
    else:
        rle = masks.from_run_lengths(path, name, segmentation.size, segmentation.counts, size)
    obj = object_of_rle(annotation.id, annotation.phrase, rle, annotation.score)
    if not obj.shows_something:
        what = "the mask is empty" if obj.area == 0 else "the mask covers the whole image"
        raise DataError(Problem(path, name, what, "Correct the mask or remove the annotation."))
    return obj
