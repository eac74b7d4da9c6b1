"""Data of one's own, in every layout that is accepted."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from small_datasets import HEIGHT, SQUARE, WIDTH, make_noise_sample, read_parts, save_noise

from headimpact.data import checking
from headimpact.data.assembly import Written
from headimpact.data.checking import verify
from headimpact.data.coco import PARTS, annotation_path, images_path
from headimpact.data.manifest import write_manifest
from headimpact.data.own_data import import_own_data, read_own_data
from headimpact.data.writing import write_part
from headimpact.errors import InputError

SIZES = {"impact": 10, "train": 12, "val": 3, "test": 5}


def write_own(folder: Path, where: str = "mine.json", images: str = "images", prefix: str = "", count: int = 6) -> Path:
    """A folder with polygons and captions, as a labelling tool might write it."""
    content = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "square"}]}
    for image_id in range(1, count + 1):
        save_noise(folder / images / f"{image_id}.png", image_id)
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
    (samples,) = read_own_data(own).values()
    assert [obj.phrase for s in samples[:3] for obj in s.objects] == ["a captioned square", "my square", "square"]
    assert all((obj.mask() == SQUARE).all() and obj.score == 1 for s in samples for obj in s.objects)
    written = import_own_data(tmp_path / "out", own, SIZES, seed=1)
    assert sum(images for images, _ in written.parts.values()) == 6
    verify(tmp_path / "out")
    assert {s.id: s.objects for part in read_parts(tmp_path / "out").values() for s in part} == {
        s.id: s.objects for s in samples
    }


def test_an_own_folder_stays_untouched(tmp_path):
    own = write_own(tmp_path / "own")
    import_own_data(tmp_path / "out", own, SIZES, seed=1)
    assert all(path.stat().st_nlink == 1 for path in own.rglob("*.png"))


def write_parts(folder: Path, sizes: tuple[int, ...] = (2, 2, 1, 3)) -> Path:
    image_id = 0
    for part, size in zip(PARTS, sizes, strict=True):
        ids = range(image_id + 1, image_id + size + 1)
        write_part(folder, part, [make_noise_sample(images_path(folder), i) for i in ids])
        image_id += size
    return folder


def test_four_parts_are_kept(tmp_path):
    own = write_parts(tmp_path / "own")
    written = import_own_data(tmp_path / "out", own, SIZES, seed=1)
    assert written == Written({"impact": (2, 2), "train": (2, 2), "val": (1, 1), "test": (3, 3)})
    for part in PARTS:
        theirs, ours = annotation_path(own, part), annotation_path(tmp_path / "out", part)
        assert ours.read_bytes() == theirs.read_bytes()
    verify(tmp_path / "out")


def test_without_a_manifest_phrases_may_be_categories(tmp_path):
    own = write_parts(tmp_path / "own")
    path = annotation_path(own, "val")
    content = json.loads(path.read_text())
    del content["annotations"][0]["phrase"]
    path.write_text(json.dumps(content))
    assert read_own_data(own)["val"][0].objects[0].phrase == "object"
    write_manifest(own)
    with pytest.raises(InputError, match=r"val\.json: annotations\.0\.phrase: is missing"):
        read_own_data(own)


def refused(tmp_path: Path, own: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_own_data(tmp_path / "out", own, SIZES, seed=1)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_dataset(tmp_path):
    refused(tmp_path, tmp_path / "none", "none is no folder. A folder holds either")
    own = tmp_path / "own"
    save_noise(own / "images" / "1.png", 1)
    refused(tmp_path, own, "own holds no COCO JSON. A folder holds either")
    write_own(own, "a.json")
    write_own(own, "annotations/train.json")
    refused(
        tmp_path, own, r"several JSON files that are not the four parts: a\.json, annotations/train\.json. A folder"
    )


def test_folders_without_images(tmp_path):
    own = write_own(tmp_path / "own", prefix="elsewhere/no-")
    listed = r"None of the images that .*mine\.json lists is in .*own/images and .*own"
    refused(tmp_path, own, listed + r". It lists 'elsewhere/no-1\.png', and there is 'images/1\.png'")
    (own / "mine.json").write_text('{"images": [], "annotations": []}')
    refused(tmp_path, own, "There are 0 images with a usable object; a dataset needs at least 6")


def test_four_parts_need_images_each(tmp_path):
    own = write_parts(tmp_path / "own", (2, 1, 0, 2))
    refused(tmp_path, own, "The part val has too few images with a usable object: 0, and it needs 1")


def test_an_image_in_two_parts_is_refused(tmp_path):
    own = write_parts(tmp_path / "own")
    save_noise(own / "images" / "8.png", 1)
    refused(tmp_path, own, "image 8: it is in test, and the same picture is in impact as image 1. Keep it in one part")
    write_part(own, "test", [make_noise_sample(images_path(own), image_id) for image_id in (3, 6)])
    refused(tmp_path, own, "image 3: it is in test, and the same picture is in train as image 3. Keep it in one part")


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
            import_own_data(tmp_path / "out", own, SIZES, seed=1)
        assert (own / "mine.json").is_file()


def test_names_written_on_another_system(tmp_path):
    """Backslashes, %20, other case, folders of another machine, and another Unicode form: the file that is there."""
    own = write_own(tmp_path / "own")
    files = ["1.png", "2 b.png", "Drei.PNG", "4.png", "f\u00fcnf.png", "._1.png"]
    for number, name in enumerate(files, start=1):
        save_noise(own / "images" / name, number)
    names = ["images\\1.png", "2%20b.png", "drei.png", "C:\\photos\\4.png", "fu\u0308nf.png"]
    (own / "images" / "5.png").unlink()
    (own / "._mine.json").write_bytes(b"\x00\x05\x16\x07")
    content = json.loads((own / "mine.json").read_text())
    for record, name in zip(content["images"], names, strict=False):
        record["file_name"] = name
    (own / "mine.json").write_text(json.dumps(content))
    (samples,) = read_own_data(own).values()
    assert [sample.path.name for sample in samples] == [
        "1.png",
        "2 b.png",
        "Drei.PNG",
        "4.png",
        "f\u00fcnf.png",
        "6.png",
    ]
    content["images"][5]["file_name"] = "other\\1.png"
    (own / "mine.json").write_text(json.dumps(content))
    refused(tmp_path, own, r"image 1: it and another record may mean images/1\.png, one of them as 'images.*1\.png'")


def test_ids_that_start_anew_in_each_part_are_numbered_anew(tmp_path):
    own = tmp_path / "own"
    for place, (part, size) in enumerate(zip(PARTS, (2, 1, 1, 2), strict=True)):
        samples = [make_noise_sample(images_path(own), 10 * place + i, f"{part}{i}.png") for i in range(1, size + 1)]
        write_part(own, part, [replace(sample, id=sample.id % 10) for sample in samples])
    written = import_own_data(tmp_path / "out", own, SIZES, seed=1)
    assert written.noted == [("noted", "6 images: ids start anew in each part, so they are numbered anew")]
    verify(tmp_path / "out")
    assert [s.id for part in read_parts(tmp_path / "out").values() for s in part] == [1, 2, 3, 4, 5, 6]
    assert checking.check(own).problems == []


def test_objects_of_one_phrase_are_one_and_crowds_are_left_out(tmp_path):
    own = write_own(tmp_path / "own")
    content = json.loads((own / "mine.json").read_text())
    first = content["annotations"][0]
    other = [[10, 2, 12, 2, 12, 6, 10, 6]]
    content["annotations"] += [
        first | {"id": 2, "caption": "The captioned SQUARE.", "segmentation": other, "score": 0.5},
        first | {"id": 3, "iscrowd": 1},
        first | {"id": 4, "segmentation": [], "bbox": [1, 1, 2, 2]},
    ]
    content["categories"].append({"id": 4, "name": "square"})
    (own / "mine.json").write_text(json.dumps(content))
    written = import_own_data(tmp_path / "out", own, SIZES, seed=1)
    assert [what for what, _ in written.left_out] == ["1 objects", "1 objects"]
    assert written.noted[0][1].startswith("1 objects: they have the phrase of another object of their image")
    samples = {sample.id: sample for part in read_parts(tmp_path / "out").values() for sample in part}
    (obj,) = samples[1].objects
    assert (obj.id, obj.phrase, obj.score, obj.area) == (2, "The captioned SQUARE.", 0.5, SQUARE.sum() + 8)
    content["categories"].append({"id": 3, "name": "circle"})
    (own / "mine.json").write_text(json.dumps(content))
    refused(tmp_path / "again", own, "category 3: two categories have this id: 'square' and 'circle'")
