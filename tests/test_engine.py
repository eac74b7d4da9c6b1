"""The engine against the obvious way: one conversation per sequence, ``eager``, ``output_attentions=True``."""

import numpy as np
import obvious
import pytest
import torch
from PIL import Image

from headimpact.engine import likelihood
from headimpact.tiny import bases
from headimpact.vlm import attention, packing
from headimpact.vlm.base import Vlm
from headimpact.vlm.packing import Packed, Tokens

PHRASES = [
    "solid red circle upper left",
    "striped blue square lower right",
    "red circle",
    "dotted ring",
    "red",
]
OPTIONS = ["red circle", "blue circle", "solid blue square", "dotted red star"]


def image(seed: int, size: tuple[int, int]) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=bases.TINY)
def vlm(request) -> Vlm:
    return bases.build(request.param, 3)


# Images with one and with many objects, in batches of different sizes.
BATCHES = [
    [((160, 96), 1)],
    [((128, 128), 5)],
    [((160, 120), 3), ((96, 160), 1), ((128, 96), 5)],
]


@pytest.mark.parametrize("batch", BATCHES)
def test_packed_forward_equals_one_conversation_per_sequence(vlm, batch):
    encoded = [vlm.encode_image(image(i, size)) for i, (size, _) in enumerate(batch)]
    talks, labels = [], []
    for one, (_, objects) in zip(encoded, batch, strict=True):
        asked = [vlm.question_tokens(OPTIONS, i % 4, one.grid) for i in range(objects)]
        talks.append([vlm.tokenize(vlm.caption(p), one.grid) for p in PHRASES[:objects]] + [q for q, _ in asked])
        labels += [None] * objects + [ids for _, ids in asked]
    packed = packing.pack_images(talks, vlm.bidirectional_prompt)
    descriptions = [
        attention.Description(*_place(packed, i, j, talk[j].target), talk[j].visual)
        for i, talk in enumerate(talks)
        for j in range(len(talk) // 2)
    ]
    rows: dict[int, list[torch.Tensor]] = {}
    with torch.inference_mode():
        features = vlm.image_features(encoded)
        hidden = vlm.hidden_states(
            packed.batch,
            [features[i] for i in packed.images],
            attention.RowCapture(descriptions, lambda layer, maps: rows.__setitem__(layer, maps)),
        )
        everything = [tokens for talk in talks for tokens in talk]
        answers = likelihood.log_probabilities(vlm, packed, hidden, [tokens.answer for tokens in everything])
        options = likelihood.option_log_probabilities(vlm, packed, hidden, labels)

    assert sorted(rows) == list(range(vlm.layers))
    captured = iter(range(len(descriptions)))
    asked = iter(options)
    for index, tokens in enumerate(everything):
        one = encoded[_image_of(talks, index)]
        logs = obvious.log_probabilities(vlm, tokens, one)
        maps = obvious.attention_maps(vlm, tokens, one)
        expected = logs[tokens.answer - 1, tokens.ids[tokens.answer]]
        torch.testing.assert_close(answers[index], expected, atol=1e-4, rtol=0)
        if labels[index] is None:
            own = next(captured)
            wanted = maps[:, :, tokens.target][..., tokens.visual].mean(dim=2)
            found = torch.stack([rows[layer][own] for layer in range(vlm.layers)])
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
        else:
            wanted = logs[tokens.target[0] - 1, labels[index]]
            torch.testing.assert_close(next(asked).exp(), wanted.exp(), atol=1e-4, rtol=0)


def _place(packed: packing.PackedImages, i: int, j: int, picked: torch.Tensor) -> tuple[int, torch.Tensor]:
    row, where = packed.places[i][j]
    return row, where[picked]


def _image_of(talks: list[list[Tokens]], index: int) -> int:
    return int(np.searchsorted(np.cumsum([len(talk) for talk in talks]), index, side="right"))


def test_a_causal_decoder_shares_everything_and_a_bidirectional_one_the_prompt(vlm):
    encoded = vlm.encode_image(image(0, (128, 96)))
    captions = [vlm.tokenize(vlm.caption(phrase), encoded.grid) for phrase in PHRASES[:3]]
    questions = [vlm.question_tokens(order, 0, encoded.grid)[0] for order in (OPTIONS, OPTIONS[::-1])]
    groups = packing.pack_image([*captions, *questions], vlm.bidirectional_prompt)
    assert [group.members for group in groups] == (
        [(0, 1, 2), (3,), (4,)] if vlm.bidirectional_prompt else [(0, 1, 2, 3, 4)]
    )
    assert sum(len(group.ids) for group in groups[:1]) < sum(len(c.ids) for c in captions)


def tokens(ids: list[int], prompt: int) -> Tokens:
    """A hand-made conversation: ids 9 are visual."""
    tensor = torch.tensor(ids)
    answer = torch.arange(prompt, len(ids))
    return Tokens(tensor, torch.arange(len(ids))[None], (tensor == 9).nonzero()[:, 0], answer, answer[:1])


def as_rows(mask: torch.Tensor) -> list[str]:
    return ["".join("x" if cell else "." for cell in row) for row in mask.tolist()]


def test_a_causal_pack_by_hand():
    packed = packing.pack([tokens([9, 9, 1, 2, 3], 3), tokens([9, 9, 1, 4], 3)], [0, 1], bidirectional=False)
    assert packed.ids.tolist() == [9, 9, 1, 2, 3, 4]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert [where.tolist() for where in packed.where] == [[0, 1, 2, 3, 4], [0, 1, 2, 5]]
    assert as_rows(packed.mask) == ["x.....", "xx....", "xxx...", "xxxx..", "xxxxx.", "xxx..x"]


def test_a_bidirectional_pack_by_hand():
    """The prompt sees itself both ways; the shared start of the answers stays causal."""
    packed = packing.pack([tokens([9, 1, 5, 2], 2), tokens([9, 1, 5, 3], 2)], [0, 1], bidirectional=True)
    assert packed.ids.tolist() == [9, 1, 5, 2, 3]
    assert as_rows(packed.mask) == ["xx...", "xx...", "xxx..", "xxxx.", "xxx.x"]


def test_packing_refuses_what_cannot_share():
    with pytest.raises(ValueError, match="share their image"):
        packing.pack([tokens([9, 9, 1], 2), tokens([8, 9, 1], 2)], [0, 1], bidirectional=False)
    with pytest.raises(ValueError, match="share their prompt"):
        packing.pack([tokens([9, 1, 2], 2), tokens([9, 3, 2], 2)], [0, 1], bidirectional=True)


def test_padding_changes_nothing_and_sees_itself():
    packs: list[Packed] = [
        packing.pack([tokens([9, 1, 2], 2)], [0], bidirectional=False),
        packing.pack([tokens([9, 1, 2, 3, 4], 2)], [0], bidirectional=False),
    ]
    batch = packing.collate(packs)
    assert batch.ids.tolist() == [[9, 1, 2, 0, 0], [9, 1, 2, 3, 4]]
    assert as_rows(batch.mask[0, 0]) == ["x....", "xx...", "xxx..", "...x.", "....x"]


def test_softmax_rows_against_a_naive_loop():
    torch.manual_seed(0)
    query, key = torch.randn(4, 3, 8), torch.randn(2, 5, 8)
    mask = torch.rand(3, 5) > 0.3
    mask[:, 0] = True
    for softcap in (None, 2.0):
        found = attention.softmax_rows(query, key, mask, 0.25, softcap)
        for head in range(4):
            for row in range(3):
                scores = torch.tensor([float(query[head, row] @ key[head // 2, k]) * 0.25 for k in range(5)])
                if softcap:
                    scores = softcap * torch.tanh(scores / softcap)
                weights = torch.where(mask[row], scores.exp(), 0.0)
                torch.testing.assert_close(found[head, row], weights / weights.sum())


def test_softcapped_attention_in_chunks_equals_the_whole(monkeypatch):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 7, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8)
    mask = torch.ones(7, 7, dtype=torch.bool).tril().expand(2, 1, 7, 7)
    whole = attention.softcapped_attention(query, key, value, mask, 0.3, 5.0)
    monkeypatch.setattr(attention, "QUERY_CHUNK", 2)
    torch.testing.assert_close(attention.softcapped_attention(query, key, value, mask, 0.3, 5.0), whole)


def test_native_generation_runs_through_the_same_attention(vlm):
    """The answer generated with the cache equals the greedy continuation without it."""
    picture = image(0, (128, 96))
    encoded = vlm.encode_image(picture)
    prompt = vlm.prompt("What is this photo?", encoded.grid)
    ids = prompt.ids
    with torch.inference_mode():
        for _ in range(4):
            grown = Tokens(
                ids,
                vlm.position_ids(ids, encoded.grid),
                prompt.visual,
                torch.arange(len(prompt.ids), len(ids)),
                ids[:0],
            )
            inputs = vlm.native_inputs(grown, encoded)
            ids = torch.cat([ids, vlm.model(**inputs, use_cache=False).logits[0, -1:].argmax(-1)])
    expected = vlm.tokenizer.decode(ids[len(prompt.ids) :], skip_special_tokens=True).strip()
    assert vlm.generate(picture, "What is this photo?", max_new_tokens=4, do_sample=False) == expected
