"""The contact sheet: what is drawn where; that it looks good was looked at."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from headimpact.data.samples import Sample, key_object
from headimpact.report import contact_sheet, figures
from headimpact.tiny import bases
from headimpact.vlm.base import Vlm
from headimpact.vlm.families import family_class, find
from headimpact.vlm.tokengrid import TokenGrid, token_mask

THRESHOLD = 0.5


@pytest.fixture(scope="module")
def vlms() -> dict[str, Vlm]:
    return {name: bases.build(name, 0) for name in bases.TINY}


def square(size: tuple[int, int], left: int, top: int, side: int) -> np.ndarray:
    mask = np.zeros(size[::-1], dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def make_sample(folder: Path, size: tuple[int, int], phrases: tuple[str, ...], image_id: int = 1) -> Sample:
    """Black squares along the diagonal of a white image."""
    step = min(size) // max(len(phrases), 1)
    masks = [square(size, i * step, i * step, step) for i in range(len(phrases))]
    pixels = np.full((*size[::-1], 3), 255, dtype=np.uint8)
    for mask in masks:
        pixels[mask] = 0
    path = folder / f"{image_id}.png"
    Image.fromarray(pixels).save(path)
    both = enumerate(zip(phrases, masks, strict=True))
    objects = tuple(key_object(10 * image_id + i, phrase, mask, 0.9) for i, (phrase, mask) in both)
    return Sample(image_id, path, *size, objects)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


# --- where tokens lie


def test_tokens_of_one_block_lie_row_by_row():
    (block,) = contact_sheet.arrange(TokenGrid(2, 3), torch.arange(6))
    assert block.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_crops_are_put_together_and_the_whole_image_is_apart():
    joined, whole = contact_sheet.arrange(TokenGrid(2, 2, 1, 2), torch.arange(12))
    assert joined.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert whole.tolist() == [[8, 9], [10, 11]]
    joined, _ = contact_sheet.arrange(TokenGrid(1, 1, 2, 3), torch.arange(7))
    assert joined.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("name", bases.TINY)
@pytest.mark.parametrize("size", [(128, 128), (144, 96), (96, 144)])
def test_tokens_of_an_object_lie_over_it(tmp_path, vlms, name, size):
    sample = make_sample(tmp_path, size, ("first", "second"))
    for panel in contact_sheet._panels(vlms[name], sample, THRESHOLD):
        rows, cols = panel.grey.shape
        for obj, mask in zip(sample.objects, panel.masks, strict=True):
            assert mask.any()
            for row, col in np.argwhere(mask):
                x, y = int((col + 0.5) / cols * size[0]), int((row + 0.5) / rows * size[1])
                assert obj.mask()[y, x]
                # The object is black: so is what its tokens see.
                assert panel.grey[row, col] <= 0.55
        assert panel.grey.max() > 0.9


@pytest.mark.parametrize("name", bases.TINY)
def test_the_tokens_are_those_of_the_score(tmp_path, vlms, name):
    sample = make_sample(tmp_path, (144, 96), ("one", "two", "three"))
    vlm = vlms[name]
    panels = contact_sheet._panels(vlm, sample, THRESHOLD)
    for index, obj in enumerate(sample.objects):
        used = token_mask(vlm.coverages([obj.mask()])[0], THRESHOLD)
        assert sum(int(panel.masks[index].sum()) for panel in panels) == int(used.sum())


# --- what is drawn


def test_a_row_an_image_and_a_panel_a_block(tmp_path, vlms):
    samples = [
        make_sample(tmp_path, (144, 96), ("a red thing", "a blue thing"), 1),
        make_sample(tmp_path, (96, 144), (), 2),
    ]
    figure = contact_sheet.contact_sheet(samples, vlms, THRESHOLD)
    assert len(figure.axes) == 2 * (1 + 5)
    shown = texts(figure)
    assert shown[:4] == ["tiny-paligemma2", "tiny-qwen2-vl", "tiny-smolvlm", "tiny-smolvlm, whole image"]
    for words in ("image 1: 144 x 96", "image 2: 96 x 144", "a red thing", "a blue thing", "tokens 8 x 8"):
        assert words in shown
    assert any("crops 2 x 2" in text for text in shown)
    path = tmp_path / "sheet.png"
    figures.save(figure, path)
    with Image.open(path) as image:
        assert image.size == tuple(int(round(side, 6)) for side in figure.get_size_inches() * 120)  # whole pixels


def test_panels_of_a_row_are_aligned_and_nothing_overlaps(tmp_path, vlms):
    sizes = [(144, 96), (200, 40), (40, 200)]
    samples = [make_sample(tmp_path, size, ("a thing",) * i, i) for i, size in enumerate(sizes)]
    figure = contact_sheet.contact_sheet(samples, vlms, THRESHOLD)
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    for row, size in enumerate(sizes):
        panels = boxes[row * 6 : row * 6 + 6]
        assert len({(round(box.y0, 3), round(box.y1, 3)) for box in panels}) == 1
        assert all(box.width / box.height == pytest.approx(size[0] / size[1]) for box in panels)
    everything = [*boxes, *(text.get_window_extent() for text in figure.texts)]
    for i, box in enumerate(everything):
        assert not any(box.overlaps(other) for other in everything[:i])
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in everything)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in everything)


def test_an_image_that_is_not_cut_has_no_panel_of_crops(tmp_path, vlms, monkeypatch):
    vlm = vlms["tiny-smolvlm"]
    samples = [make_sample(tmp_path, (100, 80), ("thing",), image_id) for image_id in (1, 2)]
    cut = contact_sheet._panels(vlm, samples[0], THRESHOLD)
    monkeypatch.setattr(contact_sheet, "_panels", lambda _, sample, threshold: cut if sample.id == 1 else cut[1:])
    figure = contact_sheet.contact_sheet(samples, {"smol": vlm}, THRESHOLD)
    assert len(figure.axes) == 3 + 2
    assert texts(figure).count("not cut into crops") == 1


def test_tokens_have_the_colour_of_their_object():
    masks = np.zeros((2, 2, 2), dtype=bool)
    masks[0, 0, :] = masks[1, :, 0] = True
    panel = contact_sheet._Panel((1, 1), np.zeros((2, 2)), masks)
    drawn = contact_sheet._coloured(panel)
    first, second = (np.array(to_rgb(colour)) for colour in contact_sheet.COLOURS[:2])
    ground = drawn[1, 1]
    np.testing.assert_allclose(drawn[0, 1], 0.35 * ground + 0.65 * first)
    np.testing.assert_allclose(drawn[1, 0], 0.35 * ground + 0.65 * second)
    np.testing.assert_allclose(drawn[0, 0], 0.35 * ground + 0.65 * (first + second) / 2)


def test_weights_are_not_needed(tmp_path, vlms):
    sample = make_sample(tmp_path, (144, 96), ("thing",))
    for name, full in vlms.items():
        config, tokenizer, image_processor = bases.TINY[name]()
        family = family_class(find(config.to_dict()))
        with torch.device("meta"):
            model = family.model_class(config)
        empty = family(model, tokenizer, image_processor, None, name, None, "")
        for panel, other in zip(
            contact_sheet._panels(empty, sample, THRESHOLD), contact_sheet._panels(full, sample, THRESHOLD), strict=True
        ):
            assert (panel.masks == other.masks).all()


# --- phrases


def test_phrases_are_drawn_as_they_are_and_not_read_as_formulas(tmp_path, vlms):
    phrases = ("costs $5 or $x_1$", "ein \u706b\u8eca", "word " * 40)
    sample = make_sample(tmp_path, (96, 96), phrases)
    figure = contact_sheet.contact_sheet([sample], {"qwen": vlms["tiny-qwen2-vl"]}, THRESHOLD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save(figure, tmp_path / "sheet.png")
    shown = texts(figure)
    assert "costs $5 or $x_1$" in shown
    assert "ein \u25a1\u25a1" in shown
    assert sum(text.startswith("word") for text in shown) == 3
    assert any(text.endswith("word ...") for text in shown)


def test_phrases_that_find_no_room_are_counted(tmp_path, vlms):
    sample = make_sample(tmp_path, (160, 40), tuple(f"thing {i}" for i in range(20)))
    figure = contact_sheet.contact_sheet([sample], {"qwen": vlms["tiny-qwen2-vl"]}, THRESHOLD)
    drawn = [text for text in texts(figure) if text.startswith("thing ")]
    assert drawn == [f"thing {i}" for i in range(len(drawn))]
    assert 3 < len(drawn) < 20
    assert f"and {20 - len(drawn)} more" in texts(figure)


# --- histograms


def test_histograms_count_images_and_objects(tmp_path):
    samples = [make_sample(tmp_path, (80, 80), ("a thing",) * count, count) for count in (1, 2, 2, 4)]
    figure = contact_sheet.histograms(samples, "mine")
    heights = [[patch.get_height() for patch in axes.patches] for axes in figure.axes]
    assert heights[0] == [0, 1, 2, 0, 1]
    # The whole image once, a quarter of it four times, a sixteenth four times.
    assert [(i, n) for i, n in enumerate(heights[1]) if n] == [(1, 4), (5, 4), (19, 1)]
    assert sum(heights[2]) == 9
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["images (of 4)", "objects (of 9)", "objects (of 9)"]


@pytest.mark.parametrize(("score", "lowest"), [(1.0, 0.95), (0.87, 0.85), (0.0, 0.0)])
def test_the_scores_are_shown_from_near_the_lowest(tmp_path, score, lowest):
    sample = make_sample(tmp_path, (80, 80), ("a", "b"))
    obj = key_object(1, "a", square((80, 80), 0, 0, 9), score)
    figure = contact_sheet.histograms([Sample(1, sample.path, 80, 80, (obj,))])
    assert figure.axes[2].get_xlim() == (pytest.approx(lowest), 1)
    assert sum(patch.get_height() for patch in figure.axes[2].patches) == 1
