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

from headimpact.data import annotators, masks, segmentation, segmented
from headimpact.data.coco import images_path, read_part
from headimpact.data.lines import Captioned, Grounded, Phrase, Segment, Segmented, read, to_json
from headimpact.data.segmentation import Segmenter, mask_of
from headimpact.data.writing import write_part
from headimpact.errors import InputError
from headimpact.processes import Processes

ALONE = Processes()


@pytest.fixture(scope="module")
def segmenter(sam: Path) -> Segmenter:
    return segmentation.load(str(sam), device="cpu", dtype="float32")


def phrases_of(line: Captioned) -> tuple[Phrase, ...]:
    """Image 4 has none, image 6 one, the others up to three."""
    rng = np.random.default_rng(line.image_id)
    count = {4: 0, 6: 1}.get(line.image_id, int(rng.integers(1, 4)))
    phrases = []
    for number in range(count):
        left, top = rng.uniform(0, 0.5, 2)
        box = (left * line.width, top * line.height, (left + 0.4) * line.width, (top + 0.4) * line.height)
        phrases.append(Phrase(phrase=f"thing {number}", box=tuple(round(side, 2) for side in box)))
    return tuple(phrases)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve images; one could not be grounded, one has no phrase, one has gone since."""
    folder = tmp_path_factory.mktemp("data") / "download"
    captions = toy_models.write_captions(folder, 12)
    with (folder / "phrases.jsonl").open("wb") as stream:
        for line in read(captions, Captioned):
            error = "it could not be read" if line.image_id == 5 else None
            phrases = () if error else phrases_of(line)
            stream.write(to_json(Grounded(**line.model_dump(), phrases=phrases, error=error)))
    (folder / "images" / "000009.png").unlink()
    return folder


def run(folder: Path, output: Path, segmenter: Segmenter, group_images: int = 4, processes=ALONE):
    """Segment the phrases of a folder; the account, where this process wrote the output."""
    source, images = folder / "phrases.jsonl", folder / "images"
    first = annotators.annotate(segmenter, source, images, output, group_images, processes)
    return segmented.account(output, 0.85) if first else None


@pytest.fixture(scope="module")
def objects(folder, segmenter, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("segment") / "objects.jsonl"
    run(folder, path, segmenter)
    return path


def decoded(segment: Segment) -> np.ndarray:
    return masks.decode(segment.rle.model_dump())


def test_every_box_has_its_mask_and_confidence(folder, objects):
    phrases = {line.image_id: line.phrases for line in read(folder / "phrases.jsonl", Grounded)}
    lines = list(read(objects, Segmented))
    assert [line.image_id for line in lines] == list(range(1, 13))
    areas, scores = [], []
    for line in lines:
        wanted = phrases[line.image_id] if line.image_id != 9 else ()
        assert [(segment.phrase, segment.box) for segment in line.objects] == [(p.phrase, p.box) for p in wanted]
        for segment in line.objects:
            assert segment.rle.size == (line.height, line.width)
            mask = decoded(segment)
            assert mask.shape == (line.height, line.width)
            areas.append(mask.mean())
            scores.append(segment.score)
    assert 0 < np.mean(areas) < 0.9
    assert min(scores) < 0.85 < max(scores)


def test_lines_are_as_the_layout_says(objects):
    line = json.loads(objects.read_text().splitlines()[0])
    assert list(line) == ["image_id", "file_name", "width", "height", "objects"]
    assert list(line["objects"][0]) == ["phrase", "box", "score", "rle"]
    assert list(line["objects"][0]["rle"]) == ["size", "counts"]


def test_what_could_not_be_worked_on_says_why(objects):
    errors = {line.image_id: line.error for line in read(objects, Segmented) if line.error}
    assert set(errors) == {5, 9}
    assert errors[5] == "it could not be read"
    assert errors[9].startswith("000009.png does not exist")


@pytest.mark.parametrize("group_images", [1, 5, 12])
def test_the_bytes_do_not_depend_on_the_size_of_the_batches(folder, objects, segmenter, tmp_path, group_images):
    run(folder, tmp_path / "out.jsonl", segmenter, group_images)
    assert (tmp_path / "out.jsonl").read_bytes() == objects.read_bytes()


def test_the_bytes_do_not_depend_on_the_number_of_processes(folder, objects, segmenter, tmp_path):
    output = tmp_path / "out.jsonl"
    assert [run(folder, output, segmenter, 4, Processes(rank, 3)) for rank in (2, 1)] == [None, None]
    assert run(folder, output, segmenter, 4, Processes(0, 3)) == segmented.account(objects, 0.85)
    assert output.read_bytes() == objects.read_bytes()


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
    stubbed = Segmenter(annotators.Model(stub, Path(), {}), segmenter.pixels)
    line = Grounded(
        image_id=1,
        file_name="a.png",
        width=80,
        height=40,
        url="u",
        caption_id=1,
        caption="c",
        phrases=(Phrase(phrase="p", box=(20, 10, 60, 40)), Phrase(phrase="q", box=(0, 0, 80, 40))),
    )
    return stubbed.annotate([line], folder / "images")[0]


def test_boxes_are_in_the_models_pixels_and_the_best_mask_is_taken(tmp_path, segmenter):
    stub = Stub()
    line = one_image(tmp_path, segmenter, stub)
    assert stub.boxes.tolist() == [[[32, 32, 96, 128], [0, 0, 128, 128]]]
    assert [segment.score for segment in line.objects] == [0.9123, 0.9123]
    mask = decoded(line.objects[0])
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


def test_it_runs_in_bfloat16(folder, objects, tmp_path, sam):
    segmenter = segmentation.load(str(sam), device="cpu", dtype="bfloat16")
    run(folder, tmp_path / "out.jsonl", segmenter)
    pairs = zip(read(tmp_path / "out.jsonl", Segmented), read(objects, Segmented), strict=True)
    differences = [
        abs(a.score - b.score) for half, full in pairs for a, b in zip(half.objects, full.objects, strict=True)
    ]
    assert 0 < max(differences) < 0.05


def test_a_checkpoint_of_the_video_model_is_loaded(tmp_path, segmenter, sam):
    image_model = segmenter.model.network
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
    shutil.copy(sam / "preprocessor_config.json", tmp_path)
    loaded = segmentation.load(str(tmp_path), device="cpu").model.network.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in image_model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "is no checkpoint: it has no config.json"),
        ("model.safetensors", "holds no model.safetensors"),
        ("preprocessor_config.json", "has no image processor settings"),
    ],
)
def test_a_checkpoint_that_lacks_a_file_is_told(tmp_path, name, message, sam):
    copied = shutil.copytree(sam, tmp_path / "sam")
    (copied / name).unlink()
    with pytest.raises(InputError, match=message):
        segmentation.load(str(copied), device="cpu")


def test_a_checkpoint_of_another_model_is_told(florence):
    with pytest.raises(InputError, match="is a florence2 model; needed is sam2 or sam2_video"):
        segmentation.load(str(florence), device="cpu")


def test_the_samples_make_a_dataset(tmp_path, objects, folder):
    shutil.copytree(folder / "images", images_path(tmp_path))
    samples = list(segmented.samples(objects, images_path(tmp_path), 0.0))
    write_part(tmp_path, "train", samples)
    assert read_part(tmp_path, "train") == samples
    assert all(sample.image().size == (sample.width, sample.height) for sample in samples)
