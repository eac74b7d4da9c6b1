"""Checkpoints in a folder or on the hub: the files that are needed, and no others."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] of the HTTP library, whichever the hub's library uses
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from headimpact.errors import InputError
from headimpact.files import as_json, digest_file, read_json

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# A fast tokenizer can be made from any of these.
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
SETTINGS = (
    CONFIG,
    "generation_config.json",
    PREPROCESSOR,
    PROCESSOR,
    *(name for names in TOKENIZERS for name in names),
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    INDEX,
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def fetch_settings(source: str, revision: str | None, with_tokenizer: bool = True) -> tuple[Path, str | None]:
    """The folder with a checkpoint's small files, and the commit that it stands at (None for a plain folder).

    A hub checkpoint's files go into the hub's cache. Where that is, with which token, and whether the hub may be
    asked at all, is the hub library's own business: HF_HOME, HF_TOKEN, HF_HUB_OFFLINE.

    Args:
        source: folder or hub name.
        revision: branch, tag or commit on the hub.
        with_tokenizer: the model reads text, so there must be a tokenizer.

    Raises:
        InputError: absent, gated, not reachable, or without config, tokenizer or image processor settings.
    """
    folder, commit = Path(source), None
    if not folder.is_dir():
        folder = _fetch(source, revision, SETTINGS)
        commit = folder.name
    _check_settings(source, folder, with_tokenizer)
    return folder, commit


def fetch_weights(source: str, folder: Path, commit: str | None) -> list[Path]:
    """The weights that belong to the settings in ``folder``; those of a hub checkpoint are fetched.

    Raises:
        InputError: not reachable, no safetensors weights, or not all of them.
    """
    names = _weight_names(folder)
    if commit is not None:
        _fetch(source, commit, names)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing and names != [WEIGHTS]:
        raise InputError(f"{source} lacks {missing[0]}, which its {INDEX} names ({len(missing)} of {len(names)}).")
    if missing:
        pickles = [name for name in _files(source, folder, commit) if name.endswith(_PICKLES)]
        why = f"Its weights are pickles ({pickles[0]}), which" if pickles else "Other formats"
        raise InputError(f"{source} holds no {WEIGHTS}. {why} are not loaded: they can run code. Choose another.")
    return [folder / name for name in names]


def _check_settings(source: str, folder: Path, with_tokenizer: bool) -> None:
    if not (folder / CONFIG).is_file():
        raise InputError(f"{source} is no checkpoint: it has no {CONFIG}.")
    if with_tokenizer and not any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
        raise InputError(f"{source} has no tokenizer: no tokenizer.json and nothing that one can be made from.")
    nested = (folder / PROCESSOR).is_file() and "image_processor" in read_json(folder / PROCESSOR)
    if not nested and not (folder / PREPROCESSOR).is_file():
        raise InputError(f"{source} has no image processor settings ({PREPROCESSOR}): is it a vision-language model?")


def _weight_names(folder: Path) -> list[str]:
    index = folder / INDEX
    if (folder / WEIGHTS).is_file() or not index.is_file():
        return [WEIGHTS]
    content = read_json(index)
    file_of_tensor = content.get("weight_map") if isinstance(content, dict) else None
    names = sorted({str(name) for name in file_of_tensor.values()}) if isinstance(file_of_tensor, dict) else []
    refused = [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name)]
    if refused or not names:
        raise InputError(f"{index} does not name safetensors files beside it{f': {refused[0]!r}' if refused else ''}.")
    return names


def _files(source: str, folder: Path, commit: str | None) -> list[str]:
    if commit is None:
        return sorted(path.name for path in folder.iterdir())
    with _errors_with_advice(source, commit):
        return sorted(HfApi().list_repo_files(source, revision=commit))


def _fetch(source: str, revision: str | None, names: Sequence[str]) -> Path:
    with _errors_with_advice(source, revision):
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(names)))


@contextmanager
def _errors_with_advice(source: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's library raises into an error that says what to do."""
    try:
        yield
    except GatedRepoError:
        raise InputError(
            f"{source} is gated: accept its licence on its page on the hub, then set HF_TOKEN to a token of that "
            f"account."
        ) from None
    except RevisionNotFoundError:
        raise InputError(
            f"{source} has no revision {revision}: name a branch, a tag or a whole commit that its page lists."
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{source} is neither a folder here nor on the hub: check the name, and set HF_TOKEN if it is private."
        ) from None
    except HFValidationError:
        raise InputError(f"{source} is neither a folder here nor a hub name (owner/name).") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set" if is_offline_mode() else "the hub cannot be reached"
        raise InputError(
            f"{source} (revision {revision}) is not, or not wholly, in the hub's cache, and {why}. Fetch it once "
            f"with a connection, or point HF_HOME at a cache that has it."
        ) from None
    except (HTTPError, OSError) as error:
        raise InputError(
            f"{source} (revision {revision}) could not be fetched: {str(error).splitlines()[0]}. Files that "
            f"came whole are kept: try again."
        ) from None


def weights_digest(weights: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of a checkpoint's weights; of one file, over its content."""
    if len(weights) == 1:
        return digest_file(weights[0])
    return hashlib.sha256("".join(f"{p.name} {digest_file(p)}\n" for p in weights).encode()).hexdigest()


def revision_line(revision: str | None, commit: str | None) -> str | None:
    """The line that pins a checkpoint in params.yaml; None where it is a folder or pinned already.

    Args:
        revision: as params.yaml has it.
        commit: what it resolved to (``Vlm.revision``).
    """
    return None if commit is None or commit == revision else f"revision: {commit}"


# Fields of a JSON file that decide no number: who wrote it, where it lay, the precision it was saved in, speed.
_LABELS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


def settings_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each of a checkpoint's small files by name; of JSON, of what it says and without what decides no
    number."""
    present = sorted(name for name in SETTINGS if name != INDEX and (folder / name).is_file())
    return {name: _digest_settings(folder / name) for name in present}


def _digest_settings(path: Path) -> str:
    if path.suffix != ".json" or path.name == "tokenizer.json":  # megabytes, written by one program alone
        return digest_file(path)
    return hashlib.sha256(as_json(_without_labels(read_json(path))).encode()).hexdigest()


def _without_labels(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_labels(inner) for key, inner in value.items() if key not in _LABELS}
    return [_without_labels(inner) for inner in value] if isinstance(value, list) else value


def settings_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's small files: what else decides its numbers."""
    present = sorted(name for name in SETTINGS if name != INDEX and (folder / name).is_file())
    return hashlib.sha256("".join(f"{name} {digest_file(folder / name)}\n" for name in present).encode()).hexdigest()
