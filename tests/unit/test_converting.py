"""Data of one's own from other tools: each with a small folder of that very shape."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_datasets import HEIGHT, SQUARE, WIDTH, save_noise

from headimpact.data.converting.writing import convert, kind_of
from headimpact.data.own_data import read_own_data
from headimpact.data.problems import LeftOut
from headimpact.errors import InputError

SQUARE_POLYGON = [3, 2, 8, 2, 8, 6, 3, 6]


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    """The masks of a folder of data of one's own, by phrase."""
    (samples,) = read_own_data(folder).values()
    return {obj.phrase: obj.mask() for sample in samples for obj in sample.objects}


def painted(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths as numbers, as CVAT and Label Studio write them."""
    flat = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, len(flat)]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *runs] if flat[0] else runs}


def coco(folder: Path, annotations: list[dict[str, Any]], names: list[str], files: list[str]) -> Path:
    for number, file in enumerate(files):
        save_noise(folder / file, number)
    listed = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)]
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "cross"}]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def test_coco_from_label_studio_on_windows(tmp_path: Path):
    r"""Names as ``images\0.png``; a polygon, and a brush's run lengths as numbers."""
    annotations = [
        {"id": 0, "image_id": 0, "category_id": 1, "segmentation": [SQUARE_POLYGON], "ignore": 0, "iscrowd": 0},
        {"id": 1, "image_id": 1, "category_id": 2, "segmentation": painted(SQUARE), "ignore": 0, "iscrowd": 0},
    ]
    files = ["images/0 a.png", "images/B1.PNG"]
    own = coco(tmp_path, annotations, ["images\\0%20a.png", "C:\\media\\upload\\1\\b1.png"], files)
    found = masks_of(own)
    assert found.keys() == {"square", "cross"}
    assert all((mask == SQUARE).all() for mask in found.values())


def test_coco_from_cvat(tmp_path: Path):
    """Polygons are read; what was painted is marked as a crowd, and is kept by converting, and so are boxes."""
    annotations = [
        {"id": 1, "image_id": 0, "category_id": 1, "segmentation": [SQUARE_POLYGON], "iscrowd": 0},
        {"id": 2, "image_id": 0, "category_id": 2, "segmentation": painted(SQUARE), "iscrowd": 1},
        {"id": 3, "image_id": 1, "category_id": 2, "segmentation": [], "bbox": [3, 2, 5, 4], "iscrowd": 0},
    ]
    own = coco(tmp_path / "cvat", annotations, ["0.png", "1.png"], ["images/default/0.png", "images/default/1.png"])
    left_out = LeftOut()
    (samples,) = read_own_data(own, left_out=left_out).values()
    assert [obj.phrase for sample in samples for obj in sample.objects] == ["square"]
    assert sorted(left_out.values()) == [1, 1]
    made = convert(own, tmp_path / "kept")
    assert (made.kind, made.images, made.objects, made.boxes) == ("coco", 2, 2, 0)
    assert [count for count, _ in made.left_out] == ["1 objects"]
    made = convert(own, tmp_path / "boxes", boxes=True)
    assert (made.objects, made.boxes, made.left_out) == (3, 1, [])
    assert all((mask == SQUARE).all() for mask in masks_of(tmp_path / "boxes").values())


def test_labelme(tmp_path: Path):
    """A polygon, a painted mask (a PNG of its box), two polygons of one group, a rectangle, and a line."""
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 5), 255, np.uint8)).save(stream, format="PNG")
    points = [[3, 2], [8, 2], [8, 6], [3, 6]]
    shapes = [
        {"label": "polygon", "points": points, "group_id": None, "shape_type": "polygon", "flags": {}},
        {
            "label": "painted",
            "points": [[3, 2], [7, 5]],
            "shape_type": "mask",
            "mask": base64.b64encode(stream.getvalue()).decode(),
        },
        {"label": "halves", "points": [[3, 2], [5, 2], [5, 6], [3, 6]], "group_id": 1, "shape_type": "polygon"},
        {"label": "halves", "points": [[5, 2], [8, 2], [8, 6], [5, 6]], "group_id": 1, "shape_type": "polygon"},
        {"label": "box", "points": [[8, 6], [3, 2]], "group_id": None, "shape_type": "rectangle"},
        {"label": "line", "points": [[3, 2], [7, 5]], "group_id": None, "shape_type": "line"},
    ]
    source = tmp_path / "labelme"
    save_noise(source / "photos" / "a.png", 1)
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "..\\photos\\a.png", "imageData": None}
    (source / "json").mkdir()
    (source / "json" / "a.json").write_text(json.dumps(content | {"imageHeight": HEIGHT, "imageWidth": WIDTH}))
    made = convert(source, tmp_path / "own")
    assert (made.kind, made.objects) == ("labelme", 3)
    assert dict(map(reversed, made.left_out)).keys() == {
        "a line is no area",
        "they have a box and no mask (--boxes makes masks of boxes)",
    }
    found = masks_of(tmp_path / "own")
    assert found.keys() == {"polygon", "painted", "halves"}
    assert all((mask == SQUARE).all() for mask in found.values())
    assert convert(source, tmp_path / "boxes", boxes=True).boxes == 1
    assert (masks_of(tmp_path / "boxes")["box"] == SQUARE).all()


@pytest.mark.parametrize("layout", ["data.yaml", "classes.txt"])
def test_yolo_segmentation(tmp_path: Path, layout: str):
    source = tmp_path / "yolo"
    shares = " ".join(f"{v / (HEIGHT if i % 2 else WIDTH):.9f}" for i, v in enumerate(SQUARE_POLYGON))
    line = f"1 {shares}\n0 {5.5 / WIDTH} {4 / HEIGHT} {5 / WIDTH} {4 / HEIGHT}\n"
    if layout == "data.yaml":
        save_noise(source / "train" / "images" / "a.png", 1)
        (source / "train" / "labels").mkdir()
        (source / "train" / "labels" / "a.txt").write_text(line)
        (source / layout).write_text("names:\n  0: cross\n  1: square\n")
    else:
        save_noise(source / "a.png", 1)
        (source / "a.txt").write_text(line)
        (source / layout).write_text("cross\nsquare\n")
    made = convert(source, tmp_path / "own")
    assert (made.kind, made.objects, [count for count, _ in made.left_out]) == ("yolo", 1, ["1 objects"])
    assert (masks_of(tmp_path / "own")["square"] == SQUARE).all()
    convert(source, tmp_path / "boxes", boxes=True)
    assert (masks_of(tmp_path / "boxes")["cross"] == SQUARE).all()


@pytest.mark.parametrize(("columns", "box"), [("x,y,width,height", "3,2,5,4"), ("x1,y1,x2,y2", "3,2,8,6")])
def test_a_table_of_boxes(tmp_path: Path, columns: str, box: str):
    source = tmp_path / "table"
    save_noise(source / "images" / "a.png", 1)
    (source / "objects.csv").write_text(f'image,phrase,{columns}\na.png,"a square, red",{box}\n', encoding="utf-8-sig")
    with pytest.raises(InputError, match=r"has no object with a mask. 1 objects were left out: they have a box and no"):
        convert(source, tmp_path / "own")
    assert not (tmp_path / "own").exists()
    assert convert(source, tmp_path / "own", boxes=True).boxes == 1
    assert (masks_of(tmp_path / "own")["a square, red"] == SQUARE).all()


def test_what_is_not_known_is_told(tmp_path: Path):
    with pytest.raises(InputError, match=r"is no folder. Unpack"):
        kind_of(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds nothing that is known"):
        kind_of(tmp_path)
    (tmp_path / "a.csv").write_text("image,label\n")
    with pytest.raises(InputError, match=r"has the columns image, label. It needs the columns image, phrase"):
        convert(tmp_path, tmp_path / "own")
    (tmp_path / "b.csv").write_text("")
    (tmp_path / "classes.txt").write_text("cross\n")
    save_noise(tmp_path / "a.png", 1)
    for line, message in (("7 0 0 1", "class that is named"), ("0 5 6 7 8", "outside of 0 to 1"), ("0 0 0 1", "3 num")):
        (tmp_path / "a.txt").write_text(line)
        with pytest.raises(InputError, match=message):
            convert(tmp_path, tmp_path / "own")
    (tmp_path / "own").mkdir()
    with pytest.raises(InputError, match="is there already"):
        convert(tmp_path, tmp_path / "own")
