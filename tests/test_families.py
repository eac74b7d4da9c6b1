"""Every family fact: token grids, parameter counts, geometry by cause and effect, masks, prompts, adapted modules."""

import numpy as np
import pytest
import torch
from PIL import Image
from real_size import REAL

from headimpact.adapters import lora
from headimpact.tiny import bases
from headimpact.vlm.families import family_class
from headimpact.vlm.tokengrid import token_mask

SIZES = {"paligemma": "tiny-paligemma2", "qwen2_vl": "tiny-qwen2-vl", "idefics3": "tiny-smolvlm"}


def real(family: str):
    """A family at real size without weights, with the image processor of the real checkpoint."""
    config, image_processor = REAL[family]()
    with torch.device("meta"):
        model = family_class(family).model_class(config)
    return family_class(family)(model, None, image_processor, None, family, None, "")


@pytest.mark.parametrize(
    ("family", "width", "height", "tokens"),
    [
        ("paligemma", 640, 480, 1024),
        ("paligemma", 200, 145, 1024),
        ("qwen2_vl", 640, 480, 391),
        ("qwen2_vl", 640, 640, 529),
        ("qwen2_vl", 640, 427, 345),
        ("qwen2_vl", 200, 145, 35),
        ("idefics3", 640, 480, 1053),
        ("idefics3", 640, 640, 1377),
        ("idefics3", 200, 145, 1053),
    ],
)
def test_visual_tokens_at_real_size(family, width, height, tokens):
    vlm = real(family)
    encoded = vlm.encode_image(Image.new("RGB", (width, height), (90, 120, 30)))
    assert encoded.grid.tokens == tokens
    assert len(vlm.seen_pixels(encoded)) == tokens


@pytest.mark.parametrize("family", REAL)
def test_the_grid_of_a_size_is_that_of_an_image_of_this_size(family):
    vlm = real(family)
    vlm.check_geometry()
    # A few shapes are enough at the real size, and odd ones show what is rounded how.
    for size in [(640, 480), (427, 640), (200, 145), (1000, 667), (33, 500)]:
        assert vlm.grid(*size) == vlm.encode_image(Image.new("RGB", size)).grid


@pytest.mark.parametrize("name", bases.TINY)
def test_the_grid_of_a_size_is_that_of_an_image_of_this_size_in_tiny_bases(name):
    vlm = bases.build(name, 0)
    vlm.check_geometry()
    for width, height in np.random.default_rng(0).integers(20, 400, (60, 2)).tolist():
        assert vlm.grid(width, height) == vlm.encode_image(Image.new("RGB", (width, height))).grid


@pytest.mark.parametrize(("family", "patches"), [("paligemma", 1), ("qwen2_vl", 4), ("idefics3", 9)])
def test_patches_are_merged_into_tokens(family, patches):
    assert real(family).patches_per_token == patches


def test_grids_at_640x480():
    grids = {family: real(family).encode_image(Image.new("RGB", (640, 480))).grid for family in REAL}
    assert (grids["paligemma"].rows, grids["paligemma"].cols) == (32, 32)
    assert (grids["qwen2_vl"].rows, grids["qwen2_vl"].cols) == (17, 23)
    assert (grids["idefics3"].crop_rows, grids["idefics3"].crop_cols, grids["idefics3"].rows) == (3, 4, 9)


@pytest.mark.parametrize(
    ("family", "layers", "heads", "base", "on_four", "on_all"),
    [
        ("paligemma", 26, 8, 3_033_127_152, 352_256, 2_289_664),
        ("qwen2_vl", 28, 12, 2_208_985_600, 212_992, 1_490_944),
        ("idefics3", 24, 32, 2_246_272_880, 393_216, 2_359_296),
    ],
)
def test_parameter_counts_at_real_size(family, layers, heads, base, on_four, on_all):
    settings = lora.LoraSettings(rank=8, alpha=16, targets=("q_proj", "k_proj", "v_proj"))
    vlm = real(family)
    assert (vlm.layers, vlm.heads) == (layers, heads)
    assert sum(p.numel() for p in vlm.model.parameters()) == base
    adapted = lora.count_parameters(lora.attach(vlm, [0, 2, 5, 7], settings, seed=0))
    assert (adapted.total, adapted.trainable) == (base + on_four, on_four)
    everywhere = real(family)
    assert lora.count_parameters(lora.attach(everywhere, range(layers), settings, 0)).trainable == on_all


@pytest.mark.parametrize("name", bases.TINY)
def test_lora_adapts_the_language_models_projections_and_nothing_else(name):
    vlm = bases.build(name, 0)
    settings = lora.LoraSettings(rank=8, alpha=16, targets=("q_proj", "k_proj", "v_proj"))
    adapted = lora.adapted_modules(lora.attach(vlm, [1, 3], settings, seed=0))
    assert len(adapted) == 6
    assert all(n.startswith(vlm.decoder_path) and n.split(".")[-4] in ("layers",) for n in adapted)
    assert {n.split("layers.")[1].split(".")[0] for n in adapted} == {"1", "3"}
    assert not any("vision" in n or "visual" in n for n in adapted)


@pytest.mark.parametrize("name", bases.TINY)
@pytest.mark.parametrize("size", [(160, 96), (96, 160), (128, 128)])
def test_changing_the_pixels_under_a_token_changes_that_token_most(name, size):
    """Cause and effect. The vision tower mixes patches, so its layers are cut to the identity."""
    vlm = bases.build(name, 0)
    for block in [m for n, m in vlm.model.named_modules() if n.endswith(("out_proj", "proj", "fc2")) and "vis" in n]:
        if isinstance(block, torch.nn.Linear) and "merger" not in f"{block}":
            torch.nn.init.zeros_(block.weight)
            if block.bias is not None:
                torch.nn.init.zeros_(block.bias)
    rng = np.random.default_rng(0)
    width, height = size
    pixels = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
    original = vlm.encode_image(Image.fromarray(pixels))
    with torch.no_grad():
        before = vlm.image_features([original])[0]
        for left, top in [(8, 8), (width - 40, 16), (width // 2, height - 40)]:
            changed = pixels.copy()
            changed[top : top + 32, left : left + 32] = 255
            mask = np.zeros((height, width), dtype=bool)
            mask[top : top + 32, left : left + 32] = True
            covered = vlm.coverages([mask])[0]
            effect = (vlm.image_features([vlm.encode_image(Image.fromarray(changed))])[0] - before).norm(dim=1)
            assert covered[effect.argmax()] > 0.5
            # Nothing reaches a token that sees nothing of the change (a filter may ring by a pixel or two).
            assert effect[covered == 0].max() < 0.2 * effect.max()
            assert effect[covered > 0.9].min() > effect[covered == 0].max()


@pytest.mark.parametrize("name", bases.TINY)
@pytest.mark.parametrize("size", [(160, 96), (96, 160)])
def test_masks_land_on_the_right_tokens_of_images_that_are_not_square(name, size):
    width, height = size
    vlm = bases.build(name, 0)
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 2 :, : width // 2] = True
    grid = vlm.encode_image(Image.new("RGB", size)).grid
    found = token_mask(vlm.coverages([mask])[0], 0.5).reshape(grid.blocks, grid.rows, grid.cols)
    whole = found[-1].float()
    rows, cols = whole.nonzero().unbind(1)
    assert rows.min() >= grid.rows // 2 - 1
    assert cols.max() <= grid.cols // 2
    assert 0.15 < whole.mean() < 0.4
    if grid.blocks > 1:
        assert (grid.crop_rows, grid.crop_cols) == (2, 2)
        crops = found[:-1].reshape(2, 2, -1).float().mean(dim=2)
        assert crops[1, 0] > 0.5
        assert crops[0, 1] == 0


def test_a_token_mask_of_a_tiny_object_is_its_best_covered_token():
    covered = torch.tensor([0.0, 0.1, 0.3, 0.2])
    assert token_mask(covered, 0.5).tolist() == [False, False, True, False]
    assert not token_mask(torch.zeros(4), 0.5).any()
    assert token_mask(torch.tensor([0.5, 0.49, 0.9, 0.0]), 0.5).tolist() == [True, False, True, False]


EXPECTED = {
    "tiny-qwen2-vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
    "<image><|vision_end|>What is this photo?<|im_end|>\n<|im_start|>assistant\n"
    "This is a photo of red circle.<|im_end|>\n",
    "tiny-smolvlm": "<|im_start|>User:<image>What is this photo?<end_of_utterance>\n"
    "Assistant: This is a photo of red circle.<end_of_utterance>\n",
    "tiny-paligemma2": "<image><bos>describe en\nred circle<eos>",
}


@pytest.mark.parametrize("name", bases.TINY)
def test_the_familys_own_template_gives_the_real_checkpoints_text(name):
    vlm = bases.build(name, 0)
    conversation = vlm.caption("red circle")
    text = vlm.render(conversation.user, conversation.answer)
    assert text.replace(vlm.image_placeholder, "<image>") == EXPECTED[name]
    prompt = vlm.render(conversation.user, None)
    assert text.startswith(prompt)


@pytest.mark.parametrize("name", bases.TINY)
@pytest.mark.parametrize(
    "phrase", ["solid red circle upper left", "dog, dog", "naïve café ☕", "What", "3 men's hats."]
)
def test_description_tokens_cover_the_phrase_and_no_more(name, phrase):
    vlm = bases.build(name, 0)
    grid = vlm.encode_image(Image.new("RGB", (128, 96))).grid
    tokens = vlm.tokenize(vlm.caption(phrase), grid)
    assert vlm.tokenizer.decode(tokens.ids[tokens.target]).strip() == phrase
    assert len(tokens.visual) == grid.tokens
    end = vlm.tokenizer.decode(tokens.ids[tokens.answer][-1:])
    assert end == vlm.tokenizer.eos_token


@pytest.mark.parametrize("name", bases.TINY)
def test_option_labels_are_found_in_place(name):
    vlm = bases.build(name, 0)
    grid = vlm.encode_image(Image.new("RGB", (128, 96))).grid
    options = ["red circle", "blue square", "A", "green star"]
    for label in range(4):
        tokens, ids = vlm.question_tokens(options, label, grid)
        assert [vlm.tokenizer.decode(i).strip() for i in ids] == ["A", "B", "C", "D"]
        assert tokens.ids[tokens.target].tolist() == [ids[label]]
