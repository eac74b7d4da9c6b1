"""Lists of a file, item by item: what the whole file holds, whatever the length of a chunk."""

import json
import tracemalloc
from pathlib import Path

import pytest
from small_datasets import edit, write_small_dataset

from headimpact.data import json_lists
from headimpact.data.coco import annotation_path, read_annotations, read_image_ids, read_part
from headimpact.data.json_lists import UnevenJsonError, walk

CONTENTS = [
    {},
    {"images": []},
    {"images": [1], "annotations": []},
    {"a": None, "images": [0, -1.5e300, 12345678, "x", {"y": [1, {"z": []}]}, [], None, True], "b": {"images": [1]}},
    {"images": {"not": "a list"}, "annotations": 7},
    {'\u65e5 "[]{},:': '\\ " ]},', "images": ["]", "}", ",", '\\"', "\u00e9", "🐕"]},
    {"images": [float("nan"), float("inf"), 10**40], "e": 1e5},
]
WRITINGS = [{}, {"indent": 3}, {"ensure_ascii": False}, {"separators": (",", ":")}]
BROKEN = [
    "",
    " ",
    "[]",
    "7",
    "{",
    "{}x",
    "{} {}",
    '{"images"}',
    '{"images": [1, 2}',
    '{"images": [1 2]}',
    '{"images": [,]}',
]
BROKEN += [
    '{"a": 1,}',
    '{"a": 1, "a": 2}',
    '{"images": [1], "images": [2]}',
    "{1: 2}",
    '{"a": tru}',
    '{"a": "x',
    "\x00",
]
BROKEN += [
    '{"images": [1e5e5]}',
    '{"images": [1.]}',
    '{"images": [01]}',
    '{"images": ["\x01"]}',
    "{'a': 1}",
    "[" * 100_000,
]


@pytest.fixture(params=[1, 2, 3, 7, 1 << 20])
def chunk(request, monkeypatch) -> int:
    monkeypatch.setattr(json_lists, "_CHUNK", request.param)
    return request.param


def joined(path: Path) -> dict:
    """The dictionary that the entries make."""
    content: dict = {}
    for key, index, value in walk(path, ("images", "annotations")):
        if index is None:
            content[key] = value
        else:
            assert index == len(content[key])
            content[key].append(value)
    return content


@pytest.mark.parametrize("writing", WRITINGS)
def test_the_items_are_those_of_the_whole(tmp_path, chunk, writing):
    path = tmp_path / "file.json"
    for content in CONTENTS:
        for mark in ("", "\ufeff", " \r\n"):
            path.write_text(mark + json.dumps(content, **writing) + " \n", encoding="utf-8")
            assert json.dumps(joined(path)) == json.dumps(content)


def test_lists_are_not_read_before_they_are_asked_for(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"images": [{"id": number, "x": "y" * 6_000} for number in range(2_000)]}))
    tracemalloc.start()
    count = sum(index is not None for _, index, _ in walk(path, ("images",)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2_000
    assert peak < path.stat().st_size / 2


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_dictionary_is_uneven(tmp_path, chunk, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(UnevenJsonError):
        joined(path)


def test_a_file_that_is_not_in_utf8_is_uneven(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UnevenJsonError):
        joined(path)


def test_a_part_is_read_the_same_whatever_comes_first(tmp_path, chunk):
    folder = write_small_dataset(tmp_path / "mine")
    before = read_part(folder, "test")
    for order in (sorted, lambda keys: sorted(keys, reverse=True)):
        path = annotation_path(folder, "test")
        content = json.loads(path.read_text())
        path.write_text(json.dumps({key: content[key] for key in order(content)}))
        assert read_part(folder, "test") == before
        assert read_image_ids(folder, "test") == [4]


def test_a_key_that_is_there_twice_counts_as_it_did(tmp_path):
    folder = write_small_dataset(tmp_path / "mine")
    before = read_part(folder, "test")
    path = annotation_path(folder, "test")
    path.write_text('{"images": [7], "annotations": {},' + path.read_text().lstrip()[1:])
    assert read_part(folder, "test") == before


def test_problems_come_in_their_order(tmp_path):
    """First those of the images' records, then of ids, then of the annotations' records, then by annotation."""
    folder = write_small_dataset(tmp_path / "mine")

    def spoil(content):
        (image,), (first, second) = content["images"], content["annotations"]
        content["images"] = [image, image, {"id": 8}, {"id": 9, "file_name": "x.png", "width": 0, "height": 1}]
        empty = {"size": first["segmentation"]["size"], "counts": [240]}
        content["annotations"] = [
            first | {"id": 60, "image_id": 77},
            first | {"id": 50, "segmentation": empty},
            second | {"phrase": ""},
            first | {"id": 61, "image_id": 9},
            first,
            first,
        ]

    edit(folder, spoil)
    problems: list = []
    samples = read_annotations(annotation_path(folder, "test"), folder / "images", problems.append)
    assert [f"{problem.record}: {problem.what}" for problem in problems] == [
        "images.2.file_name: is missing",
        "images.2.width: is missing",
        "images.2.height: is missing",
        "images.3.width: is 0, and must be a whole number from 1",
        "image 4: its id is there twice",
        "annotations.2.phrase: is empty, and must be a text",
        "annotation 40: its id is there twice",
        "annotation 50 of image 4: the mask is empty",
        "annotation 60 of image 77: the file lists no such image",
    ]
    assert [[obj.id for obj in sample.objects] for sample in samples] == [[40]]
