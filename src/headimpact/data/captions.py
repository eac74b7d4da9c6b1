"""COCO captions: a seeded choice of images, with one caption each, out of a file of any size.

The file is read as a stream into a temporary database, which sorts and joins on the disk: memory does not grow with
the number of images.
"""

import hashlib
import shutil
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, PositiveInt, ValidationError

from headimpact.data.fields import problems_of
from headimpact.data.json_lists import UnevenJsonError, walk
from headimpact.data.lines import Captioned, FileName, to_json
from headimpact.errors import InputError
from headimpact.files import atomic_file

MAX_FILE_BYTES = 1 << 30
MAX_CHARACTERS = 1000

_IDS = Field(ge=0, lt=10**12)
_RESTORE = "Fetch the file anew, or correct it."
_TABLES = """
CREATE TABLE images (id INTEGER PRIMARY KEY, file_name TEXT UNIQUE, width INTEGER, height INTEGER, url TEXT);
CREATE TABLE captions (id INTEGER PRIMARY KEY, image_id INTEGER, place INTEGER, caption TEXT);
"""
# A column beside MIN() is taken from the row with the smallest value (SQLite's documentation of bare columns).
_CHOOSE = """
CREATE TABLE best AS SELECT image_id, id AS caption_id, caption, MIN(place) FROM captions GROUP BY image_id;
CREATE TABLE chosen AS SELECT image_id, caption_id, caption FROM best ORDER BY image_place(image_id) LIMIT {count};
"""
_CHOSEN = """
SELECT image_id, file_name, width, height, url, caption_id, caption
FROM chosen JOIN images ON images.id = image_id ORDER BY image_id
"""
_UNLISTED = "SELECT id, image_id FROM captions WHERE image_id NOT IN (SELECT id FROM images) LIMIT 1"


@dataclass(frozen=True)
class Choice:
    """What there was to choose from.

    Attributes:
        images: images in the file.
        without_caption: those of them that have no caption, or only blank or overlong ones.
        chosen: those that were chosen; fewer than wanted where there are not so many.
    """

    images: int
    without_caption: int
    chosen: int


class _Image(BaseModel):
    id: int = _IDS
    file_name: FileName
    width: PositiveInt = Field(lt=10**6)
    height: PositiveInt = Field(lt=10**6)
    coco_url: str = Field(pattern=r"^https?://")


class _Caption(BaseModel):
    id: int = _IDS
    image_id: int = _IDS
    caption: str


Item = TypeVar("Item", _Image, _Caption)


def extract(archive: Path, member: str, output: Path) -> None:
    """Take one file out of a ZIP archive, such as ``annotations/captions_val2017.json``, whole or not at all.

    Nothing else of the archive is written, and the file goes to ``output`` whatever its name in the archive.

    Raises:
        InputError: the archive is damaged, lacks the file, or the file has more than ``MAX_FILE_BYTES``.
    """
    try:
        with zipfile.ZipFile(archive) as content, atomic_file(output) as aside:
            size = content.getinfo(member).file_size
            if size > MAX_FILE_BYTES:
                raise InputError(
                    f"{archive}: {member} has {size} bytes, more than {MAX_FILE_BYTES}. Is it the right archive?"
                )
            with content.open(member) as source, aside.open("wb") as target:
                shutil.copyfileobj(source, target)
    except FileNotFoundError:
        raise InputError(f"{archive} does not exist.") from None
    except KeyError:
        raise InputError(f"{archive} holds no {member}. Is it the right archive?") from None
    # RuntimeError: encrypted; NotImplementedError: an unknown compression.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{archive} is damaged or no ZIP archive ({error}). Fetch it anew.") from None


def choose(path: Path, output: Path, count: int, seed: int) -> Choice:
    """Choose images and one caption of each, and write them down by ascending image id, whole or not at all.

    Which images and which caption follows from ``seed`` and the ids alone: a larger ``count`` keeps what a smaller
    one chose, whatever the order in the file.

    Args:
        path: a COCO captions file.
        output: captions.jsonl, replaced if it exists.
        count: images wanted; all that have a caption are taken where there are fewer.
        seed: of the choice.

    Raises:
        InputError: the file is missing, damaged, no COCO captions file, has an id or a file name twice, a caption of
            an image that it does not list, or a file name that leaves its folder.
    """
    with _database(seed) as database:
        _fill(database, path, seed)
        unlisted = database.execute(_UNLISTED).fetchone()
        if unlisted:
            raise InputError(
                f"{path}: caption {unlisted[0]} is of image {unlisted[1]}, which is not listed. {_RESTORE}"
            )
        database.executescript(_CHOOSE.format(count=int(count)))
        with atomic_file(output) as aside, aside.open("wb") as stream:
            for row in database.execute(_CHOSEN):
                stream.write(to_json(Captioned(**dict(zip(Captioned.model_fields, row, strict=True)))))
        images, captioned, chosen = (
            database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("images", "best", "chosen")
        )
    return Choice(images, images - captioned, chosen)


@contextmanager
def _database(seed: int) -> Iterator[sqlite3.Connection]:
    """An empty database in a temporary file."""
    with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(Path(folder) / "captions.db")) as database:
        database.create_function("image_place", 1, lambda image_id: _place(seed, image_id), deterministic=True)
        database.executescript(_TABLES)
        yield database


def _place(*numbers: int) -> int:
    """A place in a shuffled order that follows from the numbers, in 63 bits."""
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _fill(database: sqlite3.Connection, path: Path, seed: int) -> None:
    images = (
        (item.id, item.file_name, item.width, item.height, item.coco_url) for item in _items(path, "images", _Image)
    )
    captions = (
        (item.id, item.image_id, _place(seed, item.image_id, item.id), text)
        for item in _items(path, "annotations", _Caption)
        if (text := " ".join(item.caption.encode("utf-8", "replace").decode().split())) and len(text) <= MAX_CHARACTERS
    )
    _insert(database, path, "images", 5, images)
    _insert(database, path, "captions", 4, captions)


def _insert(database: sqlite3.Connection, path: Path, table: str, columns: int, rows: Iterable[tuple]) -> None:
    marks = ", ".join("?" * columns)
    try:
        with database:
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    except UnicodeEncodeError:
        raise InputError(f"{path}: a name of the {table} holds half of a character. {_RESTORE}") from None
    except sqlite3.IntegrityError as error:
        column = str(error).rpartition(".")[2]
        raise InputError(f"{path}: two of the {table} have the same {column}. {_RESTORE}") from None
    if not database.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").fetchone()[0]:
        raise InputError(f"{path} holds no {table}: it is not a COCO captions file. {_RESTORE}")


def _items(path: Path, key: str, kind: type[Item]) -> Iterator[Item]:
    try:
        for listed, number, item in walk(path, ("images", "annotations")):
            if listed == key and number is not None:
                yield _checked(path, f"{key}.{number}", item, kind)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except UnevenJsonError as error:
        raise InputError(f"{path} is cut short or no JSON ({' '.join(str(error).split())}). {_RESTORE}") from None


def _checked(path: Path, record: str, item: Any, kind: type[Item]) -> Item:
    try:
        return kind.model_validate(item)
    except ValidationError as error:
        problem = next(problems_of(path, record, item, error))
        raise InputError(f"{path}: {problem.record} {problem.what}. {_RESTORE}") from None
