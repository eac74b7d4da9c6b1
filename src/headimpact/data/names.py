"""Which file of a folder a name means that was written on another system."""

import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from headimpact.files import leaves_folder

_SHOWN = 3  # files that an error names


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file, or a folder below ``folder`` that it lies in, is hidden: systems leave ``._image.png`` and
    ``.DS_Store`` behind, which are nobody's data."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def visible_files(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is not hidden, in no order."""
    return (path for path in folder.rglob("*") if path.is_file() and not is_hidden(path, folder))


class Names:
    """Finds the files that names mean.

    A name is that of a file in the folder's ``images``, or in the folder. Where there is none, it may be written with
    backslashes, in other case, in another Unicode form or with ``%20``, or begin with folders of another machine: then
    it is the one file that most of the name's end fits.

    Attributes:
        folder: what the found names are relative to.
        guessed: by found name, the name that was written, where the two are not the same.
    """

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder = folder
        self.guessed: dict[str, str] = {}
        self._images = images.relative_to(folder)

    def find(self, name: str) -> str:
        """The file that a name means, relative to the folder; where it is not known, as it is in ``images``."""
        stays = not leaves_folder(name)
        for candidate in (self._images / name, Path(name)) if stays else ():
            if (self.folder / candidate).is_file():
                return candidate.as_posix()
        if (found := self._like(name)) is not None:
            self.guessed.setdefault(found, name)
            return found
        return (self._images / name).as_posix() if stays else name

    def _like(self, name: str) -> str | None:
        parts = _parts(name)
        fitting = {found: _fitting(parts, of_found) for found, of_found in self._by_last.get(parts[-1], {}).items()}
        best = [found for found, fits in fitting.items() if fits == max(fitting.values())]
        return best[0] if len(best) == 1 else None

    @cached_property
    def _by_last(self) -> dict[str, dict[str, list[str]]]:
        """By the last part of its name, every file with all parts."""
        files: dict[str, dict[str, list[str]]] = {}
        for path in visible_files(self.folder):
            name = path.relative_to(self.folder).as_posix()
            parts = _parts(name)
            files.setdefault(parts[-1], {})[name] = parts
        return files

    def some(self) -> list[str]:
        """A few of the files that are there."""
        return sorted(name for files in self._by_last.values() for name in files)[:_SHOWN]


def _parts(name: str) -> list[str]:
    """The parts of a path as they are compared."""
    plain = unicodedata.normalize("NFC", unquote(name.replace("\\", "/"))).casefold()
    return [part for part in plain.split("/") if part not in ("", ".", "..")] or [""]


def _fitting(a: list[str], b: list[str]) -> int:
    """How many parts at the end are the same."""
    return next(
        (i for i, (x, y) in enumerate(zip(reversed(a), reversed(b), strict=False)) if x != y), min(len(a), len(b))
    )
