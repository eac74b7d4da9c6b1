"""The manifest of a dataset: the SHA-256 of every file, so that no edit goes unnoticed."""

from pathlib import Path

from headimpact.data.names import visible_files
from headimpact.errors import InputError
from headimpact.files import digest_file, write_json


def manifest_path(folder: Path) -> Path:
    """The digests of a dataset's files."""
    return folder / "manifest.json"


def write_manifest(folder: Path) -> None:
    """Write down the SHA-256 of every file of the dataset."""
    write_json(manifest_path(folder), {name: digest_file(folder / name) for name in list_files(folder)})


def dataset_digest(folder: Path) -> str:
    """SHA-256 of the manifest, which holds those of all files.

    Raises:
        InputError: there is no manifest.
    """
    if not manifest_path(folder).is_file():
        raise InputError(f"{manifest_path(folder)} does not exist. Run `headimpact data`.")
    return digest_file(manifest_path(folder))


def list_files(folder: Path) -> list[str]:
    """Every file of the dataset but the manifest and hidden files, relative to its folder."""
    paths = (path for path in visible_files(folder) if path != manifest_path(folder))
    return sorted(path.relative_to(folder).as_posix() for path in paths)
