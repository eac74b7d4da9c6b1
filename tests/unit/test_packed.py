"""Samples on disk: the same as those in memory, in the memory of a few numbers each."""

import multiprocessing
import os
import pickle
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import config
from small_datasets import SQUARE, make_sample, write_small_dataset

from headimpact.data import json_lists, packed
from headimpact.data.coco import annotation_path, images_path, read_part
from headimpact.data.packed import PackedSamples, Packer
from headimpact.data.samples import KeyObject, Sample, key_object
from headimpact.data.split import split_in_proportion
from headimpact.data.writing import write_part
from headimpact.errors import InputError


def pack(samples: list[Sample]) -> PackedSamples:
    packer = Packer()
    for sample in samples:
        packer.add(sample)
    return packer.pack()


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return [make_sample(tmp_path, image_id, objects=image_id % 3) for image_id in (1, 2, 5, 7)]


def test_they_are_the_same_by_ascending_id(samples: list[Sample]) -> None:
    mixed = pack(samples[::-1])
    assert list(mixed) == samples
    assert mixed == samples
    assert mixed[-1] == samples[-1]
    assert mixed[1:3] == samples[1:3]
    assert mixed.choose([2, 0]) == [samples[2], samples[0]]
    assert mixed != samples[1:]
    assert mixed.ids.tolist() == [1, 2, 5, 7]
    assert mixed.object_counts.tolist() == [1, 2, 2, 1]
    with pytest.raises(IndexError):
        mixed[4]


def test_objects_are_read_like_a_tuple(samples: list[Sample]) -> None:
    packed_objects, objects = pack(samples)[1].objects, samples[1].objects
    assert packed_objects == objects
    assert hash(packed_objects) == hash(objects)
    assert packed_objects[-1] == objects[-1]
    assert packed_objects[:1] == objects[:1]
    assert np.array_equal(packed_objects[0].mask(), objects[0].mask())
    assert repr(packed_objects) == repr(objects)
    assert packed_objects != objects[:1]


def test_a_record_that_is_longer_than_one_read(tmp_path: Path) -> None:
    checkered = np.indices((150, 151)).sum(axis=0) % 2 == 1
    objects = tuple(key_object(number, "words " * 1000, mask, 0.25) for number, mask in ((3, checkered), (4, SQUARE)))
    sample = Sample(1, tmp_path / "1.png", 151, 150, objects)
    assert pack([sample]) == [sample]


def test_other_processes_read_them(samples: list[Sample]) -> None:
    everything = pack(samples)
    for sent in (everything, list(everything)):
        assert pickle.loads(pickle.dumps(sent)) == samples
    reader = _Reader(everything)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(reader, range(4)) == [sample.objects for sample in samples]


class _Reader:
    """Reads what it had when the process was forked."""

    everything: PackedSamples

    def __init__(self, everything: PackedSamples) -> None:
        _Reader.everything = everything

    def __call__(self, index: int) -> tuple[KeyObject, ...]:
        return tuple(_Reader.everything[index].objects)


def test_they_stay_when_the_annotation_file_changes(tmp_path: Path) -> None:
    folder = write_small_dataset(tmp_path / "mine")
    before = read_part(folder, "test")
    wanted = list(before[0].objects)
    annotation_path(folder, "test").write_text("{}")
    assert list(before[0].objects) == wanted


def test_the_file_is_gone_with_the_last_that_reads_it(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    create = tempfile.TemporaryFile
    monkeypatch.setattr(packed.tempfile, "TemporaryFile", lambda **given: files.append(create(**given)) or files[-1])
    everything = pack(samples)
    objects = everything[1].objects
    del everything
    assert not files[0].closed
    assert len(list(objects)) == 2
    del objects
    assert files[0].closed


def test_no_room_for_them_is_told(samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"cannot keep a dataset's masks there while it is in use \(No space left.*Make room.*TMPDIR"
    monkeypatch.setattr(packed.tempfile, "TemporaryFile", lambda **given: open("/dev/full", "wb"))  # noqa: SIM115, PTH123
    if os.path.exists("/dev/full"):  # noqa: PTH110
        with pytest.raises(InputError, match=message):
            pack(samples)


def _peak(folder: Path, images: int) -> int:
    """Bytes in use at most while a part is read, split and written, beyond those before it."""
    shapes = [key_object(0, "", np.roll(SQUARE, shift), 0.5).counts for shift in range(5)]
    write_part(
        folder,
        "train",
        [
            Sample(
                image,
                images_path(folder) / f"{image}.png",
                *SQUARE.shape[::-1],
                tuple(
                    KeyObject(3 * image + place, f"thing {image} of {place}", SQUARE.shape, shapes[image % 5], 0.5)
                    for place in range(3)
                ),
            )
            for image in range(images)
        ],
    )
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    samples = read_part(folder, "train")
    split_in_proportion(samples.ids, {"impact": 1, "train": 2}, seed=0)
    write_part(folder, "val", samples)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - before


def test_memory_hardly_grows_with_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory, with masks as small as these, the samples alone would take 950 bytes an image."""
    monkeypatch.setattr(json_lists, "_CHUNK", 1 << 12)
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # what looks at shapes takes memory of its own
    _peak(tmp_path / "first", 3)  # what is kept from the first use on
    few, many = _peak(tmp_path / "few", 20), _peak(tmp_path / "many", 80)
    assert (many - few) / 60 < 500
