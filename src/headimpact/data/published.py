"""The dataset that the paper's authors published: records with phrases (JSON), and a mask a phrase (scipy CSR, NPZ).

Only the paper's impact part was released; the images are COCO's own and are fetched from its address.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError

from headimpact.data.download import RemoteFile, image_fault, mirrored
from headimpact.data.images import upright_size
from headimpact.data.published_masks import UnusableError, read_mask
from headimpact.data.samples import KeyObject, Sample, key_object
from headimpact.errors import InputError

INDEX_NAME = "dataset_masks.json"
MASKS_NAME = "masks"
RAW_URL = "https://raw.githubusercontent.com"
MAX_PHRASES = 1000
"""Of one record: an object's id is ``MAX_PHRASES * image_id + position of its phrase``."""

_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
_Score = Annotated[float, Field(ge=0, le=1)]


class Grounding(BaseModel):
    """The objects of a record: the lists run in parallel, with a list of masks for each phrase."""

    model_config = ConfigDict(frozen=True)

    labels: list[str] = Field(max_length=MAX_PHRASES)
    masks_scores: list[list[_Score]]
    masks_file_name: list[list[_FileName]]


class Record(BaseModel):
    """One image of the release with its objects. What is not needed here is ignored."""

    model_config = ConfigDict(frozen=True)

    image_id: NonNegativeInt
    image_file_name: _FileName
    image_coco_url: str
    grounding: Grounding


_RECORDS = TypeAdapter(list[Record])


@dataclass(frozen=True)
class Holdings:
    """What the records of a release list, whether or not it can be used."""

    records: int
    phrases: int
    masks: int
    confident_masks: int
    confident_images: int


@dataclass(frozen=True)
class Unusable:
    """An object (the phrase at ``position``), or a whole image (``position`` is None), that cannot be used."""

    image_id: int
    position: int | None
    reason: str


def read_records(folder: Path) -> list[Record]:
    """The records of the release in ``folder``, by ascending image id.

    Raises:
        InputError: the file is missing, is not JSON, or a record is malformed; two records are of one image.
    """
    path = folder / INDEX_NAME
    try:
        records = _RECORDS.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run `headimpact download`.") from None
    except ValidationError as error:
        raise InputError(f"{path}: {_first_fault(error)}. Put the published file back.") from None
    records.sort(key=lambda record: record.image_id)
    for earlier, later in pairwise(records):
        if earlier.image_id == later.image_id:
            raise InputError(f"{path}: two records are of image {later.image_id}. Remove one of them.")
    return records


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    number, *field = first["loc"] or ("",)
    if number == "":
        return f"it is no list of records ({first['msg']})"
    return f"record {number} (from 0), {'.'.join(map(str, field)) or 'the whole'}: {first['msg']}"


def count(records: Sequence[Record], min_score: float) -> Holdings:
    """What the records list, and how much of it has a confidence of ``min_score`` or more."""
    scores = [[score for of_phrase in record.grounding.masks_scores for score in of_phrase] for record in records]
    confident = [sum(score >= min_score for score in of_image) for of_image in scores]
    return Holdings(
        records=len(records),
        phrases=sum(len(record.grounding.labels) for record in records),
        masks=sum(map(len, scores)),
        confident_masks=sum(confident),
        confident_images=sum(number > 0 for number in confident),
    )


def index_file(repository: str, revision: str, sha256: str | None = None) -> RemoteFile:
    """The records, to be fetched from a public repository (``owner/name``) at a commit."""
    return RemoteFile(f"{RAW_URL}/{repository}/{revision}/{INDEX_NAME}", INDEX_NAME, sha256=sha256)


def mask_files(records: Sequence[Record], repository: str, revision: str) -> list[RemoteFile]:
    """Every mask that the records name, to be fetched likewise; ``published_masks.mask_fault`` verifies them."""
    names = {name for record in records for of_phrase in record.grounding.masks_file_name for name in of_phrase}
    return [
        RemoteFile(f"{RAW_URL}/{repository}/{revision}/{MASKS_NAME}/{name}", f"{MASKS_NAME}/{name}")
        for name in sorted(names)
    ]


def image_files(records: Sequence[Record], mirror: str | None = None) -> list[RemoteFile]:
    """The image of every record, to be fetched from COCO's address; ``download.image_fault`` verifies them.

    Neither their sizes nor their hashes are published.

    Args:
        records: of the release.
        mirror: address in the place of ``http://images.cocodataset.org``.
    """
    return [RemoteFile(mirrored(record.image_coco_url, mirror), record.image_file_name) for record in records]


def read_samples(
    records: Sequence[Record],
    folder: Path,
    images: Path,
    min_score: float,
    leave_out: Callable[[Unusable], None],
) -> Iterator[Sample]:
    """The images that can be used, each with its objects, in the records' order.

    Of several masks of an object the one of the highest score is taken. Phrases lose the white space around them
    and are kept as they are otherwise.

    Args:
        records: of the release.
        folder: where the masks lie, in ``masks/``.
        images: where the images lie, by their file names.
        min_score: objects whose mask has less confidence cannot be used.
        leave_out: is given every object, and every image, that cannot be used, when it is met.
    """
    for record in records:
        objects: list[KeyObject] = []
        try:
            path = images / record.image_file_name
            size = _image_size(path)
            positions = _positions(record.grounding)
        except UnusableError as error:
            leave_out(Unusable(record.image_id, None, str(error)))
            continue
        for position in positions:
            try:
                objects.append(_read_object(record, position, folder / MASKS_NAME, size, min_score))
            except UnusableError as error:
                leave_out(Unusable(record.image_id, position, str(error)))
        if objects:
            yield Sample(record.image_id, path, *size, tuple(objects))
        else:
            leave_out(Unusable(record.image_id, None, "no object can be used"))


def _image_size(path: Path) -> tuple[int, int]:
    if not path.is_file():
        raise UnusableError("the image is missing")
    if (fault := image_fault(path)) is not None:
        raise UnusableError(fault)
    return upright_size(path)


def _positions(grounding: Grounding) -> range:
    phrases, scores, masks = map(len, (grounding.labels, grounding.masks_scores, grounding.masks_file_name))
    if phrases == scores == masks == 0:
        raise UnusableError("no phrase and no mask")
    if not phrases == scores == masks:
        raise UnusableError(f"{phrases} phrases, but scores for {scores} and masks for {masks}")
    return range(phrases)


def _read_object(record: Record, position: int, masks: Path, size: tuple[int, int], min_score: float) -> KeyObject:
    grounding = record.grounding
    phrase = grounding.labels[position].strip()
    scores, names = grounding.masks_scores[position], grounding.masks_file_name[position]
    if not phrase:
        raise UnusableError("the phrase is empty")
    if len(scores) != len(names):
        raise UnusableError(f"{len(scores)} scores for {len(names)} masks")
    if not scores:
        raise UnusableError("no mask")
    score, name = max(zip(scores, names, strict=True))
    if score < min_score:
        raise UnusableError(f"confidence below {min_score:g}")
    mask = read_mask(masks / name, size)
    return key_object(MAX_PHRASES * record.image_id + position, phrase, mask, score)
