"""Looking: attention made small, tokens where they lie, outlines, what fits into a page, and what the command takes."""

import base64
import json
import re
from pathlib import Path

import mlflow
import numpy as np
import peft
import pytest
import torch
from engines import engine_of
from family_facts import FAMILIES, tiny
from PIL import Image
from typer.testing import CliRunner

import headimpact
from headimpact.adapters import switching
from headimpact.data import scenes
from headimpact.data.pictures import open_picture
from headimpact.errors import InputError
from headimpact.impact import object_maps
from headimpact.lifecycle import command_line, layout, params
from headimpact.lifecycle.config import Job
from headimpact.lifecycle.steps import look as step
from headimpact.report.look import drawing, making
from headimpact.vlm.base import Vlm
from headimpact.vlm.geometry import plane
from headimpact.vlm.tokengrid import TokenGrid

HOSTILE = "</script><script>alert(1)</script> \u2028 red"


@pytest.fixture(scope="module")
def smolvlm(project_root: Path) -> Vlm:
    return headimpact.load_base(project_root / "models/bases/tiny-smolvlm", device="cpu", dtype="float32")


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


# ---- made small


def test_attention_in_steps_of_its_largest_value():
    rows = np.array([[0.0, 0.1, 0.2], [0.0, 0.0, 0.0], [np.nan, 0.5, 0.25]], dtype=np.float32)
    values, scales = object_maps.quantise(rows)
    assert values.tolist() == [[0, 128, 255], [0, 0, 0], [0, 255, 128]]
    assert scales.tolist() == pytest.approx([0.2, 0, 0.5])


def test_what_is_above_the_mean_and_its_iou_are_taken_before():
    # The second token is above the mean (0.2 exactly is not), by less than a step of the quantised values.
    rows = torch.tensor([[0.2 - 1e-6, 0.2 + 1e-6, 0.2, 0.2]])
    mask = torch.tensor([False, True, True, False])
    maps = object_maps.make_small(rows, mask, np.array([3, 2, 1, 0]))
    assert maps.values.tolist() == [[255, 255, 255, 255]]
    assert np.unpackbits(maps.above, axis=-1, count=4).tolist() == [[0, 0, 1, 0]]
    assert maps.iou.tolist() == [0.5]
    assert maps.share.tolist() == pytest.approx([0.8])
    assert np.isnan(object_maps.make_small(rows, None, np.arange(4)).iou).all()
    assert np.isnan(object_maps.make_small(rows / 0, mask, np.arange(4)).iou).all()


# ---- where tokens lie


def test_tokens_lie_where_a_hand_would_draw_them():
    """Eight pixels: two crops of four, each of a token of two pixels and a token of one, and a pixel that none sees."""
    (crops,) = (plane([(8, 8)], Image.Resampling.BILINEAR, 1, (3, 4), (2, 2)),)
    down, across = drawing.spans(crops.rows), drawing.spans(crops.cols)
    assert down == [(0, 0.125), (0.125, 0.25), (0.25, 0.375), (0.5, 0.625), (0.625, 0.75), (0.75, 0.875)]
    assert across == [(step / 8, (step + 1) / 8) for step in range(8)]


def test_padding_is_no_part_of_the_image():
    padded = plane([(6, 6)], Image.Resampling.BILINEAR, 2, (5, 4), start=(-2, -1))
    thirds = [(0, 0), (0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1), (1, 1)]
    assert np.allclose(drawing.spans(padded.rows), thirds, atol=1e-4)
    sixths = [(0, 1 / 6), (1 / 6, 1 / 2), (1 / 2, 5 / 6), (5 / 6, 1)]
    assert np.allclose(drawing.spans(padded.cols), sixths, atol=1e-4)


def test_the_whole_image_comes_last_wherever_it_is_in_the_sequence():
    assert object_maps.in_place(TokenGrid(1, 2, 1, 2)).tolist() == [0, 1, 2, 3, 4, 5]
    assert object_maps.in_place(TokenGrid(2, 1, 1, 2)).tolist() == [0, 2, 1, 3, 4, 5]
    assert object_maps.in_place(TokenGrid(1, 1, 1, 2, mosaic=(2, 1))).tolist() == [1, 2, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_of_every_family_cover_what_they_see(family: str):
    vlm, size = tiny(family), (90, 60)
    grid, geometry = vlm.grid(*size), vlm.geometry(*size)
    found = drawing.layers_of_tokens(geometry, grid)
    assert sum(len(one["rows"]) * len(one["cols"]) for one in found) == grid.tokens
    # A token in the middle of a block sees a spot there, and none far away does.
    for number, one in enumerate(found):
        row, col = len(one["rows"]) // 2, len(one["cols"]) // 2
        (top, bottom), (left, right) = one["rows"][row], one["cols"][col]
        mask = np.zeros(size[::-1], dtype=bool)
        mask[int((top + bottom) / 2 * size[1]), int((left + right) / 2 * size[0])] = True
        before = sum(len(other["rows"]) * len(other["cols"]) for other in found[:number])
        seen = geometry.coverage(mask)[object_maps.in_place(grid)]
        of_plane = seen[before : before + len(one["rows"]) * len(one["cols"])]
        assert of_plane.argmax() == row * len(one["cols"]) + col


def test_the_outline_of_a_mask_runs_between_its_pixels():
    corner = np.array([[1, 0, 0], [1, 1, 0]], dtype=bool)
    assert drawing.outline(corner) == {
        "path": "M0 0h1M1 1h1M0 2h2" + "M0 0v2M1 0v1M2 1v1",
        "width": 3,
        "height": 2,
    }
    large = np.zeros((640, 320), dtype=bool)
    large[100:200, 20:40] = True
    assert drawing.outline(large) == {"path": "M10 50h10M10 100h10M10 50v50M20 50v50", "width": 160, "height": 320}


def test_what_does_not_fit_into_a_page_is_told(smolvlm: Vlm, monkeypatch: pytest.MonkeyPatch):
    scene = scenes.draw(0, 1)
    samples = headimpact.make_samples([(scene.image, [(scene.things[0].mask, "a red star")])] * 3)
    subjects, skipped = object_maps.subjects_of(smolvlm, samples, 0.5)
    assert (len(subjects), skipped, subjects[0].words[0].phrase) == (3, [], "a red star")
    assert making.fit(subjects, 100) == (subjects, True, [])
    whole = 100 * subjects[0].grid.tokens * 9 // 8
    monkeypatch.setattr(making, "MOST_BYTES", 3 * whole)
    shown, pieces, notes = making.fit(subjects, 100)
    assert (len(shown), pieces, len(notes)) == (3, False, 1)
    monkeypatch.setattr(making, "MOST_BYTES", 2 * whole)
    shown, pieces, notes = making.fit(subjects, 100)
    assert (len(shown), pieces) == (2, False)
    assert notes[1] == "The page would be too large with all 3 images: the first 2 are shown."


# ---- a picture


def test_a_picture_is_read_upright_or_refused(tmp_path: Path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=turned)
    assert open_picture(tmp_path / "a.jpg").size == (20, 30)
    (tmp_path / "b.png").write_bytes(b"no picture")
    Image.new("RGB", (300, 200)).save(tmp_path / "c.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "c.png").read_bytes()[:80])
    Image.new("I;16", (3, 2)).save(tmp_path / "d.png")
    for name, message in (
        ("none.png", "There is no image"),
        ("b.png", "is not a PNG, JPEG or WEBP image"),
        ("c.png", "is damaged or truncated"),
        ("d.png", "more than 8 bits a channel"),
    ):
        with pytest.raises(InputError, match=message):
            open_picture(tmp_path / name)


def test_any_picture_and_words_show_attention_alone(smolvlm: Vlm):
    page = headimpact.look(smolvlm, scenes.draw(0, 3).image, HOSTILE)
    data = data_of(page.html)
    (image,) = data["images"]
    assert not data["masked"]
    assert [obj["phrase"] for obj in image["objects"]] == [HOSTILE]
    assert image["objects"][0]["outline"] is None
    assert page.html.count("<script") == page.html.count("</script>") == 3
    assert "attention alone" in page.html
    assert "&lt;/script" in page._repr_html_()
    shares = np.frombuffer(base64.b64decode(data["variants"][0]["share"]), dtype="<f4")
    assert len(shares) == smolvlm.layers * (smolvlm.heads + 1)
    assert ((shares > 0) & (shares < 1)).all()
    first = headimpact.attention(smolvlm, scenes.draw(0, 3).image, HOSTILE, *data["top"][0])
    layer, head = data["top"][0]
    assert shares[layer * (smolvlm.heads + 1) + head] == pytest.approx(first.values.sum(), rel=1e-5)


def test_an_adapted_model_is_shown_beside_the_original_that_it_still_is(project_root: Path):
    base = headimpact.load_base(project_root / "models/bases/tiny-smolvlm", device="cpu", dtype="float32")
    picture = scenes.draw(0, 3).image
    alone = headimpact.look(base, picture, question="What is this photo?")
    assert not switching.is_adapted(base.model)
    config = peft.LoraConfig(r=4, target_modules=base.projections([1], ["q_proj", "v_proj"]), init_lora_weights=False)
    adapted = peft.get_peft_model(base.model, config)
    trainable = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    both = data_of(headimpact.look(base, picture, question="What is this photo?").html)
    assert [name for name, parameter in adapted.named_parameters() if parameter.requires_grad] == trainable
    assert [variant["name"] for variant in both["variants"]] == ["original", "adapter"]
    first = data_of(alone.html)["images"][0]["objects"][0]["phrase"]
    assert first.startswith("original: ")
    names = [obj["phrase"].partition(": ") for obj in both["images"][0]["objects"]]
    assert names[0][2] == first.partition(": ")[2]
    assert " and ".join(name for name, *_ in names) == "original and adapter"


def test_what_cannot_be_looked_at_is_refused(smolvlm: Vlm):
    picture = scenes.draw(0, 3).image
    for arguments, message in (
        ((picture,), "with phrases, or with a question"),
        ((picture, "a star", "What?"), "with phrases, or with a question"),
        ((picture, " "), "is empty"),
        (([], "a star"), "Samples have phrases of their own"),
        (([],), "There is nothing to look at: no image has an object"),
    ):
        with pytest.raises(InputError, match=message):
            headimpact.look(smolvlm, *arguments)


# ---- the command


def test_the_page_is_an_artifact_of_its_run(
    smolvlm: Vlm, tracked: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
):
    scene = scenes.draw(0, 1)
    samples = headimpact.make_samples([(scene.image, [(thing.mask, thing.rich) for thing in scene.things])])
    monkeypatch.setattr(step, "_load_engine", lambda *_: engine_of(smolvlm))
    monkeypatch.setattr(step, "read_part", lambda part: samples)
    monkeypatch.setattr(step, "dataset_digest", lambda: "d" * 64)
    summary = step.run(params.load(project_root / layout.PARAMS), Job("tiny-smolvlm", "original"), step.Asked(24))
    (path,) = summary.files
    assert path == Path("outputs/look/tiny-smolvlm/original.html")
    assert summary.next == "python -m webbrowser outputs/look/tiny-smolvlm/original.html"
    client = mlflow.MlflowClient()
    assert [file.path for file in client.list_artifacts(str(summary.run))] == ["original.html"]
    assert client.get_run(str(summary.run)).data.metrics == {"look/objects": len(scene.things)}
    assert step._name(Path('x/../A <b>"photo".jpg')) == "a-b-photo"
    assert step._name(Path("☃.jpg")) == "picture"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--phrase", "a star"], "Error: --phrase and --question are for a picture"),
        (["--image", "none.png"], "Error: --image needs what to look for"),
        (["--image", "none.png", "--phrase", " "], "Error: The phrase or question is empty"),
        (["--image", "none.png", "--phrase", "a star"], "Error: There is no image "),
        (["--train.epochs", "2"], "Error: --train.epochs: this value belongs to"),
        (["--model", "tiny-smolvl"], "Error: --model: unknown model"),
    ],
)
def test_bad_input_ends_with_one_message(arguments: list[str], message: str):
    result = CliRunner().invoke(command_line.app, ["look", *arguments])
    assert result.exit_code == 1
    assert message in result.stderr
