"""From images to numbers: the same, whatever goes together, whoever prepares it, and whatever was kept."""

import copy
import multiprocessing
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import obvious
import pytest
import torch
from family_facts import EMBEDDED, families, fresh, tiny
from safetensors.torch import load_file

from headimpact.adapters import lora
from headimpact.data import coco
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine.forward import Engine, EngineSettings, Forward, Prepared
from headimpact.engine.frozen import Disk, Memory, fingerprint
from headimpact.engine.phrases import backward, captions, phrase_nll
from headimpact.engine.stream import stream
from headimpact.engine.watch import unwatched
from headimpact.errors import InputError
from headimpact.evaluation.objects import evaluate
from headimpact.impact.scoring import ChanceSettings, score_images
from headimpact.vlm import packing
from headimpact.vlm.base import Vlm
from headimpact.vlm.families import FAMILIES

PHRASES = ("red circle", "the large blue square on the left", "star", "a small green cross below it")
CHANCE = ChanceSettings(threshold=0.5, draws=2, seed=0)
# float32: a sum in another order.
CLOSE = 2e-5


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 1, "train": 1, "val": 1, "test": 6}, seed=0)
    return coco.read_part(folder, "test")


@pytest.fixture(scope="module", params=EMBEDDED)
def vlm(request: pytest.FixtureRequest) -> Vlm:
    return fresh(request.param)


@pytest.fixture(scope="module")
def smolvlm() -> Vlm:
    return fresh("idefics3")


def crowded(sample: Sample, count: int) -> Sample:
    """The image with that many objects; phrases of different lengths."""
    objects = tuple(
        replace(sample.objects[i % len(sample.objects)], id=i + 1, phrase=f"{PHRASES[i % len(PHRASES)]} {i}")
        for i in range(count)
    )
    return replace(sample, objects=objects)


def losses(vlm: Vlm, samples: list[Sample], **settings: int) -> dict[int, float]:
    engine = Engine(vlm, EngineSettings(**settings))
    return {obj.id: nll for _, obj, nll, _ in phrase_nll(engine, engine.load(samples, captions(vlm)))}


# ---- many objects


@pytest.mark.parametrize("count", [1, 3, 10, 60, 300])
def test_any_number_of_objects_gives_the_numbers_of_one_at_a_time(vlm: Vlm, samples: list[Sample], count: int) -> None:
    image = crowded(samples[0], count)
    found = losses(vlm, [image])
    encoded = vlm.encode_image(image.image())
    assert list(found) == [obj.id for obj in image.objects]
    for obj in image.objects[:: max(1, count // 5)]:
        assert found[obj.id] == pytest.approx(obvious.phrase_nll(vlm, obj.phrase, encoded), abs=1e-4)


def test_sequences_stay_short_whatever_the_number_of_objects(vlm: Vlm, samples: list[Sample]) -> None:
    lengths = {}
    for count in (1, 100, 300):
        image = crowded(samples[0], count)
        prepared = captions(vlm)(image, vlm.grid(image.width, image.height))
        assert prepared is not None
        packed = packing.pack_image(prepared.conversations, vlm.prompt_attention)
        assert sorted(index for one in packed for index in one.members) == list(range(count))
        lengths[count] = [len(one.ids) for one in packed]
    trunk = lengths[1][0]
    assert max(lengths[300]) <= trunk + max(trunk, packing.SHORT_TRUNK)
    # ... so that attention, the square of the length, grows as the number of objects does.
    pairs = {count: sum(length**2 for length in of) for count, of in lengths.items()}
    assert pairs[300] == pytest.approx(3 * pairs[100], rel=0.15)


def test_scores_of_many_objects_equal_those_of_one_at_a_time(smolvlm: Vlm, samples: list[Sample]) -> None:
    other, crowd = samples[1], crowded(samples[0], 60)
    crowd = replace(crowd, objects=tuple(replace(obj, id=1000 + obj.id) for obj in crowd.objects))
    together, _ = score_images(Engine(smolvlm), [crowd, other], CHANCE)
    for index in (0, 31, 59):
        single = replace(crowd, objects=(crowd.objects[index],))
        alone, _ = score_images(Engine(smolvlm), [single, other], CHANCE)
        assert alone.object_ids[0] == together.object_ids[index]
        np.testing.assert_allclose(alone.auroc[0], together.auroc[index], atol=1e-6)
        np.testing.assert_allclose(alone.mass[0], together.mass[index], rtol=1e-4)
        assert np.isclose(alone.iou[0], together.iou[index], atol=1e-6).mean() > 0.99  # a tie may flip one token


# ---- what goes together


@pytest.mark.parametrize("tokens", [1, 700, 100_000])
def test_results_do_not_depend_on_how_much_goes_together(vlm: Vlm, samples: list[Sample], tokens: int) -> None:
    expected = losses(vlm, samples)
    found = losses(vlm, samples, batch_tokens=tokens)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=CLOSE)


def test_forwards_hold_sequences_of_like_length_up_to_the_bound() -> None:
    lengths = [90, 30, 100, 32, 95, 250]
    assert packing.forwards(lengths, 200) == [[1, 3], [0, 4], [2], [5]]
    assert packing.forwards(lengths, 1) == [[1], [3], [0], [4], [2], [5]]
    assert packing.forwards([], 10) == []


def test_where_memory_is_too_small_the_bound_is_halved_and_told(smolvlm: Vlm, samples: list[Sample]) -> None:
    told: list[str] = []
    engine = Engine(smolvlm, EngineSettings(batch_tokens=100_000), tell=told.append)
    sizes: list[int] = []

    def read(forward: Forward[None]) -> list[int]:
        sizes.append(forward.packed.batch.ids.numel())
        if len(forward.sequences) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [len(tokens.ids) for tokens in forward.packed.tokens]

    found = [lengths for _, lengths in engine.read(engine.load(samples, captions(smolvlm)), read)]
    prepared = captions(smolvlm)
    for lengths, sample in zip(found, samples, strict=True):
        expected = prepared(sample, smolvlm.grid(sample.width, sample.height))
        assert expected is not None
        assert lengths == [len(tokens.ids) for tokens in expected.conversations]
    assert told == [
        f"The device's memory is too small: from here on at most {bound} tokens in a forward."
        for bound in _halved(told)
    ]
    assert engine.batch_tokens < sizes[0] / 2 + max(sizes)
    assert len(told) >= 1


def _halved(told: list[str]) -> list[int]:
    bounds = [int(text.split("at most ")[1].split()[0]) for text in told]
    assert bounds == sorted(bounds, reverse=True)
    return bounds


def test_where_memory_is_too_small_for_one_sequence_it_is_said(smolvlm: Vlm, samples: list[Sample]) -> None:
    engine = Engine(smolvlm, tell=lambda text: None)

    def read(forward: Forward[None]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InputError, match=r"too small for one sequence of \d+ tokens \(image \d+\): CUDA out of memory"):
        list(engine.read(engine.load(samples[:3], captions(smolvlm)), read))


# ---- workers


def test_workers_give_the_same_bytes(vlm: Vlm, samples: list[Sample]) -> None:
    expected = evaluate(Engine(vlm), samples, 0, unwatched)
    found = evaluate(Engine(vlm, EngineSettings(workers=2, prefetch=1)), samples, 0, unwatched)
    assert found.equals(expected)


def test_what_a_worker_refuses_is_said_in_its_words(smolvlm: Vlm, samples: list[Sample], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(samples[1].path.read_bytes()[:100])
    images = [samples[0], replace(samples[1], path=broken), samples[2]]
    messages = []
    for workers in (0, 2):
        engine = Engine(smolvlm, EngineSettings(workers=workers))
        with pytest.raises(InputError) as refused:
            list(engine.load(images, captions(smolvlm)))
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert "broken.png" in messages[0]
    assert "Traceback" not in messages[0]


def test_items_come_out_in_order_and_no_worker_stays() -> None:
    before, processes = threading.active_count(), multiprocessing.active_children()
    assert list(stream(range(20), lambda item: item * 2, workers=2)) == [item * 2 for item in range(20)]
    assert multiprocessing.active_children() == processes
    given_up = time.monotonic() + 10  # threads that feed workers end by themselves, a moment later
    while threading.active_count() > before and time.monotonic() < given_up:
        time.sleep(0.01)
    assert threading.active_count() <= before
    assert list(stream([], lambda item: item, workers=2)) == []


# ---- a part of the layers


@families()
def test_layers_that_are_skipped_or_left_out_change_nothing(family: str, samples: list[Sample]) -> None:
    vlm = tiny(family)
    sample = samples[0]
    prepared = captions(vlm)(sample, vlm.grid(sample.width, sample.height))
    assert prepared is not None
    packed = packing.pack_images([prepared.conversations], vlm.prompt_attention)
    with torch.no_grad():
        features = vlm.image_features([vlm.encode_image(sample.image())]) * len(packed.images)
        embeddings = vlm.embeddings(packed.batch, features)
        expected = vlm.hidden_states(packed.batch, embeddings)
        layers = list(vlm.decoder.get_submodule("layers").children())
        starts = sorted({vlm.begins_at(first) for first in range(1, vlm.layers)})
        assert starts[0] == 1
        for first in starts:
            states = vlm.states_entering(first, packed.batch, embeddings)
            assert torch.equal(vlm.hidden_states(packed.batch, states, first=first), expected)
        assert list(vlm.decoder.get_submodule("layers").children()) == layers
        assert vlm.states_entering(0, packed.batch, embeddings) is embeddings


# Both at once in every family; each alone has nothing of a family in it that the forward above does not show.
GRADIENTS = [(family, 1, True) for family in FAMILIES] + [("idefics3", 0, True), ("qwen3_vl", 0, True)]
GRADIENTS += [("idefics3", 1, False), ("qwen3_vl", 1, False)]


@pytest.mark.parametrize(("family", "first", "checkpointing"), GRADIENTS)
def test_gradients_are_those_of_all_layers(family: str, samples: list[Sample], first: int, checkpointing: bool) -> None:
    vlm = tiny(family)

    def gradients(first: int, rounds: int, checkpointing: bool) -> dict[str, torch.Tensor]:
        base = copy.copy(vlm)
        base.model = copy.deepcopy(vlm.model)
        if checkpointing:
            base.checkpoint_gradients()
        adapter = lora.attach(base, [1, 3], lora.LoraSettings(4, 8, ("q_proj", "v_proj")), seed=1)
        engine = Engine(base, EngineSettings(batch_tokens=600), first=first)
        prepare = captions(base)
        for _ in range(rounds):
            adapter.zero_grad()
            backward(engine, engine.load(samples[:3], prepare, keep=True), lambda loss: loss.backward())
        assert (engine.frozen.found > 0) == (rounds > 1)
        return {name: p.grad for name, p in adapter.named_parameters() if p.requires_grad and p.grad is not None}

    expected = gradients(0, 1, False)
    found = gradients(first, 2, checkpointing)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


def test_what_is_kept_after_an_evaluation_can_be_trained_on(smolvlm: Vlm, samples: list[Sample]) -> None:
    base = copy.copy(smolvlm)
    base.model = copy.deepcopy(smolvlm.model)
    lora.attach(base, [3], lora.LoraSettings(4, 8, ("q_proj",)), seed=1)
    engine = Engine(base, first=3)
    evaluate(engine, samples, 0, unwatched)
    images = list(engine.load(samples, captions(base)))
    nll, tokens = backward(engine, images, lambda loss: loss.backward())
    assert np.isfinite(nll)
    assert tokens > 0


# ---- what is kept


def test_memory_keeps_what_fits_and_nothing_more() -> None:
    memory = Memory(10)
    assert memory.put("a", 1, 6)
    assert not memory.put("b", 2, 5)
    assert memory.put("c", 3, 4)
    assert (memory.get("a"), memory.get("b"), memory.get("c"), memory.used) == (1, None, 3, 10)


def test_an_image_is_read_once_in_a_process(
    smolvlm: Vlm, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, prepare = Engine(smolvlm, first=3), captions(smolvlm)
    before = list(phrase_nll(engine, engine.load(samples, prepare, keep=True)))
    monkeypatch.setattr(Sample, "image", lambda sample: pytest.fail("it was read again"))
    monkeypatch.setattr(smolvlm.chat.__class__, "tokenize", lambda *_: pytest.fail("it was tokenised again"))
    again = list(phrase_nll(engine, engine.load(samples[::-1], prepare)))
    assert {obj.id: nll for _, obj, nll, _ in again} == {obj.id: nll for _, obj, nll, _ in before}


def test_images_loaded_ahead_go_through_the_vision_tower_once(
    smolvlm: Vlm, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(smolvlm)
    images = list(engine.load(samples, captions(smolvlm)))
    before = list(phrase_nll(engine, images))
    monkeypatch.setattr(smolvlm.__class__, "image_features", lambda *_: pytest.fail("it was seen again"))
    assert list(phrase_nll(engine, images)) == before


def test_features_are_kept_on_disk_from_process_to_process(
    smolvlm: Vlm, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = copy.copy(smolvlm)
    known.digest = "d" * 64
    settings = EngineSettings(disk_mb=50)

    def run() -> tuple[dict[int, float], Engine]:
        engine = Engine(known, settings, folder=tmp_path)
        return {o.id: n for _, o, n, _ in phrase_nll(engine, engine.load(samples, captions(known)))}, engine

    expected, _ = run()
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == len(samples)
    with monkeypatch.context() as patch:
        patch.setattr(Sample, "image", lambda sample: pytest.fail("it was read again"))
        found, engine = run()
    assert (found, engine.frozen.computed) == (expected, 0)
    files[0].write_bytes(files[0].read_bytes()[:100])  # torn: not believed, computed again
    found, engine = run()
    assert (found, engine.frozen.computed) == (expected, 1)
    assert load_file(files[0])
    # An image of the same name with other pixels is another image.
    changed = replace(samples[0], path=tmp_path / "other.png")
    samples[1].image().resize((changed.width, changed.height)).save(changed.path)
    engine = Engine(known, settings, folder=tmp_path)
    list(phrase_nll(engine, engine.load([changed], captions(known))))
    assert engine.frozen.computed == 1


def test_the_disk_takes_no_more_than_its_bound(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "base", 5000)
    assert disk.put("a", torch.zeros(1000))
    assert not disk.put("b", torch.zeros(1000))
    assert disk.get("b") is None
    again = Disk(tmp_path / "other", 5000)  # the bound is that of all bases
    assert not again.put("c", torch.zeros(1000))


def test_what_frozen_tensors_depend_on(smolvlm: Vlm) -> None:
    assert fingerprint(smolvlm) is None  # weights of no digest
    known = copy.copy(smolvlm)
    known.digest = "d" * 64
    found = {fingerprint(known)}
    other = copy.copy(known)
    other.digest = "e" * 64
    found.add(fingerprint(other))
    half = copy.copy(known)
    half.model = copy.deepcopy(known.model).to(torch.bfloat16)
    found.add(fingerprint(half))
    resized = copy.copy(known)
    resized.image_processor = copy.deepcopy(known.image_processor)
    resized.image_processor.image_mean = [0.1, 0.1, 0.1]
    found.add(fingerprint(resized))
    assert len(found) == 4
    assert None not in found


# ---- an image without anything to say


def test_images_without_objects_say_nothing(smolvlm: Vlm, samples: list[Sample]) -> None:
    nothing = replace(samples[0], objects=())
    engine = Engine(smolvlm)
    assert [s.id for s, *_ in phrase_nll(engine, engine.load([nothing, samples[1]], captions(smolvlm)))] == [
        samples[1].id
    ] * len(samples[1].objects)

    def silent(sample: Sample, grid) -> Prepared[None]:
        return Prepared(sample, [], None)

    assert [(p.sample.id, values) for p, values in engine.read(engine.load([nothing], silent), lambda f: [])] == [
        (nothing.id, [])
    ]
