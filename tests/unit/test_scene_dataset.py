"""The generated dataset holds the drawn scenes, and the same bytes each time."""

import pytest

from headimpact.data import coco, scenes
from headimpact.data.checking import verify
from headimpact.data.manifest import dataset_digest
from headimpact.data.scene_dataset import write_scenes

SIZES = {"impact": 4, "train": 6, "val": 2, "test": 3}


def test_the_dataset_holds_the_drawn_scenes_with_their_rich_phrases(tmp_path):
    folder = tmp_path / "scenes"
    told: list[int] = []
    write_scenes(folder, SIZES, seed=5, progress=lambda ids: (told.append(i) or i for i in ids))
    verify(folder)
    parts = {part: coco.read_part(folder, part) for part in coco.PARTS}
    assert {part: len(samples) for part, samples in parts.items()} == SIZES
    samples = [sample for part in parts.values() for sample in part]
    assert sorted(sample.id for sample in samples) == told == list(range(1, 16))
    for sample in samples:
        scene = scenes.draw(5, sample.id)
        assert sample.image().tobytes() == scene.image.tobytes()
        assert [obj.phrase for obj in sample.objects] == [thing.rich for thing in scene.things]
        for obj, thing in zip(sample.objects, scene.things, strict=True):
            assert (obj.mask() == thing.mask).all()
            assert obj.score == 1.0
    ids = [obj.id for sample in samples for obj in sample.objects]
    assert len(set(ids)) == len(ids)


def test_two_writes_give_the_same_files_and_another_seed_others(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_scenes(tmp_path / name, SIZES, seed)
    a, b, c = (dataset_digest(tmp_path / name) for name in "abc")
    assert a == b != c


def test_a_scene_does_not_depend_on_the_sizes_of_the_parts(tmp_path):
    write_scenes(tmp_path / "few", SIZES, 5)
    write_scenes(tmp_path / "more", SIZES | {"train": 9}, 5)
    first = coco.images_path(tmp_path / "few")
    for path in first.iterdir():
        assert path.read_bytes() == (coco.images_path(tmp_path / "more") / path.name).read_bytes()


def test_a_failed_write_leaves_the_dataset_as_it_was(tmp_path):
    def stop(ids):
        yield from list(ids)[:3]
        raise RuntimeError("stopped")

    folder = tmp_path / "scenes"
    with pytest.raises(RuntimeError, match="stopped"):
        write_scenes(folder, SIZES, 5, progress=stop)
    assert list(tmp_path.iterdir()) == []
    write_scenes(folder, SIZES, 5)
    before = dataset_digest(folder)
    with pytest.raises(RuntimeError, match="stopped"):
        write_scenes(folder, SIZES, 6, progress=stop)
    verify(folder)
    assert dataset_digest(folder) == before
    assert list(tmp_path.iterdir()) == [folder]
