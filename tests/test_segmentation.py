import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy_models
from PIL import Image
from transformers import Sam2VideoConfig, Sam2VideoModel

from headimpact.data import coco, records, segmentation
from headimpact.data.annotators import Annotator
from headimpact.data.captions import Captioned
from headimpact.data.grounding import Grounded, Phrase
from headimpact.data.segmentation import Segmented, Segmenter, mask_of
from headimpact.errors import InputError
from headimpact.lifecycle.steps.segment import segment

ALONE = records.Processes()


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return segmentation.load(str(toy_models.sam()), device="cpu", dtype="float32")


def phrases_of(entry: Captioned) -> tuple[Phrase, ...]:
    """Image 4 has none, image 6 one, the others up to three."""
    draw = np.random.default_rng(entry.image_id)
    count = {4: 0, 6: 1}.get(entry.image_id, int(draw.integers(1, 4)))
    phrases = []
    for number in range(count):
        left, top = draw.uniform(0, 0.5, 2)
        box = (left * entry.width, top * entry.height, (left + 0.4) * entry.width, (top + 0.4) * entry.height)
        phrases.append(Phrase(phrase=f"thing {number}", box=tuple(round(side, 2) for side in box)))
    return tuple(phrases)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve images; one could not be grounded, one has no phrase, one has gone since."""
    folder = tmp_path_factory.mktemp("data") / "download"
    captions = toy_models.write_captions(folder, 12)
    with (folder / "phrases.jsonl").open("wb") as stream:
        for entry in records.read(captions, Captioned):
            error = "it could not be read" if entry.image_id == 5 else None
            phrases = () if error else phrases_of(entry)
            stream.write(records.line(Grounded(**entry.model_dump(), phrases=phrases, error=error)))
    (folder / "images" / "000009.png").unlink()
    return folder


def run(folder: Path, output: Path, segmenter: Segmenter, group_images: int = 4, processes=ALONE):
    return segment(folder / "phrases.jsonl", folder / "images", output, segmenter, group_images, 0.85, processes)


@pytest.fixture(scope="module")
def found(folder, segmenter, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("segment") / "objects.jsonl"
    run(folder, path, segmenter)
    return path


def decoded(item: segmentation.Segment) -> np.ndarray:
    return coco.KeyObject(0, "", item.rle.model_dump(), (0.0, 0.0, 0.0, 0.0), 0, 0.0).mask()


def test_every_box_has_its_mask_and_confidence(folder, found):
    grounded = {record.image_id: record for record in records.read(folder / "phrases.jsonl", Grounded)}
    segmented = list(records.read(found, Segmented))
    assert [record.image_id for record in segmented] == list(range(1, 13))
    areas, scores = [], []
    for record in segmented:
        wanted = grounded[record.image_id].phrases if record.image_id != 9 else ()
        assert [(item.phrase, item.box) for item in record.objects] == [(item.phrase, item.box) for item in wanted]
        for item in record.objects:
            assert item.rle.size == (record.height, record.width)
            mask = decoded(item)
            assert mask.shape == (record.height, record.width)
            areas.append(mask.mean())
            scores.append(item.score)
    assert 0 < np.mean(areas) < 0.9
    assert min(scores) < 0.85 < max(scores)


def test_lines_are_as_the_layout_says(found):
    line = json.loads(found.read_text().splitlines()[0])
    assert list(line) == ["image_id", "file_name", "width", "height", "objects"]
    assert list(line["objects"][0]) == ["phrase", "box", "score", "rle"]
    assert list(line["objects"][0]["rle"]) == ["size", "counts"]


def test_what_could_not_be_worked_on_says_why(found):
    errors = {record.image_id: record.error for record in records.read(found, Segmented) if record.error}
    assert set(errors) == {5, 9}
    assert errors[5] == "it could not be read"
    assert errors[9].startswith("000009.png does not exist")


@pytest.mark.parametrize("group_images", [1, 5, 12])
def test_the_bytes_do_not_depend_on_the_size_of_the_batches(folder, found, segmenter, tmp_path, group_images):
    run(folder, tmp_path / "out.jsonl", segmenter, group_images)
    assert (tmp_path / "out.jsonl").read_bytes() == found.read_bytes()


def test_the_bytes_do_not_depend_on_the_number_of_processes(folder, found, segmenter, tmp_path):
    output = tmp_path / "out.jsonl"
    assert [run(folder, output, segmenter, 4, records.Processes(rank, 3)) for rank in (2, 1)] == [None, None]
    assert run(folder, output, segmenter, 4, records.Processes(0, 3)) == segmentation.account(found, 0.85)
    assert output.read_bytes() == found.read_bytes()


class Stub:
    """Takes SAM 2's place: of three masks the second is the best, the left half."""

    device, dtype = torch.device("cpu"), torch.float32
    scores = (0.2, 0.912345, 0.5)

    def get_image_embeddings(self, pixels):
        return [pixels]

    def __call__(self, image_embeddings, input_boxes, multimask_output):
        assert multimask_output
        self.boxes = input_boxes
        count = input_boxes.shape[1]
        masks = torch.full((1, count, 3, 32, 32), -1.0)
        masks[:, :, 1, :, :16] = 1.0
        return SimpleNamespace(iou_scores=torch.tensor(self.scores).expand(1, count, 3), pred_masks=masks)


def one_image(folder: Path, segmenter: Segmenter, stub: Stub) -> Segmented:
    (folder / "images").mkdir()
    Image.new("RGB", (80, 40)).save(folder / "images" / "a.png")
    stubbed = Segmenter(Annotator(stub, Path(), {}), segmenter.pixels)
    entry = Grounded(
        image_id=1,
        file_name="a.png",
        width=80,
        height=40,
        url="u",
        caption_id=1,
        caption="c",
        phrases=(Phrase(phrase="p", box=(20, 10, 60, 40)), Phrase(phrase="q", box=(0, 0, 80, 40))),
    )
    return stubbed.segment([entry], folder / "images")[0]


def test_boxes_are_in_the_models_pixels_and_the_best_mask_is_taken(tmp_path, segmenter):
    stub = Stub()
    record = one_image(tmp_path, segmenter, stub)
    assert stub.boxes.tolist() == [[[32, 32, 96, 128], [0, 0, 128, 128]]]
    assert [item.score for item in record.objects] == [0.9123, 0.9123]
    mask = decoded(record.objects[0])
    assert mask[:, :40].all()
    assert not mask[:, 40:].any()


def test_a_confidence_outside_of_0_and_1_is_brought_inside(tmp_path, segmenter):
    stub = Stub()
    stub.scores = (0.2, 1.0000001, 0.5)
    assert one_image(tmp_path, segmenter, stub).objects[0].score == 1.0


def test_a_confidence_that_is_no_number_is_told(tmp_path, segmenter):
    stub = Stub()
    stub.scores = (0.2, float("nan"), 0.5)
    with pytest.raises(InputError, match=r"no number for image 1 \(a\.png\)\. Set compute\.dtype to float32"):
        one_image(tmp_path, segmenter, stub)


def test_a_mask_is_enlarged_smoothly_and_cut_at_zero():
    logits = torch.tensor([[3.0, -1.0], [3.0, -1.0]])
    mask = mask_of(logits, width=40, height=6)
    assert mask.shape == (6, 40)
    # Between the cells' centres, at 10 and 30, the logit falls through 0 after three quarters of the way.
    assert mask[0].tolist() == [True] * 25 + [False] * 15


def test_images_are_prepared_as_sam_2_prepares_them(segmenter):
    image = toy_models.image(3)
    given = segmenter.pixels([image], return_tensors="pt")["pixel_values"][0].numpy()
    small = np.asarray(image.resize((128, 128), Image.Resampling.BILINEAR), dtype=np.float64) / 255
    expected = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.abs(given - expected.transpose(2, 0, 1)).max() < 1e-5


def test_it_runs_in_bfloat16(folder, found, tmp_path):
    segmenter = segmentation.load(str(toy_models.sam()), device="cpu", dtype="bfloat16")
    run(folder, tmp_path / "out.jsonl", segmenter)
    pairs = zip(records.read(tmp_path / "out.jsonl", Segmented), records.read(found, Segmented), strict=True)
    differences = [
        abs(a.score - b.score) for half, full in pairs for a, b in zip(half.objects, full.objects, strict=True)
    ]
    assert 0 < max(differences) < 0.05


def test_a_checkpoint_of_the_video_model_is_loaded(tmp_path, segmenter):
    image_model = segmenter.annotator.model
    config = image_model.config.to_dict()
    sizes = {
        "memory_encoder_hidden_size": 32,
        "memory_encoder_output_channels": 16,
        "memory_attention_hidden_size": 32,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32,
        "mask_downsampler_embed_dim": 32,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_num_layers": 1,
        "memory_fuser_intermediate_dim": 32,
    }
    parts = {name: config[name] for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    video = Sam2VideoModel(Sam2VideoConfig(image_size=128, **parts, **sizes))
    video.load_state_dict(image_model.state_dict(), strict=False)
    video.save_pretrained(tmp_path)
    shutil.copy(toy_models.sam() / "preprocessor_config.json", tmp_path)
    loaded = segmentation.load(str(tmp_path), device="cpu").annotator.model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in image_model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "is no checkpoint: it has no config.json"),
        ("model.safetensors", "holds no model.safetensors"),
        ("preprocessor_config.json", "has no image processor settings"),
    ],
)
def test_a_checkpoint_that_lacks_a_file_is_told(tmp_path, name, message):
    copied = shutil.copytree(toy_models.sam(), tmp_path / "sam")
    (copied / name).unlink()
    with pytest.raises(InputError, match=message):
        segmentation.load(str(copied), device="cpu")


def test_a_checkpoint_of_another_model_is_told():
    with pytest.raises(InputError, match="is a florence2 model; needed is sam2 or sam2_video"):
        segmentation.load(str(toy_models.florence()), device="cpu")


def rle_of(area: int) -> dict:
    """A mask of 4x3 pixels with that many pixels set."""
    mask = np.arange(12).reshape(3, 4) < area
    return dict(coco.key_object(0, "p", mask, 1.0).rle)


def item(score: float, area: int = 5, phrase: str = "a dog") -> dict:
    return {"phrase": phrase, "box": [0, 0, 4, 3], "score": score, "rle": rle_of(area)}


def write(folder: Path, *objects: list[dict] | str) -> Path:
    path = folder / "objects.jsonl"
    with path.open("w") as stream:
        for number, found in enumerate(objects, 1):
            line = {"image_id": number, "file_name": f"{number}.jpg", "width": 4, "height": 3, "objects": found}
            if isinstance(found, str):
                line |= {"objects": [], "error": found}
            stream.write(json.dumps(line) + "\n")
    return path


def test_samples_are_what_is_left_and_the_account_says_what_was_dropped(tmp_path):
    path = write(
        tmp_path,
        [item(0.9), item(0.84, area=7), item(0.95, area=0), item(0.85, area=12)],
        [item(0.5), item(0.99, area=0), item(0.3, area=0)],
        [],
        "it is torn",
        [item(0.85, phrase="a cat")],
    )
    samples = list(segmentation.samples(path, tmp_path / "images", 0.85))
    assert [(sample.id, sample.path) for sample in samples] == [
        (1, tmp_path / "images" / "1.jpg"),
        (5, tmp_path / "images" / "5.jpg"),
    ]
    assert [(found.id, found.area, found.score) for found in samples[0].objects] == [(1000, 5, 0.9), (1003, 12, 0.85)]
    assert [(found.id, found.phrase) for found in samples[1].objects] == [(5000, "a cat")]
    assert samples[0].objects[0].bbox == (0, 0, 4, 2)
    assert segmentation.account(path, 0.85) == segmentation.Account(
        images=5,
        objects=8,
        kept_images=2,
        kept_objects=3,
        dropped_images={"no object left": 1, "no phrase found": 1, "could not be worked on": 1},
        dropped_objects={"confidence below the smallest": 3, "empty mask": 2},
        errors=((4, "it is torn"),),
    )


def test_an_objects_id_stays_the_same_when_less_is_dropped(tmp_path):
    path = write(tmp_path, [item(0.4), item(0.6), item(0.9)])
    ids = [
        {found.id for sample in segmentation.samples(path, tmp_path, score) for found in sample.objects}
        for score in (0.8, 0.5, 0.0)
    ]
    assert ids == [{1002}, {1001, 1002}, {1000, 1001, 1002}]


def test_samples_come_one_at_a_time(tmp_path):
    path = write(tmp_path, [item(0.9)], [item(0.9)])
    path.write_text(path.read_text() + "torn")
    samples = segmentation.samples(path, tmp_path, 0.5)
    assert [next(samples).id, next(samples).id] == [1, 2]
    with pytest.raises(InputError, match="line 3: the line: Invalid JSON"):
        next(samples)


def test_the_samples_make_a_dataset(tmp_path, found, folder):
    shutil.copytree(folder / "images", coco.images_path(tmp_path))
    samples = list(segmentation.samples(found, coco.images_path(tmp_path), 0.0))
    coco.write_part(tmp_path, "train", samples)
    assert coco.read_part(tmp_path, "train") == samples
    assert all(sample.image().size == (sample.width, sample.height) for sample in samples)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rle": {"size": [4, 3], "counts": rle_of(5)["counts"]}}, "object 1 of image 1: the mask is 3x4 pixels"),
        ({"rle": {"size": [3, 4], "counts": "PPP"}}, "object 1 of image 1: .* do not decode to 4x3 pixels"),
        ({"phrase": " "}, r"line 1: objects\.1\.phrase"),
        ({"score": 1.2}, r"line 1: objects\.1\.score"),
        ({"box": [1, 2, 3]}, r"line 1: objects\.1\.box"),
    ],
)
def test_an_object_that_cannot_be_used_is_told(tmp_path, wrong, message):
    path = write(tmp_path, [item(0.9), item(0.9) | wrong])
    with pytest.raises(InputError, match=message):
        list(segmentation.samples(path, tmp_path, 0.5))
    with pytest.raises(InputError, match=message):
        segmentation.account(path, 0.5)


def test_more_objects_than_ids_are_told(tmp_path):
    path = write(tmp_path, [item(0.9)] * 1001)
    with pytest.raises(InputError, match="line 1: objects: Tuple should have at most 1000 items"):
        list(segmentation.samples(path, tmp_path, 0.5))
