"""The masks of the published release: scipy's CSR matrices in NPZ files, of which nothing is taken on trust."""

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Bool

MAX_MASK_BYTES = 64 * 2**20
"""Of one mask file, unpacked. The largest published one has 4 MB."""

_MEMBERS = {"data.npy", "indices.npy", "indptr.npy", "format.npy", "shape.npy"}
# What zipfile, numpy and scipy raise for a file that is no matrix (RuntimeError: encrypted, unknown compression).
_MALFORMED = (
    *(ValueError, TypeError, AttributeError, OSError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


class UnusableError(Exception):
    """Why something of the release cannot be used."""


def read_mask(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The mask of an image of this width and height.

    Raises:
        UnusableError: it is missing, damaged, of another size or empty.
    """
    matrix = _load_matrix(path)
    height, width = matrix.shape
    if (width, height) != size:
        raise UnusableError(f"the mask is {width}x{height} pixels, the image {size[0]}x{size[1]}")
    mask = matrix.toarray()
    if not mask.any():
        raise UnusableError("the mask is empty")
    return mask


def mask_fault(path: Path) -> str | None:
    """What is wrong with a mask's file, or None."""
    try:
        _load_matrix(path)
    except UnusableError as error:
        return str(error)
    return None


def _load_matrix(path: Path) -> Any:
    """The CSR matrix of a file, as true and false.

    Raises:
        UnusableError: it is missing, or holds no such matrix.
    """
    try:
        _check_members(path)
        matrix = scipy.sparse.load_npz(path)
        if matrix.format != "csr" or matrix.dtype.kind not in "biuf":
            raise ValueError(f"it holds a {matrix.format} matrix of {matrix.dtype}, not csr of numbers")
        # Without the full check scipy writes wherever the column numbers point.
        matrix.check_format(full_check=True)
        return matrix.astype(bool)
    except FileNotFoundError:
        raise UnusableError("the mask's file is missing") from None
    except _MALFORMED as error:
        raise UnusableError(f"the mask's file is damaged ({error})") from None


def _check_members(path: Path) -> None:
    """Before anything is loaded: the members of a CSR matrix, no larger than they may be and say.

    Raises:
        ValueError: they are not.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = sorted(member.filename for member in members)
        if names != sorted(_MEMBERS):
            raise ValueError(f"it has the members {', '.join(names[:10])[:200]}")
        if sum(member.file_size for member in members) > MAX_MASK_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_MASK_BYTES} bytes")
        for member in members:
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                if version != (1, 0):
                    raise ValueError(f"{member.filename} is of version {version}")
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            # numpy makes room for what the header says.
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} is shorter than it says")
