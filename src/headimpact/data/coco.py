"""Reading the one dataset format: COCO JSON with a mask and a phrase per object, one file a part."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, PositiveInt, ValidationError

from headimpact.data import masks
from headimpact.data.images import MAX_PIXELS, too_large
from headimpact.data.problems import DataError, Problem, Reporter, refuse, reporting
from headimpact.data.samples import KeyObject, Sample, object_of_rle
from headimpact.files import leaves_folder

PARTS = ("impact", "train", "val", "test")

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


Record = TypeVar("Record", _Image, _Annotation)


def images_path(folder: Path) -> Path:
    """The images of a dataset, all parts together."""
    return folder / "images"


def annotation_path(folder: Path, part: str) -> Path:
    """The COCO JSON of one part (one of ``PARTS``)."""
    return folder / "annotations" / f"{part}.json"


def read_part(folder: Path, part: str) -> list[Sample]:
    """The samples of one part, by ascending id; objects by ascending id. No image is opened.

    Raises:
        InputError: the file is missing or not COCO JSON with phrases and scores; a mask does not fit its
            image, is empty or covers all of it; an id is there twice or unknown; a file_name leaves the dataset.
    """
    return read_annotations(annotation_path(folder, part), images_path(folder))


def read_image_ids(folder: Path, part: str) -> list[int]:
    """The ids of the images of one part, as the file lists them; its annotations are not looked at.

    Raises:
        InputError: the file is missing or not COCO JSON.
    """
    path = annotation_path(folder, part)
    return [image.id for image in _records(path, _load(path, refuse), "images", _Image, refuse)]


def read_annotations(path: Path, images: Path, report: Reporter = refuse, lenient: bool = False) -> list[Sample]:
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
    image_of = _by_id(path, "image", _records(path, content, "images", _Image, report), report)
    objects = _read_objects(path, content, image_of, report)
    samples = []
    for image in image_of.values():
        with reporting(report):
            file = _image_file(images, path, image)
            samples.append(Sample(image.id, file, image.width, image.height, tuple(objects[image.id])))
    return samples


def _read_objects(
    path: Path, content: Mapping[str, Any], image_of: Mapping[int, _Image], report: Reporter
) -> dict[int, list[KeyObject]]:
    """The objects of each image. What belongs to an ill-formed record of an image cannot be judged."""
    listed_ids = {str(record.get("id")) for record in content["images"] if isinstance(record, dict)}
    objects: dict[int, list[KeyObject]] = {image_id: [] for image_id in image_of}
    annotations = _records(path, content, "annotations", _Annotation, report)
    for annotation in _by_id(path, "annotation", annotations, report).values():
        name = f"annotation {annotation.id} of image {annotation.image_id}"
        if annotation.image_id in image_of:
            with reporting(report):
                obj = _read_object(path, name, annotation, image_of[annotation.image_id])
                objects[annotation.image_id].append(obj)
        elif str(annotation.image_id) not in listed_ids:
            report(Problem(path, name, "the file lists no such image", "Add the image or remove the annotation."))
    return objects


def _load(path: Path, report: Reporter) -> dict[str, Any]:
    """The content of a COCO JSON: at least lists of images and of annotations, empty after a problem."""
    if not path.is_file():
        report(Problem(path, "", "does not exist", "Run `headimpact data`."))
        return {"images": [], "annotations": []}
    content = load_dictionary(path, _NEEDED, report)
    if content is None:
        return {"images": [], "annotations": []}
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            report(Problem(path, "", f"has no list of {key}", _NEEDED))
            content[key] = []
    return content


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


def _fill_in(content: Mapping[str, Any]) -> list[Any]:
    """The annotations, with a phrase and a score where they have none."""
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


def _records(
    path: Path, content: Mapping[str, Any], key: str, model: type[Record], report: Reporter
) -> Iterator[Record]:
    """The well-formed records of a list; every wrong field of the others is reported once."""
    for index, raw in enumerate(content[key]):
        try:
            yield model.model_validate(raw)
        except ValidationError as error:
            # A field that may be of several kinds has an error for each.
            wrong = {".".join(map(str, e["loc"][:1])): e["msg"] for e in reversed(error.errors())}
            for field in reversed(wrong):
                name = f"{key}.{index}.{field}" if field else f"{key}.{index}"
                report(Problem(path, name, wrong[field], _NEEDED))


def _by_id(path: Path, kind: str, records: Iterable[Record], report: Reporter) -> dict[int, Record]:
    """Records by ascending id; of those with the same id the first, and the others reported."""
    unique: dict[int, Record] = {}
    for record in sorted(records, key=lambda record: record.id):
        if record.id in unique:
            advice = f"Give each {kind} an id of its own."
            report(Problem(path, f"{kind} {record.id}", "its id is there twice", advice))
        else:
            unique[record.id] = record
    return unique


def _image_file(images: Path, annotations: Path, image: _Image) -> Path:
    """Where an image lies. Judged by name alone: DVC may have put links into the folder."""
    name = f"image {image.id}"
    if leaves_folder(image.file_name):
        what = f"file_name {image.file_name!r} leaves the dataset"
        advice = f"Put the image into {images} and name it relative to that folder."
        raise DataError(Problem(annotations, name, what, advice))
    if image.width * image.height > MAX_PIXELS:
        raise too_large(annotations, name)
    return images / PurePosixPath(image.file_name)


def _read_object(path: Path, name: str, annotation: _Annotation, image: _Image) -> KeyObject:
    """An object, measured anew from its mask in any of COCO's three forms.

    Raises:
        DataError: the mask is of another size than its image, or is none, is empty or covers the whole image.
    """
    if image.width * image.height > MAX_PIXELS:
        raise too_large(path, name)
    size, segmentation = (image.width, image.height), annotation.segmentation
    if isinstance(segmentation, list):
        rle = masks.from_polygons(path, name, segmentation, size)
    else:
        rle = masks.from_run_lengths(path, name, segmentation.size, segmentation.counts, size)
    obj = object_of_rle(annotation.id, annotation.phrase, rle, annotation.score)
    if not obj.shows_something:
        what = "the mask is empty" if obj.area == 0 else "the mask covers the whole image"
        raise DataError(Problem(path, name, what, "Correct the mask or remove the annotation."))
    return obj
