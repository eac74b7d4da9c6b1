"""The dataset format: what other COCO tools read, and every kind of bad input."""

import json
import os
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from headimpact import text
from headimpact.data import coco
from headimpact.errors import InputError

WIDTH, HEIGHT = 20, 12
CROSS = np.zeros((HEIGHT, WIDTH), dtype=bool)
CROSS[2:9, 5] = CROSS[4, 3:10] = True


def save_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint32).reshape(size[1], size[0], 3) * 7 % 251
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def make_sample(folder: Path, image_id: int, objects: int = 2) -> coco.Sample:
    path = save_image(coco.images_path(folder) / f"{image_id}.png")
    keys = tuple(
        coco.key_object(image_id * 10 + i, f"object {i}", np.roll(CROSS, i, axis=1), 0.5) for i in range(objects)
    )
    return coco.Sample(image_id, path, WIDTH, HEIGHT, keys)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A dataset of one image a part."""
    folder = tmp_path / "mine"
    for image_id, part in enumerate(coco.PARTS, start=1):
        coco.write_part(folder, part, [make_sample(folder, image_id)])
    coco.write_manifest(folder)
    return folder


def edit(folder: Path, change) -> None:
    """Let ``change`` edit the content of test.json (image 4, annotations 40 and 41)."""
    path = coco.annotation_path(folder, "test")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def segmentation(value):
    return lambda content: content["annotations"][0].update(segmentation=value)


# --- objects and files


def test_key_object_measures_its_mask():
    obj = coco.key_object(3, "cross", CROSS, 0.9)
    assert (obj.mask() == CROSS).all()
    assert obj.mask().dtype == bool
    assert obj.area == CROSS.sum() == 13
    assert obj.bbox == (3.0, 2.0, 7.0, 7.0)
    assert obj.rle["size"] == [HEIGHT, WIDTH]
    assert isinstance(obj.rle["counts"], str)


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_of_any_mask_are_read_as_they_were_written(seed):
    rng = np.random.default_rng(seed)
    mask = np.repeat(rng.random((60, 90)) < rng.random(), rng.integers(1, 40), axis=1)
    obj = coco.key_object(1, "noise", mask, 1.0)
    flat = np.concatenate([[False], mask.T.ravel()])
    starts = np.flatnonzero(np.diff(flat.astype(int)))
    assert coco._runs(obj.rle["counts"]) == np.diff([0, *starts, mask.size]).tolist()


def test_what_is_written_is_read(folder):
    samples = [make_sample(folder, 7, objects=0), make_sample(folder, 5), make_sample(folder, 6, objects=1)]
    coco.write_part(folder, "val", samples)
    assert coco.read_part(folder, "val") == sorted(samples, key=lambda sample: sample.id)


def test_the_bytes_do_not_depend_on_the_order_of_samples(folder):
    samples = [make_sample(folder, image_id) for image_id in (5, 6)]
    coco.write_part(folder, "val", samples)
    first = coco.annotation_path(folder, "val").read_bytes()
    coco.write_part(folder, "val", samples[::-1])
    assert coco.annotation_path(folder, "val").read_bytes() == first


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_opens_the_file(folder):
    with redirect_stdout(StringIO()):
        opened = COCO(str(coco.annotation_path(folder, "test")))
    (sample,) = coco.read_part(folder, "test")
    assert opened.loadImgs(4)[0]["file_name"] == "4.png"
    assert [category["name"] for category in opened.loadCats(opened.getCatIds())] == ["object"]
    found = opened.loadAnns(opened.getAnnIds(imgIds=[4], iscrowd=0))
    assert [annotation["id"] for annotation in found] == [obj.id for obj in sample.objects] == [40, 41]
    for annotation, obj in zip(found, sample.objects, strict=True):
        assert (opened.annToMask(annotation) == obj.mask()).all()
        assert annotation["bbox"] == list(obj.bbox)
        assert annotation["area"] == obj.area
        assert (annotation["phrase"], annotation["score"]) == (obj.phrase, obj.score)


def test_polygons_and_plain_run_lengths_are_read_too(folder):
    edit(folder, segmentation([[2, 3, 8, 3, 8, 9, 2, 9], [10, 0, 12, 0, 12, 2, 10, 2]]))
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[3:9, 2:8] = expected[0:2, 10:12] = True
    (sample,) = coco.read_part(folder, "test")
    assert (sample.objects[0].mask() == expected).all()
    assert sample.objects[0].area == expected.sum()
    edit(folder, segmentation({"size": [HEIGHT, WIDTH], "counts": [14, 3, HEIGHT * WIDTH - 17]}))
    (sample,) = coco.read_part(folder, "test")
    assert np.argwhere(sample.objects[0].mask()).tolist() == [[2, 1], [3, 1], [4, 1]]


def test_unknown_fields_are_welcome(folder):
    before = coco.read_part(folder, "test")
    edit(folder, lambda content: content.update(mine=1) or content["images"][0].update(license=3))
    assert coco.read_part(folder, "test") == before


# --- images


def test_images_are_rgb_whatever_is_in_the_file(folder, tmp_path):
    for name, mode in (("grey.png", "L"), ("palette.png", "P"), ("clear.png", "RGBA"), ("photo.jpg", "L")):
        path = tmp_path / name
        Image.new(mode, (WIDTH, HEIGHT)).save(path)
        image = coco.Sample(1, path, WIDTH, HEIGHT, ()).image()
        assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))


def refused(path: Path, message: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    with pytest.raises(InputError, match=message) as caught:
        coco.Sample(1, path, *size, ()).image()
    assert str(path) in str(caught.value)


def test_missing_image(tmp_path):
    refused(tmp_path / "none.png", "does not exist. Add the image")


def test_what_is_no_plain_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "does not exist")
    refused(tmp_path, "does not exist")


def test_the_digest_of_a_picture_is_of_its_pixels(tmp_path):
    image = Image.open(save_image(tmp_path / "image.png")).convert("RGB")
    image.save(tmp_path / "packed.png", optimize=True)
    same = Image.open(tmp_path / "packed.png").convert("RGB")
    assert coco.digest_pixels(same) == coco.digest_pixels(image)
    assert coco.digest_pixels(image.transpose(Image.Transpose.ROTATE_90)) != coco.digest_pixels(image)
    assert coco.digest_pixels(Image.new("RGB", (4, 2))) != coco.digest_pixels(Image.new("RGB", (2, 4)))


def test_other_formats(tmp_path):
    save_image(tmp_path / "image.gif").rename(tmp_path / "image.png")
    refused(tmp_path / "image.png", "not a PNG or JPEG image. Convert it")
    (tmp_path / "text.png").write_text("not at all an image")
    refused(tmp_path / "text.png", "not a PNG or JPEG image")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_truncated_anywhere(tmp_path, suffix):
    content = save_image(tmp_path / f"whole.{suffix}", (90, 70)).read_bytes()
    path = tmp_path / f"part.{suffix}"
    for length in range(20, len(content) * 9 // 10, 41):
        path.write_bytes(content[:length])
        refused(path, "damaged or truncated|not a PNG or JPEG image", (90, 70))
    path.write_bytes(content[: len(content) * 9 // 10])
    refused(path, r"damaged or truncated \(.+\). Put the whole file back", (90, 70))


def test_image_of_another_size(tmp_path):
    path = save_image(tmp_path / "image.png", (9, 8))
    refused(path, "is 9x8 pixels, its annotations are for 20x12. Correct width and height")


@pytest.mark.parametrize(("width", "height"), [(10_000, 5_001), (10_000, 10_000), (60_000, 60_000)])
def test_too_many_pixels_are_refused_from_the_header(tmp_path, width, height):
    path = save_image(tmp_path / "image.png")
    content = bytearray(path.read_bytes())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = __import__("zlib").crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    refused(path, "more than 50 megapixels. Make it smaller", (width, height))


# --- annotations


def refuses(folder: Path, change, message: str) -> None:
    edit(folder, change)
    with pytest.raises(InputError, match=message) as caught:
        coco.read_part(folder, "test")
    assert "test.json" in str(caught.value)


def test_missing_and_broken_files(folder):
    path = coco.annotation_path(folder, "test")
    path.write_text("{")
    with pytest.raises(InputError, match=r"test\.json is not valid JSON"):
        coco.read_part(folder, "test")
    path.unlink()
    with pytest.raises(InputError, match=r"test\.json does not exist. Run `headimpact data`"):
        coco.read_part(folder, "test")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda content: content.pop("images"), "has no list of images"),
        (lambda content: content.update(annotations={}), "has no list of annotations"),
        (lambda content: content["images"].append([]), "images.1: Input should be"),
        (lambda content: content["images"][0].pop("width"), "images.0.width: Field required"),
        (lambda content: content["images"][0].update(height=0), "images.0.height"),
        (lambda content: content["images"][0].update(file_name=""), "images.0.file_name"),
        (lambda content: content["annotations"][1].pop("phrase"), "annotations.1.phrase: Field required"),
        (lambda content: content["annotations"][1].update(phrase=" "), "annotations.1.phrase"),
        (lambda content: content["annotations"][1].update(score=1.5), "annotations.1.score"),
        (lambda content: content["annotations"][1].update(score=float("nan")), "annotations.1.score"),
        (lambda content: content["annotations"][1].update(phrase="\ud800"), "annotations.1.phrase"),
        (lambda content: content["annotations"][1].update(id="x"), "annotations.1.id"),
        (lambda content: content["annotations"][1].update(id=-1), "annotations.1.id"),
        (lambda content: content["images"][0].update(id=2**63), "images.0.id"),
        (lambda content: content["images"][0].update(file_name="a\x1b[2J.png"), "images.0.file_name"),
        (lambda content: content["images"][0].update(file_name="a\0.png"), "images.0.file_name"),
        (lambda content: content["annotations"][1].pop("segmentation"), "annotations.1.segmentation"),
    ],
)
def test_missing_and_wrong_fields_are_named(folder, change, place):
    refuses(folder, change, re.escape(place) + ".*Every image needs id, file_name")


def test_a_list_is_no_dataset(folder):
    coco.annotation_path(folder, "test").write_text("[]")
    with pytest.raises(InputError, match=r"test\.json is JSON, but no dictionary"):
        coco.read_part(folder, "test")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"images": [' + "9" * 5000 + "]}", "\xff"])
def test_json_that_would_break_the_reader(folder, text):
    coco.annotation_path(folder, "test").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"test\.json is not valid JSON: "):
        coco.read_part(folder, "test")


def test_mask_of_another_size_than_its_image(folder):
    refuses(
        folder,
        lambda content: content["images"][0].update(width=WIDTH + 1),
        "annotation 40 of image 4: the mask is 20x12 pixels, its image 21x12. Make a mask of the",
    )


@pytest.mark.parametrize(
    "counts",
    [
        "",  # pycocotools would decode it to what the memory holds
        "34",  # too few pixels
        "3X1",  # too many
        "34=P",  # ends inside a number
        "zz zé",
        "o" * 100_000,  # one number of half a million bits
        [3, 4],
        [-1, 241],
        [],
    ],
)
def test_run_lengths_that_are_no_mask(folder, counts):
    wrong = segmentation({"size": [HEIGHT, WIDTH], "counts": counts})
    refuses(folder, wrong, "annotation 40 of image 4: the mask's run lengths do not decode to 20x12 pixels")


@pytest.mark.parametrize("polygons", [[], [[1, 1, 5, 5]], [[1, 1, 5, 5, 1, 5, 3]]])
def test_polygons_that_are_none(folder, polygons):
    refuses(folder, segmentation(polygons), "annotation 40 of image 4: a polygon is x, y, x, y")


@pytest.mark.parametrize("far", [1e9, 1e300, float("inf"), float("nan")])
def test_polygons_that_would_take_the_memory(folder, far):
    wrong = "annotation 40 of image 4: the outline of its polygons is longer than 1000000 pixels or not a number"
    refuses(folder, segmentation([[1, 1, far, 5, 1, 5]]), wrong)


def test_an_outline_may_cross_the_image_only_so_often(folder):
    wrong = "the outline of its polygons is longer than 1000000 pixels"
    refuses(folder, segmentation([[0, 0, 20, 12] * 30_000]), wrong)


def test_polygons_may_leave_the_image_a_little(folder):
    edit(folder, segmentation([[-5, -3, 8, -3, 8, 9, -5, 9]]))
    (sample,) = coco.read_part(folder, "test")
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[:9, :8] = True
    assert (sample.objects[0].mask() == expected).all()


@pytest.mark.parametrize(
    ("masks", "what"),
    [
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "is empty"),
        ([[5, 5, 5, 5, 5, 5]], "is empty"),
        ({"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}, "covers the whole image"),
    ],
)
def test_masks_that_show_nothing(folder, masks, what):
    wrong = f"annotation 40 of image 4: the mask {what}. Correct the mask or remove the annotation"
    refuses(folder, segmentation(masks), wrong)


@pytest.mark.parametrize("side", [10**4, 10**9, 10**300])
def test_masks_of_huge_images_are_not_decoded(folder, side):
    def change(content):
        content["images"][0].update(width=side, height=side)
        content["annotations"][0]["segmentation"] = {"size": [side, side], "counts": [1, side * side - 1]}

    refuses(folder, change, "annotation 40 of image 4: has more than 50 megapixels. Make it smaller")


def test_huge_images_without_objects(folder):
    wrong = "image 4: has more than 50 megapixels. Make it smaller, with its masks, or leave it out"
    refuses(folder, lambda content: content.update(annotations=[]) or content["images"][0].update(width=10**9), wrong)


def test_annotation_of_an_unknown_image(folder):
    wrong = "annotation 40 of image 99: the file lists no such image. Add the image or remove"
    refuses(folder, lambda content: content["annotations"][0].update(image_id=99), wrong)


@pytest.mark.parametrize(("key", "kind", "number"), [("images", "image", 4), ("annotations", "annotation", 40)])
def test_ids_are_unique(folder, key, kind, number):
    wrong = f"{kind} {number}: its id is there twice. Give each {kind} an id of its own"
    refuses(folder, lambda content: content[key].append(content[key][0]), wrong)


@pytest.mark.parametrize("name", ["../secret.png", "a/../../b.png", "/etc/image.png", "..\\b.png", "C:\\b.png"])
def test_file_names_stay_in_the_dataset(folder, name):
    wrong = "image 4: file_name .* leaves the dataset. Put the image into .*images"
    refuses(folder, lambda content: content["images"][0].update(file_name=name), wrong)


def test_images_may_lie_in_subfolders(folder):
    edit(folder, lambda content: content["images"][0].update(file_name="val2017/..4.png"))
    (sample,) = coco.read_part(folder, "test")
    assert sample.path == folder / "images" / "val2017" / "..4.png"


# --- all problems at once


def test_every_problem_of_a_file_is_reported_and_the_rest_is_read(folder):
    path = coco.annotation_path(folder, "test")
    edit(
        folder,
        lambda content: (
            content["images"].append({"id": 5, "file_name": "../5.png", "width": WIDTH, "height": HEIGHT}),
            content["images"].append({"id": 6, "file_name": "6.png", "width": WIDTH}),
            content["annotations"].append({**content["annotations"][0], "id": 60, "image_id": 6}),
            content["annotations"].append({**content["annotations"][0], "id": 70, "image_id": 7}),
            content["annotations"].append({"id": 80, "image_id": 4, "segmentation": "none", "score": 2}),
            content["annotations"].append(content["annotations"][1]),
        ),
    )
    found: list[coco.Problem] = []
    (sample,) = coco.read_annotations(path, folder / "images", found.append)
    assert [obj.id for obj in sample.objects] == [40, 41]
    assert {problem.file for problem in found} == {path}
    assert [(problem.record, problem.what.split(":")[0]) for problem in found] == [
        ("images.2.height", "Field required"),
        ("annotations.4.segmentation", "Input should be a valid dictionary or instance of _Rle"),
        ("annotations.4.score", "Input should be less than or equal to 1"),
        ("annotations.4.phrase", "Field required"),
        ("annotation 41", "its id is there twice"),
        ("annotation 70 of image 7", "the file lists no such image"),
        ("image 5", "file_name '../5.png' leaves the dataset"),
    ]
    assert all(problem.advice.endswith(".") for problem in found)


def test_a_broken_file_is_one_problem(folder):
    path = coco.annotation_path(folder, "test")
    path.write_text("{")
    found: list[coco.Problem] = []
    assert coco.read_annotations(path, folder / "images", found.append) == []
    assert len(found) == 1


def test_phrases_and_scores_may_be_found_elsewhere(folder):
    path = coco.annotation_path(folder, "test")

    def change(content):
        first, second = content["annotations"]
        del first["phrase"], first["score"], second["phrase"]
        first["caption"] = "a captioned cross"
        content["categories"].append({"id": 7, "name": "cross"})
        second["category_id"] = 7
        content["annotations"] += [
            {**first, "id": 42, "phrase": "its own phrase"},
            {**first, "id": 43, "phrase": " "},
            {**second, "id": 44, "category_id": [8]},
        ]

    edit(folder, change)
    found: list[coco.Problem] = []
    (sample,) = coco.read_annotations(path, folder / "images", found.append, lenient=True)
    read = [(obj.phrase, obj.score) for obj in sample.objects]
    assert read == [("a captioned cross", 1.0), ("cross", 0.5), ("its own phrase", 1.0)]
    assert [problem.record for problem in found] == ["annotations.3.phrase", "annotations.4.phrase"]


def test_pictures_that_cannot_be_read_or_are_in_two_parts(folder):
    parts = {part: coco.read_part(folder, part) for part in coco.PARTS}
    found: list[coco.Problem] = []
    for image_id in (1, 2, 3):
        save_image(folder / "images" / f"{image_id}.png").write_bytes(b"no image" if image_id == 3 else b"")
    for image_id, colour in ((1, "red"), (2, "blue"), (4, "red")):
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(folder / "images" / f"{image_id}.png")
    coco.check_pictures(parts, found.append)
    assert [(problem.file.name, problem.record, problem.what) for problem in found] == [
        ("3.png", "image 3", "is not a PNG or JPEG image"),
        ("4.png", "image 4", "it is in test, and the same picture is in impact as image 1"),
    ]
    with pytest.raises(InputError, match=r"3\.png: image 3: is not a PNG"):
        coco.check_pictures(parts)


# --- splits


def test_split_is_by_image_and_does_not_depend_on_order():
    sizes = {"impact": 10, "train": 20, "val": 5, "test": 8}
    ids = range(100, 150)
    parts = coco.split(ids, sizes, seed=1)
    assert {part: len(chosen) for part, chosen in parts.items()} == sizes
    chosen = [image_id for part in parts.values() for image_id in part]
    assert len(set(chosen)) == 43
    assert set(chosen) <= set(ids)
    assert all(part == sorted(part) for part in parts.values())
    assert coco.split([*reversed(ids), 120, 121], sizes, seed=1) == parts
    assert coco.split(ids, sizes, seed=2) != parts


def test_split_needs_enough_images():
    with pytest.raises(InputError, match=r"need 6 images, there are 5. Make the parts smaller in params.yaml"):
        coco.split([1, 2, 3, 4, 5, 5], {"impact": 2, "train": 4}, seed=0)


# --- manifest


def test_an_untouched_dataset_is_verified(folder):
    coco.verify(folder)
    assert set(json.loads(coco.manifest_path(folder).read_text())) == {
        *(f"annotations/{part}.json" for part in coco.PARTS),
        *(f"images/{image_id}.png" for image_id in range(1, 5)),
    }


def unverified(folder: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        coco.verify(folder)
    assert str(folder / name) in str(caught.value)
    advice = str(caught.value)
    assert f"delete {folder} and run `headimpact data`" in advice or f"delete {folder}/manifest.json" in advice


def test_an_edited_annotation_file_is_noticed(folder):
    edit(folder, lambda content: content["annotations"][0].update(phrase="another"))
    unverified(folder, "annotations/test.json", "was changed after it was written")


def test_an_edited_image_is_noticed(folder):
    save_image(coco.images_path(folder) / "2.png", (WIDTH, HEIGHT + 1))
    unverified(folder, "images/2.png", "was changed after it was written")


def test_removed_and_added_files_are_noticed(folder):
    (coco.images_path(folder) / "3.png").rename(coco.images_path(folder) / "5.png")
    unverified(folder, "images/3.png", "is missing")
    save_image(coco.images_path(folder) / "3.png")
    unverified(folder, "images/5.png", "was added after the dataset was written. Remove it")


def test_a_dataset_without_manifest(folder):
    coco.manifest_path(folder).write_text("[]")
    with pytest.raises(InputError, match=r"manifest\.json is JSON, but no dictionary"):
        coco.verify(folder)
    coco.manifest_path(folder).unlink()
    unverified(folder, "manifest.json", "does not exist")
    with pytest.raises(InputError, match=r"manifest\.json does not exist. Run `headimpact data`"):
        coco.dataset_digest(folder)


def test_an_image_in_two_parts_is_refused(folder):
    coco.write_part(folder, "train", [make_sample(folder, 2), make_sample(folder, 4)])
    coco.write_manifest(folder)
    with pytest.raises(InputError, match=r"image 4: it is in train and in test\. Keep it in one part"):
        coco.verify(folder)


def test_the_digest_follows_the_content(folder):
    before = coco.dataset_digest(folder)
    coco.write_manifest(folder)
    assert coco.dataset_digest(folder) == before
    edit(folder, lambda content: content["annotations"][0].update(phrase="another"))
    coco.write_manifest(folder)
    assert coco.dataset_digest(folder) != before


# --- phrases


@pytest.mark.parametrize(
    ("phrase", "same"),
    [
        ("The street light", "street light"),
        ("  A  Man's   HAT. ", "man s hat"),
        ("an old T-shirt, the red one!", "old t shirt red one"),
        ("theatre", "theatre"),
        ("Straße", "strasse"),
    ],
)
def test_normalise(phrase, same):
    assert text.normalise(phrase) == same


def test_only_what_is_made_here_is_to_be_deleted(folder, monkeypatch):
    """Of a copy that somebody edits, the manifest is in the way, not the data."""
    edit(folder, lambda content: content["annotations"][0].update(phrase="another"))
    with pytest.raises(
        InputError, match=r"If that was meant, delete .*manifest\.json: the folder is then read as data"
    ):
        coco.verify(folder)
    monkeypatch.setattr(coco, "DATASET", folder)
    with pytest.raises(InputError, match=rf"To rebuild: delete {re.escape(str(folder))} and run"):
        coco.verify(folder)


def test_images_of_more_than_eight_bits_a_channel_are_refused(tmp_path):
    """As RGB they would be white."""
    pixels = np.linspace(0, 60000, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png has more than 8 bits a channel. Save it with 8 bits"):
        coco.Sample(1, tmp_path / "deep.png", WIDTH, HEIGHT, ()).image()


def test_a_turned_image_is_read_as_it_is_stored_and_a_wrong_size_says_so(tmp_path):
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert coco.Sample(1, tmp_path / "turned.jpg", WIDTH, HEIGHT, ()).image().size == (WIDTH, HEIGHT)
    with pytest.raises(InputError, match=r"its EXIF turns it, which is not applied"):
        coco.Sample(1, tmp_path / "turned.jpg", HEIGHT, WIDTH, ()).image()


def test_a_byte_order_mark_is_no_fault(folder):
    path = coco.annotation_path(folder, "test")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    coco.read_part(folder, "test")
