import json
import random
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

from headimpact.data import captions
from headimpact.data.lines import Captioned, read
from headimpact.errors import InputError


def content(count: int = 40, order: int = 0) -> dict:
    """A captions file as COCO has them: images in any order, five captions each, extra keys."""
    images = [
        {
            "license": 1,
            "file_name": f"{10 * i:012}.jpg",
            "coco_url": f"http://images.cocodataset.org/val2017/{10 * i:012}.jpg",
            "height": 300 + i,
            "width": 400,
            "date_captured": "2013-11-14 11:18:45",
            "flickr_url": "http://farm7.staticflickr.com/1.jpg",
            "id": 10 * i,
        }
        for i in range(1, count + 1)
    ]
    annotations = [
        {"image_id": image["id"], "id": 100 * image["id"] + n, "caption": f"Ein Caf\u00e9, number {n}. \n"}
        for image in images
        for n in range(5)
    ]
    random.Random(order).shuffle(images)
    random.Random(order).shuffle(annotations)
    return {"info": {"year": 2017}, "licenses": [{"id": 1}], "images": images, "annotations": annotations}


def write(folder: Path, value: dict) -> Path:
    path = folder / "captions.json"
    path.write_text(json.dumps(value))
    return path


def chosen(folder: Path, value: dict, count: int = 40, seed: int = 0) -> list[Captioned]:
    captions.choose(write(folder, value), folder / "captions.jsonl", count, seed)
    return list(read(folder / "captions.jsonl", Captioned))


def test_what_is_chosen_is_what_the_file_says(tmp_path):
    value = content()
    lines = chosen(tmp_path, value)
    images = {image["id"]: image for image in value["images"]}
    texts = {(item["image_id"], item["id"]): item["caption"] for item in value["annotations"]}
    assert [line.image_id for line in lines] == sorted(images)
    for line in lines:
        image = images[line.image_id]
        assert (line.file_name, line.width, line.height) == (image["file_name"], image["width"], image["height"])
        assert line.url == image["coco_url"]
        assert line.caption == texts[line.image_id, line.caption_id].strip()


def test_lines_are_as_the_layout_says(tmp_path):
    chosen(tmp_path, content(1))
    line = json.loads((tmp_path / "captions.jsonl").read_text())
    assert list(line) == ["image_id", "file_name", "width", "height", "url", "caption_id", "caption"]
    assert "Café" in (tmp_path / "captions.jsonl").read_text()


def test_choosing_more_keeps_the_earlier_ones(tmp_path):
    fewer, more = (chosen(tmp_path, content(), count) for count in (7, 25))
    assert len(fewer) == 7
    assert len(more) == 25
    assert all(line in more for line in fewer)


def test_the_choice_follows_from_the_seed_and_not_from_the_order_of_the_file(tmp_path):
    assert chosen(tmp_path, content(order=1), 9) == chosen(tmp_path, content(order=2), 9)
    other = chosen(tmp_path, content(), 9, seed=1)
    assert {line.image_id for line in other} != {line.image_id for line in chosen(tmp_path, content(), 9)}


@pytest.mark.slow
def test_images_and_captions_are_drawn_evenly(tmp_path):
    first, number = defaultdict(int), defaultdict(int)
    for seed in range(40):
        for line in chosen(tmp_path, content(10), 5, seed):
            first[line.image_id] += 1
            number[line.caption_id % 100] += 1
    assert set(first) == {10 * i for i in range(1, 11)}
    assert 10 <= min(first.values()) <= max(first.values()) <= 30
    assert set(number) == set(range(5))
    assert 20 <= min(number.values()) <= max(number.values()) <= 60


def test_images_without_a_caption_are_left_out_and_counted(tmp_path):
    value = content(6)
    for annotation in value["annotations"]:
        if annotation["image_id"] == 20:
            annotation["caption"] = " \n"
        if annotation["image_id"] == 30 and annotation["id"] != 3004:
            annotation["caption"] = "a " * 600
    value["annotations"] = [item for item in value["annotations"] if item["image_id"] != 10]
    choice = captions.choose(write(tmp_path, value), tmp_path / "captions.jsonl", 100, 0)
    assert choice == captions.Choice(images=6, without_caption=2, chosen=4)
    lines = list(read(tmp_path / "captions.jsonl", Captioned))
    assert [line.image_id for line in lines] == [30, 40, 50, 60]
    assert lines[0].caption_id == 3004


def test_the_output_is_whole_or_absent(tmp_path):
    path = write(tmp_path, content())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError):
        captions.choose(path, tmp_path / "captions.jsonl", 3, 0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["captions.json"]


def cut(text: str) -> str:
    return text[: len(text) // 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, "cut short or no JSON"),
        (lambda text: "<html>not found</html>", "cut short or no JSON"),
        (lambda text: "", "cut short or no JSON"),
        (lambda text: "[1, 2]", "cut short or no JSON"),
        (lambda text: text.replace('"images"', '"pictures"'), "holds no images"),
        (lambda text: text.replace('"annotations"', '"notes"'), "holds no captions"),
        (
            lambda text: text.replace('"coco_url": "http', '"coco_url": "file', 1),
            r"coco_url is 'file.*, and must be an address",
        ),
        (lambda text: text.replace('"file_name"', '"name"', 1), r"images\.\d+\.file_name is missing"),
        (lambda text: text.replace('"caption"', '"text"', 1), r"annotations\.\d+\.caption is missing"),
        (
            lambda text: text.replace('"height": 30', '"height": -30', 1),
            r"height is -30., and must be a whole number from",
        ),
        (lambda text: text.replace('"id": 20}', '"id": 10}'), "two of the images have the same id"),
        (lambda text: text.replace('"id": 2002', '"id": 2001'), "two of the captions have the same id"),
        (
            lambda text: text.replace('"id": 2002', '"id": 999999999999999'),
            r"\d\.id is 9+, and must be a whole",
        ),
        (lambda text: text.replace('"000000000020.jpg"', '"000000000010.jpg"'), "have the same file_name"),
        (lambda text: text.replace('"000000000020.jpg"', '"../20.jpg"'), "'../20.jpg' leaves the folder of images"),
        (lambda text: text.replace('"000000000020.jpg"', '"/20.jpg"'), "'/20.jpg' leaves the folder of images"),
        (lambda text: text.replace('"image_id": 20', '"image_id": 21', 1), r"caption 200\d is of image 21, which"),
        (lambda text: text.replace('"images": [{', '"images": [7, {'), r"images\.0 is 7, and no dictionary"),
        (lambda text: text.replace("Caf", "\udcff", 1), "cut short or no JSON"),
        (lambda text: "[" * 200_000, "cut short or no JSON"),
        (lambda text: text.replace('"images": [', '"images": [' + "[" * 200_000, 1), "cut short or no JSON"),
    ],
)
def test_a_file_that_is_damaged_or_hostile_is_told(tmp_path, change, message):
    path = tmp_path / "captions.json"
    path.write_text(change(json.dumps(content(5), ensure_ascii=False)), errors="surrogateescape")
    with pytest.raises(InputError, match=message) as raised:
        captions.choose(path, tmp_path / "captions.jsonl", 3, 0)
    assert str(path) in str(raised.value)
    assert not (tmp_path / "captions.jsonl").exists()


def test_half_of_a_character_is_no_crash(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content(2)).replace("\\u00e9", "\\ud800"))
    captions.choose(path, tmp_path / "captions.jsonl", 2, 0)
    assert len(list(read(tmp_path / "captions.jsonl", Captioned))) == 2


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        captions.choose(tmp_path / "none.json", tmp_path / "captions.jsonl", 3, 0)


MEMBER = "annotations/captions_val2017.json"


def archive(folder: Path, names: dict[str, bytes]) -> Path:
    path = folder / "annotations.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in names.items():
            target.writestr(name, data)
    return path


def test_the_captions_are_taken_out_of_the_archive_alone(tmp_path):
    path = archive(tmp_path, {"../evil.json": b"1", "annotations/other.json": b"2", MEMBER: b"3"})
    captions.extract(path, MEMBER, tmp_path / "out" / "captions.json")
    assert (tmp_path / "out" / "captions.json").read_bytes() == b"3"
    files = {entry.relative_to(tmp_path).as_posix() for entry in tmp_path.rglob("*") if entry.is_file()}
    assert files == {"annotations.zip", "out/captions.json"}


def test_a_file_whose_name_leaves_the_archive_goes_where_it_is_told(tmp_path):
    path = archive(tmp_path, {"../evil.json": b"1"})
    captions.extract(path, "../evil.json", tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == b"1"
    assert not (tmp_path.parent / "evil.json").exists()


def test_an_archive_that_cannot_be_used_is_told(tmp_path, monkeypatch):
    output = tmp_path / "out.json"
    with pytest.raises(InputError, match=r"none\.zip does not exist"):
        captions.extract(tmp_path / "none.zip", MEMBER, output)
    path = archive(tmp_path, {MEMBER: random.Random(0).randbytes(4000)})
    with pytest.raises(InputError, match=r"holds no annotations/captions_train2017\.json"):
        captions.extract(path, "annotations/captions_train2017.json", output)
    monkeypatch.setattr(captions, "MAX_FILE_BYTES", 3999)
    with pytest.raises(InputError, match="has 4000 bytes, more than 3999"):
        captions.extract(path, MEMBER, output)
    monkeypatch.undo()
    whole = path.read_bytes()
    for damaged in (whole[:-30], whole[:500] + b"\0\0\0" + whole[503:], b"<html>"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged or no ZIP archive"):
            captions.extract(path, MEMBER, output)
    assert not output.exists()
