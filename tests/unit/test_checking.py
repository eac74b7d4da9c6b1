"""Every damage to a dataset is found, all at once."""

import csv
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from headimpact.data import checking, coco
from headimpact.data.manifest import manifest_path, write_manifest
from headimpact.data.problems import Problem
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.data.writing import write_part
from headimpact.errors import InputError
from headimpact.lifecycle import check_data

SIZES = {"impact": 2, "train": 4, "val": 2, "test": 2}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten scenes, without their manifest: data of one's own in the project's layout."""
    write_scenes(tmp_path / "mine", SIZES, seed=5)
    manifest_path(tmp_path / "mine").unlink()
    return tmp_path / "mine"


def ids(folder: Path, part: str) -> list[int]:
    return [sample.id for sample in coco.read_part(folder, part)]


def edit(folder: Path, part: str, change) -> None:
    path = coco.annotation_path(folder, part)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def image_file(folder: Path, image_id: int) -> Path:
    return coco.images_path(folder) / f"{image_id:06d}.png"


def problems_of(folder: Path) -> list[tuple[str, str, str]]:
    problems = checking.check(folder).problems
    assert all(problem.advice.endswith(".") for problem in problems)
    return [(problem.file.name, problem.record, problem.what) for problem in problems]


def claim(path: Path, width: int, height: int) -> None:
    """Let the header of a PNG say another size."""
    content = bytearray(path.read_bytes())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def test_a_sound_dataset_has_no_problem(folder):
    objects = {part: sum(len(s.objects) for s in coco.read_part(folder, part)) for part in coco.PARTS}
    expected = {part: (size, objects[part]) for part, size in SIZES.items()}
    assert checking.check(folder) == checking.Check(10, sum(objects.values()), expected, [])
    write_manifest(folder)
    assert checking.check(folder).problems == []


def test_every_bad_image_is_found(folder):
    missing, truncated, other, foreign, bomb = (ids(folder, "train") + ids(folder, "val"))[:5]
    image_file(folder, missing).unlink()
    path = image_file(folder, truncated)
    path.write_bytes(path.read_bytes()[:3000])
    Image.new("RGB", (9, 8)).save(image_file(folder, other))
    Image.new("RGB", (9, 8)).save(image_file(folder, foreign), format="GIF")
    claim(image_file(folder, bomb), 60_000, 60_000)
    by_record = {record: (file, what) for file, record, what in problems_of(folder)}
    assert set(by_record) == {f"image {i}" for i in (missing, truncated, other, foreign, bomb)}
    assert all(file == image_file(folder, int(record.split()[1])).name for record, (file, _) in by_record.items())
    assert by_record[f"image {missing}"][1] == "does not exist"
    assert by_record[f"image {truncated}"][1].startswith("is damaged or truncated (")
    assert by_record[f"image {other}"][1].startswith("is 9x8 pixels, its annotations are for ")
    assert by_record[f"image {foreign}"][1] == "is not a PNG or JPEG image"
    assert by_record[f"image {bomb}"][1] == "has more than 50 megapixels"


def test_every_bad_annotation_is_found(folder):
    sample = coco.read_part(folder, "test")[0]
    width, height, obj = sample.width, sample.height, sample.objects[0]
    good = {"image_id": sample.id, "segmentation": dict(obj.rle), "score": 1.0, "phrase": "a thing"}

    def mask(value) -> dict:
        return {**good, "segmentation": value}

    def runs(counts, size=(height, width)) -> dict:
        return mask({"size": list(size), "counts": counts})

    bad = {
        1001: (runs([width * height]), "the mask is empty"),
        1002: (runs([0, width * height]), "the mask covers the whole image"),
        1003: (
            runs([1, 2], (height, width + 1)),
            f"the mask is {width + 1}x{height} pixels, its image {width}x{height}",
        ),
        1004: (runs([1, 2]), f"the mask's run lengths do not decode to {width}x{height} pixels"),
        1005: (runs("zz zé"), f"the mask's run lengths do not decode to {width}x{height} pixels"),
        1006: (runs("11", (10**9, 10**9)), f"the mask is {10**9}x{10**9} pixels, its image {width}x{height}"),
        1007: (mask([[1, 2, 3, 4]]), "a polygon is x, y, x, y, ... of at least three points"),
        1008: (
            mask([[1, 2, 1e300, 4, 5, 6]]),
            "the outline of its polygons is longer than 1000000 pixels or not a number",
        ),
        1009: ({**good, "image_id": 77}, "the file lists no such image"),
        1010: (good, "its id is there twice"),
    }
    misshapen = [
        {**good, "id": 1011, "score": 1.2},
        {**good, "id": 1012, "phrase": "  "},
        {**good, "id": 1013, "segmentation": "none"},
        {"id": 1014, "image_id": sample.id},
        17,
    ]
    before = json.loads(coco.annotation_path(folder, "test").read_text())
    count = len(before["annotations"]) + len(bad) + 1
    edit(
        folder,
        "test",
        lambda content: content["annotations"].extend(
            [*({**record, "id": number} for number, (record, _) in bad.items()), {**good, "id": 1010}, *misshapen]
        ),
    )
    problems = problems_of(folder)
    by_field = [(record, what) for _, record, what in problems if record.startswith("annotations.")]
    by_id = {int(record.split()[1]): what for _, record, what in problems if record.startswith("annotation ")}
    assert by_id == {number: what for number, (_, what) in bad.items()}
    assert [record for record, _ in by_field] == [
        f"annotations.{count}.score",
        f"annotations.{count + 1}.phrase",
        f"annotations.{count + 2}.segmentation",
        *(f"annotations.{count + 3}.{field}" for field in ("segmentation", "phrase")),
        f"annotations.{count + 4}",
    ]
    assert len(problems) == len(by_id) + len(by_field)
    assert {file for file, _, _ in problems} == {"test.json"}


def test_a_missing_phrase_is_found(folder):
    def change(content):
        content["categories"] = []
        del content["annotations"][0]["phrase"]

    edit(folder, "val", change)
    assert problems_of(folder) == [("val.json", "annotations.0.phrase", "is missing, and the file lists no category 1")]


def test_every_bad_image_record_is_found(folder):
    first, second = ids(folder, "test")

    def change(content):
        content["images"][1]["file_name"] = "../secret.png"
        content["images"] += [
            {**content["images"][0]},
            {"id": 501, "file_name": "501.png", "width": 10**9, "height": 10**9},
            {"id": 502, "file_name": "\x1b[2J.png", "width": 9, "height": 0},
            None,
        ]

    edit(folder, "test", change)
    assert [(record, what.split(":")[0]) for _, record, what in problems_of(folder)] == [
        ("images.4.file_name", "is '\\x1b[2J.png', and must be a name of at most 255 characters, none for control"),
        ("images.4.height", "is 0, and must be a whole number from 1"),
        ("images.5", "is None, and no dictionary"),
        (f"image {first}", "its id is there twice"),
        (f"image {second}", "file_name '../secret.png' leaves the dataset"),
        ("image 501", "has more than 50 megapixels"),
    ]


def test_files_that_are_no_coco_json(folder):
    coco.annotation_path(folder, "val").write_text("{")
    coco.annotation_path(folder, "train").write_text('{"images": 3}')
    coco.annotation_path(folder, "test").write_text("[]")
    assert [(file, what.split(":")[0]) for file, _, what in problems_of(folder)] == [
        ("train.json", "has no list of images"),
        ("train.json", "has no list of annotations"),
        ("val.json", "is not valid JSON"),
        ("test.json", "is JSON, but no dictionary"),
    ]


def test_an_image_in_two_parts_is_found_by_id_and_by_its_pixels(folder):
    moved, copied = ids(folder, "impact")
    target = ids(folder, "test")[0]
    impact = {sample.id: sample for sample in coco.read_part(folder, "impact")}
    test = coco.read_part(folder, "test")
    with Image.open(image_file(folder, copied)) as image:
        image.save(image_file(folder, target), compress_level=9)
    twin = Sample(
        target, image_file(folder, target), impact[copied].width, impact[copied].height, impact[copied].objects
    )
    write_part(folder, "test", [twin, test[1], impact[moved]])
    assert problems_of(folder) == [
        (
            image_file(folder, number).name,
            f"image {number}",
            f"it is in test, and the same picture is in impact as image {original}",
        )
        for number, original in sorted([(target, copied), (moved, moved)])
    ]
    write_manifest(folder)
    assert ("mine", f"image {moved}", "it is in impact and in test") in problems_of(folder)


def test_a_part_without_objects_is_found(folder):
    edit(folder, "val", lambda content: content.update(annotations=[]))
    assert problems_of(folder) == [("mine", "val", "has 0 images with an object, and 1 are needed")]


def test_a_dataset_is_held_to_its_manifest(folder):
    write_manifest(folder)
    image_file(folder, ids(folder, "test")[0]).rename(folder / "images" / "other.png")
    edit(folder, "val", lambda content: content["annotations"][0].pop("score"))
    problems = problems_of(folder)
    assert ("val.json", "annotations.0.score", "is missing") in problems
    changes = [what for _, record, what in problems if not record]
    assert sorted(changes) == [
        "is missing",
        "was added after the dataset was written",
        "was changed after it was written",
    ]


def test_one_json_of_ones_own_is_checked_too(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(own / f"{name}.jpg")
    images = [{"id": i, "file_name": f"{name}.jpg", "width": 8, "height": 6} for i, name in enumerate("abc")]
    polygon = {"segmentation": [[1, 1, 5, 1, 5, 4]], "caption": "a triangle"}
    annotations = [{"id": i, "image_id": i, **polygon} for i in range(3)]
    (own / "labels.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    result = checking.check(own)
    assert result.parts == {"labels": (3, 3)}
    assert [(problem.record, problem.what) for problem in result.problems] == [("image 2", "does not exist")]


# --- what a person sees


def shown(folder: Path, **arguments) -> str:
    stream = io.StringIO()
    with pytest.raises(InputError, match=r"mine has \d+ problems?\.$") as caught:
        check_data.run(folder, console=Console(file=stream, width=200, markup=False, highlight=False), **arguments)
    return stream.getvalue() + str(caught.value)


def test_a_sound_dataset_gives_a_summary(folder):
    summary = check_data.run(folder, console=Console(file=io.StringIO()))
    assert summary.title == f"check-data {folder}"
    assert [key for key, _ in summary.rows] == [*coco.PARTS, "problems"]
    assert summary.rows[0][1].startswith("2 images, ")
    assert summary.rows[-1][1] == "0"


def test_a_sound_folder_of_one_s_own_is_made_a_dataset_next(folder, project_root, monkeypatch):
    monkeypatch.chdir(project_root)
    sizes, quiet = {"impact": 2, "train": 1, "val": 1, "test": 2}, Console(file=io.StringIO())
    for dataset, following in (
        ("scenes", f"dataset: {folder.absolute()} in params.yaml, then headimpact data"),
        (str(folder), "headimpact data"),
    ):
        assert check_data.run(folder, console=quiet, plan=check_data.Plan(sizes, 0, None, dataset)).next == following


def test_problems_are_shown_with_what_to_do(folder):
    image_file(folder, 3).unlink()
    text = shown(folder)
    for words in (
        "│ images/000003.png ",
        "image 3",
        "does not exist",
        "Add the image",
        "mine has 1 problem.",
    ):
        assert words in text


def test_a_problem_of_the_whole_dataset_is_shown(folder):
    (twice,) = ids(folder, "val")[:1]
    write_part(folder, "test", [s for s in coco.read_part(folder, "val") if s.id == twice])
    assert f"│ image {twice} " in shown(folder)


def test_at_most_fifty_problems_are_shown_and_all_are_written(folder, tmp_path):
    def change(content):
        content["annotations"] = [{"id": i} for i in range(20)]

    edit(folder, "train", change)
    text = shown(folder, report=tmp_path / "report" / "all.csv")
    assert text.count("annotations.") == 50
    assert "... and 10 more; --report file.csv writes all." in text
    assert "mine has 60 problems." in text
    with (tmp_path / "report" / "all.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["file", "record", "what", "advice"]
    assert [Problem(Path(file), *rest) for file, *rest in rows[1:]] == checking.check(folder).problems


def test_nothing_in_a_problem_is_read_as_markup(folder):
    edit(folder, "val", lambda content: content["images"][0].update(file_name="[red]x[/red].png"))
    assert "[red]x[/red].png" in shown(folder)
