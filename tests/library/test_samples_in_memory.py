"""Samples of images in memory, and their scores."""

from pathlib import Path

import numpy as np
import pytest
from engines import engine_of
from in_memory import in_memory
from PIL import Image

import headimpact
from headimpact.data.scene_dataset import write_scenes
from headimpact.errors import InputError
from headimpact.impact.head_impact import Impact
from headimpact.impact.scoring import ChanceSettings, score_images
from headimpact.vlm.base import Vlm


def test_a_dataset_folder_and_its_images_in_memory_give_the_same_scores(smolvlm: Vlm, tmp_path: Path):
    write_scenes(tmp_path, {"impact": 2, "train": 1}, seed=0)
    read = headimpact.read_samples(tmp_path)
    made = headimpact.make_samples([(s.image(), [(o.mask(), o.phrase) for o in s.objects]) for s in read])
    assert [o.id for s in made for o in s.objects] == list(range(sum(len(s.objects) for s in read)))
    watched: list[tuple[int, str]] = []
    impact = headimpact.score(
        smolvlm, read, watch=lambda images, total, what: watched.append((total, what)) or images, batch_tokens=1
    )
    assert watched == [(2, "scoring")]
    assert np.allclose(impact.hi, headimpact.score(smolvlm, made).hi, atol=1e-6)
    expected, _ = score_images(engine_of(smolvlm, batch_tokens=1), read, ChanceSettings(threshold=0.5, draws=4, seed=0))
    assert expected.objects_frame().equals(impact.objects_frame())
    assert len(headimpact.read_samples(tmp_path, "train")) == 1


def test_masks_of_booleans_and_of_numbers_are_the_same():
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2:4] = True
    image = Image.new("RGBA", (6, 4), (1, 2, 3, 4))
    masks = (mask, mask.astype(np.uint8) * 255, mask.astype(np.int64) * 7)
    (sample,) = headimpact.make_samples([(image, [(m, "a dash") for m in masks])])
    assert sample.image().mode == "RGB"
    assert (sample.width, sample.height) == (6, 4)
    for obj in sample.objects:
        assert (obj.mask() == mask).all()
        assert (obj.bbox, obj.area, obj.phrase) == ((2, 1, 2, 1), 2, "a dash")


HALF = np.arange(24).reshape(4, 6) < 12


@pytest.mark.parametrize(
    ("mode", "mask", "phrase", "message"),
    [
        ("RGB", HALF.T, "a dash", r"Object 1 of image 0 has a mask of shape \(6, 4\), .* shape \(4, 6\)"),
        ("RGB", HALF[..., None], "a dash", r"shape \(4, 6, 1\)"),
        ("RGB", HALF & False, "a dash", "Object 1 of image 0 has a mask that is empty"),
        ("RGB", HALF | True, "a dash", "mask that covers the whole image"),
        ("RGB", HALF * 0.7, "a dash", "a mask of float64 .* booleans, as mask > 0.5"),
        ("RGB", HALF + np.eye(4, 6, dtype=np.uint8), "a dash", "a mask of uint8 with 2 different values other than 0"),
        ("RGB", HALF, " \n", "Object 1 of image 0 has an empty phrase: describe the object"),
        ("I;16", HALF, "a dash", r"Image 0 has more than 8 bits a channel \(mode I;16\): convert it"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_made_are_refused_with_the_place(mode, mask, phrase, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        headimpact.make_samples([(Image.new(mode, (6, 4)), [(HALF, "a half"), (mask, phrase)])])


def test_what_cannot_be_scored_is_told(smolvlm: Vlm, monkeypatch: pytest.MonkeyPatch):
    samples = in_memory(1, 2)
    with pytest.raises(InputError, match="Two samples have the id 0: make all samples in one call"):
        headimpact.score(smolvlm, [*samples, *in_memory(3)])
    with pytest.raises(InputError, match="two images with objects"):
        headimpact.score(smolvlm, samples[:1])
    coverages, calls = smolvlm.coverages, []

    def unseen_first(masks, size=None):
        calls.append(masks)
        return coverages(masks, size) * (len(calls) > 1)

    monkeypatch.setattr(smolvlm, "coverages", unseen_first)
    with pytest.warns(UserWarning, match=r"^1 objects were left out: no visual token sees the object \(1\)\.$"):
        impact = headimpact.score(smolvlm, samples)
    assert len(impact.object_ids) == sum(len(sample.objects) for sample in samples) - 1


def test_the_heatmap_shows_itself_in_a_notebook(impact: Impact):
    figure = headimpact.heatmap(impact, "scenes")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert figure.axes[0].get_title() == "scenes"
    assert np.asarray(figure.axes[0].images[0].get_array()) == pytest.approx(impact.hi)
