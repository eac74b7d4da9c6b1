"""Scores of attention heads: hand-drawn grids, naive loops, invariants."""

import numpy as np
import pytest
import torch
from scipy import stats

from headimpact.impact.layer_scores import auroc, binarise, iou, mass, score_layer

SCORES = ("iou", "chance", "auroc", "mass")


def grid(picture: str) -> torch.Tensor:
    """A drawn grid as one flat row of tokens: digits are attention, # is object, . is 0."""
    return torch.tensor([1.0 if c == "#" else float(c.replace(".", "0")) for c in picture if not c.isspace()])


MASK = grid("""
    ##..
    ##..
    ....
    ....
""").bool()

# mean 2.0: the four 5s and the two 3s are above it, the 2s are not
ATTENTION = grid("""
    5533
    5511
    2110
    .000
""")


def random_case(seed: int = 0, objects: int = 4, heads: int = 3, tokens: int = 20, draws: int = 5):
    generator = torch.Generator().manual_seed(seed)
    # few distinct values, so that ties are everywhere; binary fractions, so that sums are exact
    attention = torch.randint(0, 6, (objects, heads, tokens), generator=generator).float() / 64
    masks = torch.rand(objects, tokens, generator=generator) < 0.3
    foreign = torch.rand(objects, draws, tokens, generator=generator) < 0.3
    masks[:, 0], foreign[..., 1] = True, True
    masks[:, -1] = False
    return attention, masks, foreign


def naive_bits(row: list[float]) -> list[bool]:
    mean = float(np.float32(sum(row) / len(row)))
    return [value > mean for value in row]


def naive_iou(bits: list[bool], mask: list[bool]) -> float:
    both = sum(1 for b, m in zip(bits, mask, strict=True) if b and m)
    either = sum(1 for b, m in zip(bits, mask, strict=True) if b or m)
    return both / either


def naive_auroc(row: list[float], mask: list[bool]) -> float:
    wins = [
        1.0 if inside > outside else 0.5 if inside == outside else 0.0
        for inside, on in zip(row, mask, strict=True)
        if on
        for outside, other in zip(row, mask, strict=True)
        if not other
    ]
    return sum(wins) / len(wins)


def naive_mass(row: list[float], mask: list[bool]) -> float:
    on_object = sum(value for value, on in zip(row, mask, strict=True) if on)
    return (on_object / sum(row)) / (sum(mask) / len(mask))


# --- by hand -----------------------------------------------------------------------------------------


def test_hand_drawn_grid():
    # 6 bits, 4 of them on the 4 tokens of the object
    assert ATTENTION.mean() == 2.0
    assert binarise(ATTENTION).sum() == 6
    assert iou(binarise(ATTENTION), MASK).item() == pytest.approx(4 / 6)
    # the four 5s are above all 12 other tokens
    assert auroc(ATTENTION[None, None], MASK[None]).item() == 1.0
    # 20 of 32 units of attention on 4 of 16 tokens
    assert mass(ATTENTION[None, None], MASK[None]).item() == pytest.approx((20 / 32) / (4 / 16))


def test_hand_drawn_half_hit_with_ties():
    mask = grid("""
        ....
        .##.
        .##.
        ....
    """).bool()
    attention = grid("""
        ....
        .44.
        .00.
        ...8
    """)
    # mean 1: bits are the two 4s and the 8; 2 shared, 4 + 1 in all
    assert iou(binarise(attention), mask).item() == pytest.approx(2 / 5)
    # each 4 beats eleven 0s and loses to the 8; each 0 ties eleven 0s and loses to the 8: (22 + 11) / 48
    assert auroc(attention[None, None], mask[None]).item() == pytest.approx((2 * 11 + 2 * 5.5) / 48)
    # 8 of 16 units on a quarter of the tokens
    assert mass(attention[None, None], mask[None]).item() == pytest.approx(2.0)


def test_no_overlap_is_zero():
    attention = grid("00000000 00000099")
    assert iou(binarise(attention), MASK).item() == 0.0
    assert mass(attention[None, None], MASK[None]).item() == 0.0


@pytest.mark.parametrize("tokens", [3, 7, 49, 391, 1053])
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-7])
def test_uniform_attention_is_above_its_mean_nowhere(tokens: int, value: float):
    uniform = torch.full((2, tokens), value)
    assert not binarise(uniform).any()
    mask = torch.arange(tokens)[None] < 1
    assert auroc(uniform[None], mask).tolist() == [[0.5, 0.5]]


def test_binarise_is_strict():
    assert binarise(torch.tensor([1.0, 2.0, 3.0])).tolist() == [False, False, True]


# --- against naive loops -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_score_layer_equals_naive_loops(seed: int):
    attention, masks, foreign = random_case(seed)
    scores = score_layer(attention, masks, foreign)
    for d in range(attention.shape[0]):
        mask = masks[d].tolist()
        for h in range(attention.shape[1]):
            row = attention[d, h].tolist()
            bits = naive_bits(row)
            chances = [naive_iou(bits, other.tolist()) for other in foreign[d]]
            assert scores.iou[d, h].item() == pytest.approx(naive_iou(bits, mask), rel=1e-6)
            assert scores.chance[d, h].item() == pytest.approx(sum(chances) / len(chances), rel=1e-6)
            assert scores.auroc[d, h].item() == pytest.approx(naive_auroc(row, mask), rel=1e-6)
            assert scores.mass[d, h].item() == pytest.approx(naive_mass(row, mask), rel=1e-5)


def test_auroc_equals_scipy_ranks_and_mann_whitney():
    attention, masks, _ = random_case(9, objects=2, heads=2, tokens=300)
    ours = auroc(attention, masks)
    for d in range(2):
        mask = masks[d].numpy()
        inside, outside = int(mask.sum()), int((~mask).sum())
        for h in range(2):
            row = attention[d, h].numpy()
            ranks = stats.rankdata(row)
            by_ranks = (ranks[mask].sum() - inside * (inside + 1) / 2) / (inside * outside)
            by_scipy = stats.mannwhitneyu(row[mask], row[~mask]).statistic / (inside * outside)
            assert ours[d, h].item() == pytest.approx(by_ranks, rel=1e-6)
            assert ours[d, h].item() == pytest.approx(by_scipy, rel=1e-6)


@pytest.mark.slow
def test_iou_broadcasts_over_foreign_masks():
    attention, _, foreign = random_case(3)
    bits = binarise(attention)
    together = iou(bits[:, :, None], foreign[:, None])
    assert together.shape == (4, 3, 5)
    for draw in range(5):
        torch.testing.assert_close(together[..., draw], iou(bits, foreign[:, draw][:, None]))


# --- invariants --------------------------------------------------------------------------------------


def test_permuting_heads_permutes_scores():
    attention, masks, foreign = random_case(1)
    order = torch.tensor([2, 0, 1])
    plain, permuted = score_layer(attention, masks, foreign), score_layer(attention[:, order], masks, foreign)
    assert not torch.equal(plain.iou, permuted.iou)
    for name in SCORES:
        assert torch.equal(getattr(plain, name)[:, order], getattr(permuted, name))


def test_permuting_tokens_together_changes_nothing():
    attention, masks, foreign = random_case(2, tokens=64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    plain = score_layer(attention, masks, foreign)
    permuted = score_layer(attention[..., order], masks[:, order], foreign[..., order])
    for name in SCORES:
        torch.testing.assert_close(getattr(plain, name), getattr(permuted, name))


def test_scaling_attention_changes_nothing():
    attention, masks, foreign = random_case(4)
    plain, scaled = score_layer(attention, masks, foreign), score_layer(attention / 1024, masks, foreign)
    for name in SCORES:
        torch.testing.assert_close(getattr(plain, name), getattr(scaled, name))


def test_complement_mirrors_auroc():
    attention, masks, _ = random_case(5)
    torch.testing.assert_close(auroc(attention, ~masks), 1 - auroc(attention, masks))


def test_scores_do_not_care_for_memory_layout():
    attention, masks, foreign = random_case(6)
    strided = attention.transpose(0, 2).contiguous().transpose(0, 2)
    assert not strided.is_contiguous()
    plain, other = score_layer(attention, masks, foreign), score_layer(strided, masks, foreign)
    for name in SCORES:
        torch.testing.assert_close(getattr(plain, name), getattr(other, name))


# --- undefined scores --------------------------------------------------------------------------------


def test_auroc_of_full_or_empty_mask_is_nan():
    attention, masks, _ = random_case(7)
    masks[0], masks[1] = True, False
    scores = auroc(attention, masks)
    assert scores[:2].isnan().all()
    assert scores[2:].isfinite().all()


def test_empty_mask_and_broken_attention_are_nan_not_zero():
    attention, masks, foreign = random_case(8)
    masks[0] = False
    attention[1, 2, 5] = torch.nan
    attention[2, 1, 5] = torch.inf
    scores = score_layer(attention, masks, foreign)
    undefined = torch.zeros(4, 3, dtype=torch.bool)
    undefined[0], undefined[1, 2], undefined[2, 1] = True, True, True
    assert torch.equal(scores.iou.isnan(), undefined)


def test_empty_foreign_masks_are_left_out_of_chance():
    attention, masks, foreign = random_case(8)
    expected = score_layer(attention, masks, foreign[:, 1:]).chance
    foreign[:, 0] = False
    torch.testing.assert_close(score_layer(attention, masks, foreign).chance, expected)
    foreign[2] = False
    assert score_layer(attention, masks, foreign).chance.isnan().any(1).tolist() == [
        False,
        False,
        True,
        False,
    ]
