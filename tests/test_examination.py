"""Examination against the obvious way: eager attention maps of one conversation at a time."""

import dataclasses

import numpy as np
import obvious
import pytest
import torch
from engines import engine_of
from family_facts import KINDS, tiny
from PIL import Image

from headimpact.data import coco
from headimpact.data.samples import Sample, key_object
from headimpact.data.scene_dataset import write_scenes
from headimpact.errors import InputError
from headimpact.impact import examination, variations
from headimpact.impact.scoring import ChanceSettings, Skipped, score_images
from headimpact.vlm.base import Vlm

THRESHOLD, DRAWS, SEED = 0.5, 3, 11
CHANCE = ChanceSettings(THRESHOLD, DRAWS, SEED)
WAYS = variations.variations(THRESHOLD)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 4, "train": 1, "val": 1, "test": 1}, seed=0)
    return coco.read_part(folder, "impact")


@pytest.fixture(scope="module", params=KINDS)
def vlm(request) -> Vlm:
    return tiny(request.param)


@pytest.fixture(scope="module")
def smolvlm() -> Vlm:
    return tiny("idefics3")


def examined(vlm: Vlm, samples: list[Sample], everything: list[Sample] | None = None):
    return examination.examine(engine_of(vlm), samples, WAYS, everything or samples, CHANCE)


def naive(vlm: Vlm, samples: list[Sample]) -> dict[str, list[variations.Scores]]:
    """Image by image, from eager attention."""
    found: dict[str, list[variations.Scores]] = {way.name: [] for way in WAYS}
    for sample in samples:
        encoded = vlm.encode_image(sample.image())
        others = [obj for other in samples if other.id != sample.id for obj in other.objects]
        maps: dict[str, list[torch.Tensor]] = {"phrase": [], "last token": [], "answer": []}
        foreign = []
        for obj in sample.objects:
            tokens = vlm.tokenize(vlm.caption(obj.phrase), encoded.grid)
            attention = obvious.attention_maps(vlm, tokens, encoded)
            for rows, queries in (
                ("phrase", tokens.target),
                ("last token", tokens.target[-1]),
                ("answer", tokens.answer),
            ):
                wanted = [int(query) for query in torch.atleast_1d(queries)]
                maps[rows].append(torch.stack([attention[:, :, query][..., tokens.visual] for query in wanted]).mean(0))
            drawn = np.random.default_rng([SEED, obj.id]).integers(len(others), size=DRAWS)
            pictures = [Image.fromarray(others[index].mask().astype(np.uint8)) for index in drawn]
            resized = [p.resize((sample.width, sample.height), Image.Resampling.NEAREST) for p in pictures]
            foreign.append(vlm.coverages([np.asarray(picture).astype(bool) for picture in resized]))
        covered = vlm.coverages([obj.mask() for obj in sample.objects])
        down, across = np.mgrid[: sample.height, : sample.width] + 0.5
        round_ = (across / sample.width - 0.5) ** 2 + (down / sample.height - 0.5) ** 2 < 1 / 16
        blob = vlm.coverages([round_])[0] >= 0.5
        for way in WAYS:
            attention = torch.stack(maps[way.rows])
            found[way.name].append(variations.score(way, attention, covered, torch.stack(foreign), blob))
    return found


def together(of_images: list[variations.Scores]) -> variations.Scores:
    names = variations.SCORES
    return variations.Scores(**{name: np.concatenate([getattr(one, name) for one in of_images]) for name in names})


def test_scores_equal_the_obvious_way(vlm, samples):
    found = examined(vlm, samples[:3])
    expected = naive(vlm, samples[:3])
    assert found.image_ids.tolist() == [sample.id for sample in samples[:3] for _ in sample.objects]
    assert found.object_ids.tolist() == [obj.id for sample in samples[:3] for obj in sample.objects]
    for way in WAYS:
        scores, wanted = found.scores[way.name], together(expected[way.name])
        np.testing.assert_array_equal(scores.blob, wanted.blob)
        np.testing.assert_array_equal(scores.ones, wanted.ones)
        # A tie at the threshold may flip a token.
        assert (np.abs(scores.iou - wanted.iou) > 1e-6).mean() < 0.02, way.name
        np.testing.assert_allclose(scores.hi, wanted.hi, atol=0.05, err_msg=way.name)


def test_the_definition_is_what_score_found(vlm, samples):
    """The same objects, the same masks of other images, whatever subset is examined and in whatever order."""
    impact, _ = score_images(engine_of(vlm), samples, CHANCE)
    found = examined(vlm, samples[2:0:-1], everything=samples)
    assert found.object_ids.tolist() == [obj.id for sample in samples[2:0:-1] for obj in sample.objects]
    rows = [impact.object_ids.tolist().index(object_id) for object_id in found.object_ids.tolist()]
    definition = found.scores[variations.DEFINITION]
    assert found.image_ids.tolist() == impact.image_ids[rows].tolist()
    assert (np.abs(definition.iou - impact.iou[rows]) > 1e-6).mean() < 0.02
    assert (np.abs(definition.chance - impact.chance[rows]) > 1e-6).mean() < 0.02


def test_query_rows_differ_and_the_baselines_do_not(smolvlm, samples):
    found = examined(smolvlm, samples).scores
    definition = found[variations.DEFINITION]
    for name in ("rows: last phrase token", "rows: whole answer"):
        assert (found[name].iou != definition.iou).any()
        np.testing.assert_array_equal(found[name].blob, definition.blob)


def test_objects_without_a_score_are_told_with_the_reason(smolvlm, samples, tmp_path):
    Image.fromarray(np.zeros((132, 132, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    objects = tuple(key_object(900 + i, "red circle", mask, 1.0) for i, mask in enumerate((corner(), ~corner())))
    sample = Sample(900, tmp_path / "a.png", 132, 132, objects)
    found = examined(smolvlm, [samples[0], sample])
    assert found.skipped == (Skipped(900, 900, "no visual token sees the object"),)
    assert found.object_ids.tolist() == [*(obj.id for obj in samples[0].objects), 901]
    lost = dataclasses.replace(sample, objects=objects[:1])
    with pytest.raises(InputError, match="No object was examined"):
        examined(smolvlm, [lost], everything=[*samples, lost])


def corner() -> np.ndarray:
    """The last pixel: beyond what any visual token of this size sees."""
    mask = np.zeros((132, 132), dtype=bool)
    mask[131, 131] = True
    return mask


def test_a_phrase_without_tokens_is_skipped(smolvlm, samples, monkeypatch):
    victim, real = samples[0].objects[0], smolvlm.tokenize

    def tokenize(conversation, grid):
        tokens = real(conversation, grid)
        return dataclasses.replace(tokens, target=tokens.target[:0]) if victim.phrase in conversation.answer else tokens

    monkeypatch.setattr(smolvlm, "tokenize", tokenize)
    found = examined(smolvlm, samples[:2])
    assert found.skipped == (Skipped(samples[0].id, victim.id, "the phrase has no token"),)


def test_one_image_has_no_chance_level(smolvlm, samples):
    with pytest.raises(InputError, match="needs two images with objects"):
        examined(smolvlm, samples[:1])


def test_attention_that_is_not_finite_is_refused(smolvlm, samples, monkeypatch):
    real = smolvlm.image_features
    monkeypatch.setattr(smolvlm, "image_features", lambda images: [one * torch.nan for one in real(images)])
    with pytest.raises(InputError, match="not finite: load the base in float32"):
        examined(smolvlm, samples[:2])
