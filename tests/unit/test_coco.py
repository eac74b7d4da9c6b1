"""Reading the dataset format: every kind of bad input, alone and all at once."""

import re
from pathlib import Path

import pytest
from small_datasets import HEIGHT, WIDTH, edit, refuses, write_small_dataset

from headimpact.data.coco import Leniency, annotation_path, read_annotations, read_part
from headimpact.data.problems import Problem
from headimpact.errors import InputError


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_small_dataset(tmp_path / "mine")


def test_unknown_fields_are_welcome(folder):
    before = read_part(folder, "test")
    edit(folder, lambda content: content.update(mine=1) or content["images"][0].update(license=3))
    assert read_part(folder, "test") == before


def test_missing_and_broken_files(folder):
    path = annotation_path(folder, "test")
    path.write_text("{")
    with pytest.raises(InputError, match=r"test\.json is not valid JSON"):
        read_part(folder, "test")
    path.unlink()
    with pytest.raises(InputError, match=r"test\.json does not exist. Run `headimpact data`"):
        read_part(folder, "test")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda content: content.pop("images"), "has no list of images"),
        (lambda content: content.update(annotations={}), "has no list of annotations"),
        (lambda content: content["images"].append([]), "images.1: is [], and no dictionary"),
        (lambda content: content["images"][0].pop("width"), "images.0.width: is missing"),
        (lambda content: content["images"][0].update(height=0), "images.0.height"),
        (lambda content: content["images"][0].update(file_name=""), "images.0.file_name"),
        (lambda content: content["annotations"][1].pop("phrase"), "annotations.1.phrase: is missing"),
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
    refuses(folder, change, re.escape(place))


def test_a_list_is_no_dataset(folder):
    annotation_path(folder, "test").write_text("[]")
    with pytest.raises(InputError, match=r"test\.json is JSON, but no dictionary"):
        read_part(folder, "test")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"images": [' + "9" * 5000 + "]}", "\xff"])
def test_json_that_would_break_the_reader(folder, text):
    annotation_path(folder, "test").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"test\.json is not valid JSON: "):
        read_part(folder, "test")


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
    (sample,) = read_part(folder, "test")
    assert sample.path == folder / "images" / "val2017" / "..4.png"


def test_every_problem_of_a_file_is_reported_and_the_rest_is_read(folder):
    path = annotation_path(folder, "test")
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
    problems: list[Problem] = []
    (sample,) = read_annotations(path, folder / "images", problems.append)
    assert [obj.id for obj in sample.objects] == [40, 41]
    assert {problem.file for problem in problems} == {path}
    assert [(problem.record, problem.what.split(":")[0]) for problem in problems] == [
        ("images.2.height", "is missing"),
        (
            "annotations.4.segmentation",
            "is 'none', and must be polygons [[x, y, x, y, ...]] or run lengths {size, counts}",
        ),
        ("annotations.4.score", "is 2, and must be a number from 0 to 1"),
        ("annotations.4.phrase", "is missing"),
        ("annotation 41", "its id is there twice"),
        ("annotation 70 of image 7", "the file lists no such image"),
        ("image 5", "file_name '../5.png' leaves the dataset"),
    ]
    assert all(problem.advice.endswith(".") for problem in problems)


def test_a_broken_file_is_one_problem(folder):
    path = annotation_path(folder, "test")
    path.write_text("{")
    problems: list[Problem] = []
    assert read_annotations(path, folder / "images", problems.append) == []
    assert len(problems) == 1


def test_phrases_and_scores_may_be_found_elsewhere(folder):
    path = annotation_path(folder, "test")

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
    problems: list[Problem] = []
    (sample,) = read_annotations(path, folder / "images", problems.append, Leniency())
    read = [(obj.phrase, obj.score) for obj in sample.objects]
    assert read == [("a captioned cross", 1.0), ("cross", 0.5), ("its own phrase", 1.0)]
    assert [problem.record for problem in problems] == ["annotations.3.phrase", "annotations.4.phrase"]


def test_a_byte_order_mark_is_no_fault(folder):
    path = annotation_path(folder, "test")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    read_part(folder, "test")
