"""Datasets written from samples of any source."""

import os

import numpy as np
import pytest
from small_datasets import HEIGHT, SQUARE, WIDTH, image_names, make_noise_sample, read_parts, save_noise

from headimpact.data.assembly import write_dataset
from headimpact.data.checking import verify
from headimpact.data.manifest import manifest_path
from headimpact.data.samples import Sample
from headimpact.data.split import split_in_proportion
from headimpact.errors import InputError

SIZES = {"impact": 10, "train": 12, "val": 3, "test": 5}


def test_a_dataset_is_written_whole(tmp_path):
    samples = [make_noise_sample(tmp_path / "source", image_id) for image_id in range(1, 41)]
    written = write_dataset(tmp_path / "out", reversed(samples), SIZES, seed=3)
    assert written.parts == {part: (size, size) for part, size in SIZES.items()}
    assert written.left_out == [("10 images", "more than the parts take")]
    verify(tmp_path / "out")
    parts = read_parts(tmp_path / "out")
    assert {part: [s.id for s in part_samples] for part, part_samples in parts.items()} == split_in_proportion(
        range(1, 41), SIZES, seed=3
    )
    by_id = {sample.id: sample for sample in samples}
    for sample in (sample for part in parts.values() for sample in part):
        assert sample.objects == by_id[sample.id].objects
        assert sample.path.read_bytes() == by_id[sample.id].path.read_bytes()
    assert len(image_names(tmp_path / "out")) == 30


def test_the_same_samples_give_the_same_bytes(tmp_path):
    samples = [make_noise_sample(tmp_path / "source", image_id) for image_id in range(1, 9)]
    for name, order in (("a", samples), ("b", samples[::-1])):
        write_dataset(tmp_path / name, order, SIZES, seed=3)
    assert manifest_path(tmp_path / "a").read_bytes() == manifest_path(tmp_path / "b").read_bytes()


def test_what_is_unusable_is_left_out_and_told(tmp_path):
    source = tmp_path / "source"
    nothing, everything = np.zeros_like(SQUARE), np.ones_like(SQUARE)
    samples = [
        *(make_noise_sample(source, image_id) for image_id in range(1, 6)),
        make_noise_sample(source, 6, masks=(nothing, SQUARE, everything)),
        make_noise_sample(source, 7, masks=(nothing,)),
        make_noise_sample(source, 8, masks=()),
        Sample(9, save_noise(source / "9.png", 1), WIDTH, HEIGHT, make_noise_sample(source, 99).objects),
    ]
    written = write_dataset(tmp_path / "out", samples, SIZES, seed=1)
    assert dict((why, what) for what, why in written.left_out) == {
        "their masks are empty or cover the whole image": "3 objects",
        "no object is left on them": "2 images",
        "the same picture as another one": "1 images",
    }
    assert image_names(tmp_path / "out") == [f"{image_id}.png" for image_id in range(1, 7)]


def test_names_stay_unique_and_in_the_folder(tmp_path):
    source = tmp_path / "source"
    files = ["a/x.png", "b/X.png", "c/x.png", "3-x.png", "d/y.png", "e/z.png"]
    samples = [make_noise_sample(source, image_id, name) for image_id, name in enumerate(files, start=1)]
    write_dataset(tmp_path / "out", samples, SIZES, seed=1)
    assert image_names(tmp_path / "out") == ["2-X.png", "3-x.png", "4-3-x.png", "x.png", "y.png", "z.png"]
    written = {sample.id: sample for part in read_parts(tmp_path / "out").values() for sample in part}
    for sample in samples:
        assert written[sample.id].path.read_bytes() == sample.path.read_bytes()


def test_images_are_linked_where_that_is_wanted_and_possible(tmp_path, monkeypatch):
    samples = [make_noise_sample(tmp_path / "source", image_id) for image_id in range(1, 7)]
    link = tmp_path / "link.png"
    link.symlink_to(samples[0].path)
    samples[0] = Sample(1, link, WIDTH, HEIGHT, samples[0].objects)

    def same_files(**arguments) -> int:
        write_dataset(tmp_path / "out", samples, SIZES, seed=1, **arguments)
        written = [sample for part in read_parts(tmp_path / "out").values() for sample in part]
        sources = {sample.id: sample.path for sample in samples}
        assert not any(sample.path.is_symlink() for sample in written)
        assert all(sample.path.read_bytes() == sources[sample.id].read_bytes() for sample in written)
        return sum(sample.path.samefile(sources[sample.id]) for sample in written)

    assert same_files() == 6
    assert same_files(link=False) == 0

    def impossible(*_):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", impossible)
    assert same_files() == 0


def test_a_bad_image_leaves_what_was_there(tmp_path):
    samples = [make_noise_sample(tmp_path / "source", image_id) for image_id in range(1, 7)]
    write_dataset(tmp_path / "out", samples, SIZES, seed=1)
    samples[2].path.write_bytes(samples[2].path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"3\.png is damaged or truncated"):
        write_dataset(tmp_path / "out", samples, SIZES, seed=1, link=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
    assert len(image_names(tmp_path / "out")) == 6


def test_an_id_is_there_once(tmp_path):
    samples = [make_noise_sample(tmp_path, 1), make_noise_sample(tmp_path, 1, "other.png")]
    with pytest.raises(InputError, match=r"other\.png: image 1: its id is there twice. Give each image"):
        write_dataset(tmp_path / "out", samples, SIZES, seed=1)


def test_progress_sees_every_image(tmp_path):
    seen: list[int] = []

    def progress(samples):
        for sample in samples:
            seen.append(sample.id)
            yield sample

    samples = [make_noise_sample(tmp_path / "source", image_id) for image_id in range(1, 7)]
    write_dataset(tmp_path / "out", samples, SIZES, 1, progress)
    assert seen == [1, 2, 3, 4, 5, 6]
