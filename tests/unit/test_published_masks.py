"""Mask files of the release that are damaged or hostile: refused with the reason, and nothing of them run."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from headimpact.data import published_masks
from headimpact.data.published_masks import UnusableError, mask_fault, read_mask

WIDTH, HEIGHT = 40, 30
SQUARE = np.zeros((HEIGHT, WIDTH), dtype=bool)
SQUARE[5:15, 5:15] = True


@pytest.fixture
def mask_file(tmp_path) -> Path:
    path = tmp_path / "mask.npz"
    scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(SQUARE.astype(np.float32)))
    return path


def test_a_mask_is_read(mask_file):
    assert mask_fault(mask_file) is None
    np.testing.assert_array_equal(read_mask(mask_file, (WIDTH, HEIGHT)), SQUARE)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repack(path: Path, changes: dict[str, bytes | None]) -> None:
    content = {**members(path), **changes}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in content.items():
            if body is not None:
                archive.writestr(name, body)


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def explode() -> None:
    raise AssertionError("unpickled")


class Exploding:
    def __reduce__(self):
        return explode, ()


def lie(shape: tuple[int, ...]) -> bytes:
    """An array that says it is larger than it is."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(64)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "flipped": lambda path: path.write_bytes(path.read_bytes().replace(b"indices", b"INDICES")),
    "text": lambda path: path.write_text("<html>"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "one member missing": lambda path: repack(path, {"shape.npy": None}),
    "one member more": lambda path: repack(path, {"../evil.npy": b""}),
    "a pickle": lambda path: repack(path, {"data.npy": npy(np.array([Exploding(), None]), allow_pickle=True)}),
    "no array": lambda path: repack(path, {"data.npy": b"\x80\x04."}),
    "half a header": lambda path: repack(
        path, {"data.npy": b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': (" + bytes(107)}
    ),
    "another version": lambda path: repack(path, {"data.npy": b"\x93NUMPY\x09\x00" + bytes(99)}),
    "other form": lambda path: repack(path, {"format.npy": npy(np.array(b"csc"))}),
    "unknown form": lambda path: repack(path, {"format.npy": npy(np.array(b"zzz"))}),
    "numeric form": lambda path: repack(path, {"format.npy": npy(np.array(3))}),
    "a huge array": lambda path: repack(path, {"data.npy": lie((10**13,))}),
    "a negative size": lambda path: repack(path, {"data.npy": lie((-1,))}),
    "too few pointers": lambda path: repack(path, {"indptr.npy": npy(np.array([0, 1], dtype=np.int32))}),
    "columns outside": lambda path: repack(path, {"indices.npy": npy(np.full(100, 10**6, dtype=np.int32))}),
    "columns below zero": lambda path: repack(path, {"indices.npy": npy(np.full(100, -5, dtype=np.int32))}),
    "text for data": lambda path: repack(path, {"data.npy": npy(np.full(100, "x"))}),
    "structures for data": lambda path: repack(path, {"data.npy": npy(np.zeros(100, dtype=[("a", "i4")]))}),
    "three axes": lambda path: repack(path, {"shape.npy": npy(np.array([3, 3, 3]))}),
    "a negative height": lambda path: repack(path, {"shape.npy": npy(np.array([-30, 40]))}),
    "an endless width": lambda path: repack(path, {"shape.npy": npy(np.array([30, 2**62]))}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_hostile_mask_is_refused_with_the_reason(mask_file, damage):
    DAMAGE[damage](mask_file)
    with pytest.raises(UnusableError) as caught:
        read_mask(mask_file, (WIDTH, HEIGHT))
    if damage != "an endless width":  # which is only too wide for its image
        assert mask_fault(mask_file) == str(caught.value)


def test_a_bomb_is_not_unpacked(mask_file, monkeypatch):
    repack(mask_file, {"data.npy": npy(np.zeros(10**6))})
    monkeypatch.setattr(published_masks, "MAX_MASK_BYTES", 10**6)
    assert mask_fault(mask_file) == "the mask's file is damaged (it unpacks to more than 1000000 bytes)"
