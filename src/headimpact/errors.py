"""The one error that a person can act on, and the faults of a machine that the system names."""

import errno
import re

_ROOM = "Make room and run the command again: what was finished is kept."
_RIGHTS = "This user has to be able to read and write the project's files."
_FAULTS = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EROFS: "The project has to lie on a disk that can be written.",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EMFILE: "Allow more open files (ulimit -n) and run the command again.",
    errno.ENAMETOOLONG: "Move the project to a shorter path, or use a shorter name.",
}


class InputError(ValueError):
    """Bad input: the message says what is wrong, where, and what to do. Shown without a stack trace."""


def fault_of_machine(error: Exception) -> str | None:
    """What a person can do about a full disk, missing rights and the like, with the place.

    Args:
        error: of the operating system, or of a library that has written its words into its own.

    Returns:
        None where it is nothing of that kind.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (written := re.search(r"os error ([0-9]+)", str(error))):  # safetensors
        number = int(written[1])
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error.strerror):
        return f"{error.strerror}. Set TMPDIR to a folder that can be written."
    if number not in _FAULTS:
        return None
    place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    words = error.strerror if isinstance(error, OSError) else str(error)
    return f"{place}{words}. {_FAULTS[number]}"
