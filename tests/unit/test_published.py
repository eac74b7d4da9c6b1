"""The published release: what it lists, what of it can be used, and why the rest cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import web
from PIL import Image

from headimpact.data import published, published_masks
from headimpact.data.download import fetch, image_fault
from headimpact.data.published import Unusable
from headimpact.errors import InputError

WIDTH, HEIGHT = 40, 30


def square(left: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[5:15, left : left + 10] = True
    return mask


def record(image_id: int, phrases: list[str], scores: list[list[float]], masks: list[list[str]], **more) -> dict:
    name = f"{image_id:012}.jpg"
    return {
        "image_id": image_id,
        "annotation_id": 10 * image_id,
        "annotation_full_text": "What is ignored.",
        "image_file_name": name,
        "image_coco_url": f"http://images.cocodataset.org/val2017/{name}",
        "grounding": {
            "bboxes": [[0.5, 0.5, 9.5, 9.5]] * len(phrases),
            "labels": phrases,
            "masks_scores": scores,
            "masks_file_name": masks,
        },
        **more,
    }


def write_index(folder: Path, records: object) -> None:
    (folder / published.INDEX_NAME).write_text(json.dumps(records))


def write_mask(folder: Path, name: str, mask: np.ndarray) -> Path:
    path = folder / published.MASKS_NAME / name
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(mask.astype(np.float32)))
    return path


def write_image(images: Path, image_id: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    images.mkdir(exist_ok=True)
    path = images / f"{image_id:012}.jpg"
    Image.new("RGB", size, (90, 120, 30)).save(path)
    return path


RECORDS = [
    record(900, ["a cat", " the mat. "], [[0.95], [0.85]], [["e0o0m0.npz"], ["e0o1m0.npz"]]),
    record(7, ["a dog", "a dog"], [[0.5], [0.99]], [["e1o0m0.npz"], ["e1o1m0.npz"]]),
    record(42, ["a", "b", "c", "d"], [], []),
    record(43, [], [], []),
]


@pytest.fixture
def release(tmp_path) -> Path:
    """A folder of a release: two images with four masks, an image with phrases alone, and one with nothing."""
    write_index(tmp_path, RECORDS)
    for index in range(4):
        write_mask(tmp_path, f"e{index // 2}o{index % 2}m0.npz", square(5 * index))
    for image_id in (900, 7, 42, 43):
        write_image(tmp_path / "images", image_id)
    return tmp_path


def read(folder: Path, min_score: float = 0.85) -> tuple[list, list[Unusable]]:
    unusable: list[Unusable] = []
    records = published.read_records(folder)
    samples = published.read_samples(records, folder, folder / "images", min_score, unusable.append)
    return list(samples), unusable


def read_one(folder: Path, **changes) -> tuple[list, list[Unusable]]:
    """A release of the record 900 alone, with another grounding."""
    changed = json.loads(json.dumps(RECORDS[0]))
    changed["grounding"].update(changes)
    write_index(folder, [changed])
    return read(folder)


def test_what_the_release_lists(release):
    records = published.read_records(release)
    assert [record.image_id for record in records] == [7, 42, 43, 900]
    assert published.count(records, 0.85) == published.Holdings(
        records=4, phrases=8, masks=4, confident_masks=3, confident_images=2
    )


def test_what_can_be_used_and_what_cannot(release):
    samples, unusable = read(release)
    assert [(sample.id, sample.path.name, sample.width, sample.height) for sample in samples] == [
        (7, "000000000007.jpg", WIDTH, HEIGHT),
        (900, "000000000900.jpg", WIDTH, HEIGHT),
    ]
    objects = [(obj.id, obj.phrase, obj.score, obj.area) for sample in samples for obj in sample.objects]
    assert objects == [(7001, "a dog", 0.99, 100), (900_000, "a cat", 0.95, 100), (900_001, "the mat.", 0.85, 100)]
    np.testing.assert_array_equal(samples[0].objects[0].mask(), square(15))
    np.testing.assert_array_equal(samples[1].objects[1].mask(), square(5))
    assert samples[0].image().size == (WIDTH, HEIGHT)
    assert unusable == [
        Unusable(7, 0, "confidence below 0.85"),
        Unusable(42, None, "4 phrases, but scores for 0 and masks for 0"),
        Unusable(43, None, "no phrase and no mask"),
    ]


def test_ids_do_not_depend_on_the_order_or_the_confidence(release):
    write_index(release, RECORDS[::-1])
    ids = [obj.id for sample in read(release, min_score=0.0)[0] for obj in sample.objects]
    assert ids == [7000, 7001, 900_000, 900_001]


def test_of_several_masks_the_best_is_taken(release):
    samples, _ = read_one(
        release,
        labels=["a cat"],
        masks_scores=[[0.9, 0.97, 0.95]],
        masks_file_name=[["e0o0m0.npz", "e0o1m0.npz", "e1o0m0.npz"]],
    )
    (cat,) = samples[0].objects
    assert cat.score == 0.97
    np.testing.assert_array_equal(cat.mask(), square(5))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": [" \n", "b"]}, "the phrase is empty"),
        ({"masks_scores": [[0.9, 0.9], [0.9]]}, "2 scores for 1 masks"),
        ({"masks_scores": [[], [0.9]], "masks_file_name": [[], ["e0o1m0.npz"]]}, "no mask"),
        ({"masks_scores": [[0.8499], [0.9]]}, "confidence below 0.85"),
        ({"masks_file_name": [["none.npz"], ["e0o1m0.npz"]]}, "the mask's file is missing"),
        ({"masks_file_name": [["small.npz"], ["e0o1m0.npz"]]}, "the mask is 20x30 pixels, the image 40x30"),
        ({"masks_file_name": [["turned.npz"], ["e0o1m0.npz"]]}, "the mask is 30x40 pixels, the image 40x30"),
        ({"masks_file_name": [["empty.npz"], ["e0o1m0.npz"]]}, "the mask is empty"),
        (
            {"masks_file_name": [["text.npz"], ["e0o1m0.npz"]]},
            "the mask's file is damaged (File is not a zip file)",
        ),
    ],
)
def test_an_object_that_cannot_be_used_is_skipped_with_the_reason(release, changes, reason):
    write_mask(release, "small.npz", square(5, width=20))
    write_mask(release, "turned.npz", square(5, width=HEIGHT, height=WIDTH))
    write_mask(release, "empty.npz", np.zeros((HEIGHT, WIDTH), dtype=bool))
    (release / "masks" / "text.npz").write_text("<html>")
    samples, unusable = read_one(release, **changes)
    assert [obj.id for obj in samples[0].objects] == [900_001]
    assert unusable == [Unusable(900, 0, reason)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": ["a"]}, "1 phrases, but scores for 2 and masks for 2"),
        ({"masks_scores": [[0.9]]}, "2 phrases, but scores for 1 and masks for 2"),
        ({"masks_file_name": []}, "2 phrases, but scores for 2 and masks for 0"),
    ],
)
def test_an_image_whose_lists_differ_in_length_is_skipped(release, changes, reason):
    assert read_one(release, **changes) == ([], [Unusable(900, None, reason)])


def test_an_image_without_a_usable_object_is_skipped(release):
    _, unusable = read_one(release, masks_scores=[[0.1], [0.2]])
    assert unusable[-1] == Unusable(900, None, "no object can be used")


def test_a_missing_or_damaged_image_is_skipped(release):
    path = release / "images" / "000000000900.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    (release / "images" / "000000000007.jpg").unlink()
    samples, unusable = read(release)
    assert samples == []
    assert unusable[0] == Unusable(7, None, "the image is missing")
    assert unusable[-1].image_id == 900
    assert unusable[-1].reason.startswith("damaged or truncated image")


def test_an_image_of_another_size_is_told_by_its_masks(release):
    write_image(release / "images", 900, (WIDTH, HEIGHT + 1))
    _, unusable = read(release)
    assert Unusable(900, 0, "the mask is 40x30 pixels, the image 40x31") in unusable


def test_missing_records_are_told(tmp_path):
    with pytest.raises(InputError, match=r"dataset_masks\.json does not exist\. Run `headimpact download`"):
        published.read_records(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image_id": None}, r"record 1 \(from 0\), image_id: Input should be a valid integer"),
        ({"image_id": -1}, r"record 1 \(from 0\), image_id: "),
        ({"image_file_name": "../../a.jpg"}, r"record 1 \(from 0\), image_file_name: "),
        ({"image_file_name": "a.jpg\n"}, r"record 1 \(from 0\), image_file_name: "),
        ({"image_coco_url": 3}, r"record 1 \(from 0\), image_coco_url: "),
        ({"grounding": None}, r"record 1 \(from 0\), grounding: "),
        (
            {"grounding": {**RECORDS[1]["grounding"], "masks_scores": [[0.9], [1.5]]}},
            r"record 1 \(from 0\), grounding.masks_scores.1.0: Input should be less than or equal to 1",
        ),
        (
            {"grounding": {**RECORDS[1]["grounding"], "masks_scores": [[0.9], [float("nan")]]}},
            r"record 1 \(from 0\), grounding.masks_scores.1.0: ",
        ),
        (
            {"grounding": {**RECORDS[1]["grounding"], "masks_file_name": [["/etc/passwd"], []]}},
            r"record 1 \(from 0\), grounding.masks_file_name.0.0: ",
        ),
        (
            {"grounding": {**RECORDS[1]["grounding"], "labels": ["a"] * 1001}},
            r"record 1 \(from 0\), grounding.labels: List should have at most 1000",
        ),
    ],
)
def test_a_malformed_record_is_told_with_its_field(tmp_path, change, told):
    write_index(tmp_path, [RECORDS[0], {**RECORDS[1], **change}])
    with pytest.raises(InputError, match=rf"dataset_masks\.json: {told}.*\. Put the published file back\."):
        published.read_records(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b"\xff", b"3", b"[" * 100_000])
def test_what_is_no_list_of_records_is_told(tmp_path, content):
    (tmp_path / published.INDEX_NAME).write_bytes(content)
    with pytest.raises(InputError, match="it is no list of records"):
        published.read_records(tmp_path)


def test_a_record_that_is_none_is_told(tmp_path):
    write_index(tmp_path, [RECORDS[0], 3])
    with pytest.raises(InputError, match=r"record 1 \(from 0\), the whole: "):
        published.read_records(tmp_path)


def test_two_records_of_one_image_are_told(tmp_path):
    write_index(tmp_path, [*RECORDS, RECORDS[0]])
    with pytest.raises(InputError, match=r"two records are of image 900\. Remove one of them"):
        published.read_records(tmp_path)


def test_addresses(release):
    records = published.read_records(release)
    index = published.index_file("owner/name", "abc", "0" * 64)
    assert index.url == "https://raw.githubusercontent.com/owner/name/abc/dataset_masks.json"
    assert (index.path, index.sha256) == ("dataset_masks.json", "0" * 64)
    masks = published.mask_files(records, "owner/name", "def")
    assert [mask.path for mask in masks] == [
        f"masks/e{record}o{phrase}m0.npz" for record in (0, 1) for phrase in (0, 1)
    ]
    assert masks[0].url == "https://raw.githubusercontent.com/owner/name/def/masks/e0o0m0.npz"
    images = published.image_files(records)
    assert [image.path for image in images] == [f"{number:012}.jpg" for number in (7, 42, 43, 900)]
    assert images[0].url == "http://images.cocodataset.org/val2017/000000000007.jpg"
    assert published.image_files(records, "http://mirror/coco/")[0].url == (
        "http://mirror/coco/val2017/000000000007.jpg"
    )


def test_a_release_is_fetched_and_read(release, tmp_path_factory, monkeypatch):
    target = tmp_path_factory.mktemp("fetched")
    served = {f"/o/n/a/{published.INDEX_NAME}": release / published.INDEX_NAME}
    served |= {f"/o/n/b/masks/{path.name}": path for path in (release / "masks").iterdir()}
    served |= {f"/val2017/{path.name}": path for path in (release / "images").iterdir()}
    with web.serve(served) as site:
        site.fail("/o/n/b/masks/e0o0m0.npz", web.truncate, times=1)
        monkeypatch.setattr(published, "RAW_URL", site.url)
        fetch([published.index_file("o/n", "a")], target)
        records = published.read_records(target)
        fetch(published.mask_files(records, "o/n", "b"), target, published_masks.mask_fault)
        fetch(published.image_files(records, site.url), target / "images", image_fault)
    assert [sample.objects for sample in read(target)[0]] == [sample.objects for sample in read(release)[0]]
