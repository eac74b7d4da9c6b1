"""Files that are either whole or absent, and their digests."""

import glob
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import psutil

from headimpact.errors import InputError

MACHINE = re.sub(r"[^\w-]", "-", platform.node()) or "machine"
"""This machine, as it stands in the names of files that are not whole yet."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; rename it to ``path`` only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    aside = path.with_name(f".{path.name}.{MACHINE}.{os.getpid()}.tmp")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside ``path``; swap it in for ``path`` only if the block succeeds.

    Raises:
        InputError: ``path`` is a link.
    """
    if path.is_symlink():
        raise InputError(f"{path} is a link. Remove the link: a folder is made in its place.")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    aside = path.with_name(f".{path.name}.{MACHINE}.{os.getpid()}.tmp")
    aside.mkdir()
    try:
        yield aside
        shutil.rmtree(path, ignore_errors=True)
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine that were killed had begun to write beside ``path``.

    Another machine may share the folder; which of its processes live is not known here.
    """
    for aside in path.parent.glob(f".{glob.escape(path.name)}.{MACHINE}.*.tmp"):
        process = aside.name.split(".")[-2]
        if process.isdecimal() and (int(process) == os.getpid() or not psutil.pid_exists(int(process))):
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8, whole or not at all."""
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def leaves_folder(name: str) -> bool:
    """Whether a name leaves the folder that it is relative to, read as a POSIX or as a Windows path."""
    windows = PureWindowsPath(name)
    return PurePosixPath(name).is_absolute() or bool(windows.anchor) or ".." in windows.parts


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, as_json(value) + "\n")


def as_json(value: Any) -> str:
    """Indented JSON with sorted keys."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, is not JSON, or nests too deeply to be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except RecursionError:
        raise InputError(f"{path} is no JSON that can be read: it nests too deeply.") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise InputError(f"{path} is not valid JSON: {error}.") from None


def read_json_object(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON file that holds an object with certain keys.

    Raises:
        InputError: as for :func:`read_json`, or it holds something else, or a key is missing.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object. Was it edited by hand? Make it again.")
    if missing := [key for key in keys if key not in content]:
        raise InputError(f"{path} has no {', '.join(missing)}. Was it edited by hand? Make it again.")
    return content


def digest_file(path: Path) -> str:
    """SHA-256 of one file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_folder(folder: Path) -> str:
    """SHA-256 over the sorted relative names and contents of every file below ``folder``, in hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{digest_file(path)}\n".encode())
    return digest.hexdigest()
