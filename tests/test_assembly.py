"""Datasets from any source, and folders of one's own."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headimpact.data import assembly, coco
from headimpact.errors import InputError

WIDTH, HEIGHT = 20, 12
SIZES = {"impact": 10, "train": 12, "val": 3, "test": 5}
SQUARE = np.zeros((HEIGHT, WIDTH), dtype=bool)
SQUARE[2:6, 3:8] = True


def save_image(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make_sample(folder: Path, image_id: int, name: str = "", masks=(SQUARE,)) -> coco.Sample:
    path = save_image(folder / (name or f"{image_id}.png"), image_id)
    objects = tuple(coco.key_object(10 * image_id + i, "a thing", mask, 0.9) for i, mask in enumerate(masks))
    return coco.Sample(image_id, path, WIDTH, HEIGHT, objects)


def read(folder: Path) -> dict[str, list[coco.Sample]]:
    return {part: coco.read_part(folder, part) for part in coco.PARTS}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in coco.images_path(folder).iterdir())


# --- the split


def test_enough_images_give_exactly_the_sizes():
    chosen = assembly.parts(range(100), SIZES, seed=1)
    assert chosen == coco.split(range(100), SIZES, seed=1)
    assert {part: len(ids) for part, ids in chosen.items()} == SIZES
    assert assembly.parts(range(30), SIZES, seed=1) == coco.split(range(30), SIZES, seed=1)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (29, [10, 11, 3, 5]),  # 9.67, 11.6, 2.9, 4.83
        (15, [5, 6, 2, 2]),  # 5, 6, 1.5, 2.5: the first of two equal remainders
        (7, [2, 3, 1, 1]),  # 2.33, 2.8, 0.7, 1.17
        (5, [1, 2, 1, 1]),  # 1.67, 2, 0.5, 0.83 make 2, 2, 0, 1: val takes one from impact
        (4, [1, 1, 1, 1]),
    ],
)
def test_fewer_images_are_divided_in_proportion(images, expected):
    chosen = assembly.parts(range(images), SIZES, seed=1)
    assert [len(ids) for ids in chosen.values()] == expected
    assert sorted(i for ids in chosen.values() for i in ids) == list(range(images))


@pytest.mark.parametrize("images", range(4, 30))
def test_every_image_is_used_and_no_part_is_empty_or_far_from_its_share(images):
    sizes = {"impact": 1000, "train": 1200, "val": 300, "test": 500}
    counts = {part: len(ids) for part, ids in assembly.parts(range(images), sizes, seed=1).items()}
    assert sum(counts.values()) == images
    assert all(abs(counts[part] - images * size / 3000) < 1 for part, size in sizes.items())
    assert min(counts.values()) >= 1


def test_too_few_images_are_refused():
    wrong = r"There are 3 images with a usable object; a dataset needs at least 4, one for each .*impact, train, val"
    with pytest.raises(InputError, match=wrong):
        assembly.parts([1, 2, 3, 3], SIZES, seed=1)


# --- writing


def test_a_dataset_is_written_whole(tmp_path):
    samples = [make_sample(tmp_path / "source", image_id) for image_id in range(1, 41)]
    written = assembly.write_dataset(tmp_path / "out", reversed(samples), SIZES, seed=3)
    assert written.parts == {part: (size, size) for part, size in SIZES.items()}
    assert written.skipped == [("10 images", "more than the parts take")]
    coco.verify(tmp_path / "out")
    found = read(tmp_path / "out")
    assert {part: [s.id for s in part_samples] for part, part_samples in found.items()} == assembly.parts(
        range(1, 41), SIZES, seed=3
    )
    by_id = {sample.id: sample for sample in samples}
    for sample in (sample for part in found.values() for sample in part):
        assert sample.objects == by_id[sample.id].objects
        assert sample.path.read_bytes() == by_id[sample.id].path.read_bytes()
    assert len(names(tmp_path / "out")) == 30


def test_the_same_samples_give_the_same_bytes(tmp_path):
    samples = [make_sample(tmp_path / "source", image_id) for image_id in range(1, 9)]
    for name, order in (("a", samples), ("b", samples[::-1])):
        assembly.write_dataset(tmp_path / name, order, SIZES, seed=3)
    assert coco.manifest_path(tmp_path / "a").read_bytes() == coco.manifest_path(tmp_path / "b").read_bytes()


def test_what_is_unusable_is_left_out_and_told(tmp_path):
    source = tmp_path / "source"
    nothing, everything = np.zeros_like(SQUARE), np.ones_like(SQUARE)
    samples = [
        *(make_sample(source, image_id) for image_id in range(1, 6)),
        make_sample(source, 6, masks=(nothing, SQUARE, everything)),
        make_sample(source, 7, masks=(nothing,)),
        make_sample(source, 8, masks=()),
        coco.Sample(9, save_image(source / "9.png", 1), WIDTH, HEIGHT, make_sample(source, 99).objects),
    ]
    written = assembly.write_dataset(tmp_path / "out", samples, SIZES, seed=1)
    assert dict((why, what) for what, why in written.skipped) == {
        "their masks are empty or cover the whole image": "3 objects",
        "no object is left on them": "2 images",
        "the same picture as another one": "1 images",
    }
    assert names(tmp_path / "out") == [f"{image_id}.png" for image_id in range(1, 7)]


def test_names_stay_unique_and_in_the_folder(tmp_path):
    source = tmp_path / "source"
    files = ["a/x.png", "b/X.png", "c/x.png", "3-x.png", "d/y.png"]
    samples = [make_sample(source, image_id, name) for image_id, name in enumerate(files, start=1)]
    assembly.write_dataset(tmp_path / "out", samples, SIZES, seed=1)
    assert names(tmp_path / "out") == ["2-X.png", "3-x.png", "4-3-x.png", "x.png", "y.png"]
    found = {sample.id: sample for part in read(tmp_path / "out").values() for sample in part}
    for sample in samples:
        assert found[sample.id].path.read_bytes() == sample.path.read_bytes()


def test_images_are_linked_where_that_is_wanted_and_possible(tmp_path, monkeypatch):
    samples = [make_sample(tmp_path / "source", image_id) for image_id in range(1, 5)]
    link = tmp_path / "link.png"
    link.symlink_to(samples[0].path)
    samples[0] = coco.Sample(1, link, WIDTH, HEIGHT, samples[0].objects)

    def same_files(**arguments) -> int:
        assembly.write_dataset(tmp_path / "out", samples, SIZES, seed=1, **arguments)
        found = [sample for part in read(tmp_path / "out").values() for sample in part]
        sources = {sample.id: sample.path for sample in samples}
        assert not any(sample.path.is_symlink() for sample in found)
        assert all(sample.path.read_bytes() == sources[sample.id].read_bytes() for sample in found)
        return sum(sample.path.samefile(sources[sample.id]) for sample in found)

    assert same_files() == 4
    assert same_files(link=False) == 0

    def impossible(*_):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", impossible)
    assert same_files() == 0


def test_a_bad_image_leaves_what_was_there(tmp_path):
    samples = [make_sample(tmp_path / "source", image_id) for image_id in range(1, 6)]
    assembly.write_dataset(tmp_path / "out", samples, SIZES, seed=1)
    samples[2].path.write_bytes(samples[2].path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"3\.png is damaged or truncated"):
        assembly.write_dataset(tmp_path / "out", samples, SIZES, seed=1, link=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
    assert len(names(tmp_path / "out")) == 5


def test_an_id_is_there_once(tmp_path):
    samples = [make_sample(tmp_path, 1), make_sample(tmp_path, 1, "other.png")]
    with pytest.raises(InputError, match=r"other\.png: image 1: its id is there twice. Give each image"):
        assembly.write_dataset(tmp_path / "out", samples, SIZES, seed=1)


def test_progress_sees_every_image(tmp_path):
    seen: list[int] = []

    def progress(samples):
        for sample in samples:
            seen.append(sample.id)
            yield sample

    samples = [make_sample(tmp_path / "source", image_id) for image_id in range(1, 5)]
    assembly.write_dataset(tmp_path / "out", samples, SIZES, 1, progress)
    assert seen == [1, 2, 3, 4]


# --- one's own data


def write_own(folder: Path, where: str = "mine.json", images: str = "images", prefix: str = "", count: int = 6) -> Path:
    """A folder with polygons and captions, as a labelling tool might write it."""
    content = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "square"}]}
    for image_id in range(1, count + 1):
        save_image(folder / images / f"{image_id}.png", image_id)
        name = f"{prefix}{image_id}.png"
        content["images"].append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
        segmentation = [[3, 2, 8, 2, 8, 6, 3, 6]]
        text = {1: {"caption": "a captioned square"}, 2: {"phrase": "my square"}}.get(image_id, {"category_id": 3})
        annotation = {"id": 10 * image_id, "image_id": image_id, "segmentation": segmentation, **text}
        content["annotations"].append(annotation)
    (folder / where).parent.mkdir(parents=True, exist_ok=True)
    (folder / where).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"where": "annotations/instances.json"},
        {"images": "."},
        {"where": "annotations/instances.json", "images": "."},
        {"prefix": "images/"},
        {"images": "images/deep", "prefix": "deep/"},
        {"images": "photos", "prefix": "photos/"},
    ],
)
def test_one_json_and_images(tmp_path, layout: Mapping[str, str]):
    own = write_own(tmp_path / "own", **layout)
    (samples,) = assembly.read_own(own).values()
    assert [obj.phrase for s in samples[:3] for obj in s.objects] == ["a captioned square", "my square", "square"]
    assert all((obj.mask() == SQUARE).all() and obj.score == 1 for s in samples for obj in s.objects)
    written = assembly.import_own(tmp_path / "out", own, SIZES, seed=1)
    assert sum(images for images, _ in written.parts.values()) == 6
    coco.verify(tmp_path / "out")
    assert {s.id: s.objects for part in read(tmp_path / "out").values() for s in part} == {
        s.id: s.objects for s in samples
    }


def test_an_own_folder_stays_untouched(tmp_path):
    own = write_own(tmp_path / "own")
    assembly.import_own(tmp_path / "out", own, SIZES, seed=1)
    assert all(path.stat().st_nlink == 1 for path in own.rglob("*.png"))


def write_parts(folder: Path, sizes: tuple[int, ...] = (1, 2, 1, 3)) -> Path:
    image_id = 0
    for part, size in zip(coco.PARTS, sizes, strict=True):
        ids = range(image_id + 1, image_id + size + 1)
        coco.write_part(folder, part, [make_sample(coco.images_path(folder), i) for i in ids])
        image_id += size
    return folder


def test_four_parts_are_kept(tmp_path):
    own = write_parts(tmp_path / "own")
    written = assembly.import_own(tmp_path / "out", own, SIZES, seed=1)
    assert written == assembly.Written({"impact": (1, 1), "train": (2, 2), "val": (1, 1), "test": (3, 3)})
    for part in coco.PARTS:
        theirs, ours = coco.annotation_path(own, part), coco.annotation_path(tmp_path / "out", part)
        assert ours.read_bytes() == theirs.read_bytes()
    coco.verify(tmp_path / "out")


def test_without_a_manifest_phrases_may_be_categories(tmp_path):
    own = write_parts(tmp_path / "own")
    path = coco.annotation_path(own, "val")
    content = json.loads(path.read_text())
    del content["annotations"][0]["phrase"]
    path.write_text(json.dumps(content))
    assert assembly.read_own(own)["val"][0].objects[0].phrase == "object"
    coco.write_manifest(own)
    with pytest.raises(InputError, match=r"val\.json: annotations\.0\.phrase: Field required"):
        assembly.read_own(own)


def refused(tmp_path: Path, own: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        assembly.import_own(tmp_path / "out", own, SIZES, seed=1)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_dataset(tmp_path):
    refused(tmp_path, tmp_path / "none", "none is no folder. A folder holds either")
    own = tmp_path / "own"
    save_image(own / "images" / "1.png", 1)
    refused(tmp_path, own, "own holds no COCO JSON. A folder holds either")
    write_own(own, "a.json")
    write_own(own, "annotations/train.json")
    refused(
        tmp_path, own, r"several JSON files that are not the four parts: a\.json, annotations/train\.json. A folder"
    )


def test_folders_without_images(tmp_path):
    own = write_own(tmp_path / "own", prefix="elsewhere/")
    refused(tmp_path, own, r"None of the images that .*mine\.json lists is in .*own/images and .*own. A folder holds")
    (own / "mine.json").write_text('{"images": [], "annotations": []}')
    refused(tmp_path, own, "There are 0 images with a usable object; a dataset needs at least 4")


def test_four_parts_need_images_each(tmp_path):
    own = write_parts(tmp_path / "own", (1, 1, 0, 1))
    refused(tmp_path, own, "The part val has no image with a usable object. Add one to each part")


def test_an_image_in_two_parts_is_refused(tmp_path):
    own = write_parts(tmp_path / "own")
    save_image(own / "images" / "7.png", 1)
    refused(tmp_path, own, "image 7: it is in test, and the same picture is in impact as image 1. Keep it in one part")
    coco.write_part(own, "test", [make_sample(coco.images_path(own), 2)])
    refused(tmp_path, own, "image 2: it is in train and in test. Keep it in one part")


def test_a_problem_of_the_source_points_to_the_check(tmp_path):
    own = write_own(tmp_path / "own")
    path = own / "images" / "4.png"
    path.write_bytes(b"not an image")
    told = f"To see all problems: headimpact check-data {own}"
    refused(tmp_path, own, rf"4\.png is not a PNG or JPEG image. .* {told}")
    content = json.loads((own / "mine.json").read_text())
    content["annotations"][5]["segmentation"] = [[1, 2, 3]]
    (own / "mine.json").write_text(json.dumps(content))
    refused(tmp_path, own, rf"annotation 60 of image 6: a polygon is .* {told}")


def test_a_dataset_is_not_made_of_itself(tmp_path):
    for own in (tmp_path / "out", tmp_path / "out" / "own"):
        write_own(own)
        with pytest.raises(InputError, match="would be replaced by the dataset that is made of it"):
            assembly.import_own(tmp_path / "out", own, SIZES, seed=1)
        assert (own / "mine.json").is_file()
