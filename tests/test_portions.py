"""Work in portions: what was done is not done again, and what is not whole is not believed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from engines import engine_of
from family_facts import tiny

from headimpact.data import coco
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine import forward, portions
from headimpact.engine.forward import Engine, Loaded
from headimpact.engine.phrases import captions
from headimpact.engine.portions import Arrays, Kept, go_over, join, spread
from headimpact.errors import InputError
from headimpact.files import write_json
from headimpact.impact import variations
from headimpact.impact.examination import examine
from headimpact.impact.scoring import ChanceSettings, score_images
from headimpact.lifecycle import layout, params
from headimpact.lifecycle.config import Job
from headimpact.lifecycle.steps.inputs import kept_portions
from headimpact.processes import Processes
from headimpact.selection.measures import measure

CHANCE = ChanceSettings(0.5, 2, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 7, "train": 1, "val": 1, "test": 1}, seed=0)
    return folder


@pytest.fixture(scope="module")
def samples(folder) -> list[Sample]:
    return coco.read_part(folder, "impact")


@pytest.fixture
def pairs(monkeypatch) -> None:
    """Two images a portion."""
    monkeypatch.setattr(forward, "WINDOW", 2)
    monkeypatch.setattr(portions, "WINDOW", 2)


@pytest.fixture
def kept(tmp_path) -> Kept:
    return Kept(tmp_path / "kept", {"base": "a"})


def ids(images: Iterator[Loaded[None]]) -> Arrays:
    return {"ids": np.array([image.prepared.sample.id for image in images])}


# ---- what is kept


def test_what_was_kept_comes_back_to_the_byte(kept):
    arrays = {"iou": np.array([[0.1, np.nan]], dtype=np.float32), "reason": np.array(["é"]), "none": np.empty((0, 3))}
    kept.put(3, arrays)
    assert kept.numbers() == [3]
    found = kept.get(3)
    assert list(found) == list(arrays)
    for name, values in arrays.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        assert found[name].tobytes() == values.tobytes()
    kept.remove()
    assert not kept.folder.exists()
    kept.remove()


def test_a_file_that_is_not_whole_is_not_believed(kept):
    for number in range(3):
        kept.put(number, {"iou": np.arange(1000.0)})
    cut, changed, _ = sorted(kept.folder.rglob("*.npz"))
    cut.write_bytes(cut.read_bytes()[:-100])
    content = bytearray(changed.read_bytes())
    content[500] ^= 1
    changed.write_bytes(content)
    assert kept.numbers() == [2]


def test_results_of_other_facts_are_not_believed(kept):
    kept.put(0, {"iou": np.zeros(1)})
    other = Kept(kept.folder, {"base": "b"})
    assert other.numbers() == []
    other.remove()
    assert kept.numbers() == []


# ---- going on


def test_images_stay_in_order_and_in_their_portions(samples, pairs):
    engine = engine_of(tiny("idefics3"))
    nothing = Sample(samples[2].id, samples[2].path, samples[2].width, samples[2].height, ())
    shown: list[int] = []

    def watch(images, total, what):
        for image in images:
            shown.append(total)
            yield image

    given = [*samples[:2], nothing, *samples[3:]]
    found = go_over(engine, given, captions(engine.vlm), ids, watch, "looking")
    of_portions = [part["ids"].tolist() for part in found]
    assert of_portions == [[s.id for s in samples[:2]], [samples[3].id], [s.id for s in samples[4:6]], [samples[6].id]]
    assert shown == [7] * 6


def test_what_a_portion_leaves_unread_is_no_image_of_the_next(samples, pairs):
    engine = engine_of(tiny("idefics3"))
    found = go_over(engine, samples, captions(engine.vlm), lambda images: next(images).prepared.sample.id)
    assert list(found) == [sample.id for sample in samples[::2]]


WORKS: dict[str, Callable[[Engine, list[Sample], Kept | None], Any]] = {
    "score": lambda engine, samples, kept: vars(score_images(engine, samples, CHANCE, kept=kept)[0]),
    "measure": lambda engine, samples, kept: measure(engine, samples, ("q_proj",), kept=kept).values,
    "examine": lambda engine, samples, kept: {
        f"{name} {column}": values
        for name, scores in examine(
            engine, samples, variations.variations(0.5), samples, CHANCE, kept=kept
        ).scores.items()
        for column, values in vars(scores).items()
    },
}


class KilledError(Exception):
    """In the place of kill -9."""


@pytest.mark.parametrize("work", WORKS)
def test_killed_work_goes_on_and_ends_with_the_same_bytes(samples, pairs, kept, monkeypatch, work):
    vlm, told = tiny("idefics3"), []
    undisturbed = WORKS[work](engine_of(vlm), samples, None)
    real, loads = Kept.put, []

    def killed(self, number, arrays):
        if number == 2:
            raise KilledError
        real(self, number, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(Kept, "put", killed)
        with pytest.raises(KilledError):
            WORKS[work](engine_of(vlm), samples, kept)
    engine = Engine(vlm, tell=told.append)
    load = engine.load
    monkeypatch.setattr(engine, "load", lambda left, *rest: loads.append([s.id for s in left]) or load(left, *rest))
    found = WORKS[work](engine, samples, kept)
    assert loads == [[sample.id for sample in samples[4:]]]
    assert told == ["Going on where it was: 4 of 7 images are done."]
    assert list(found) == list(undisturbed)
    for name, values in undisturbed.items():
        assert np.asarray(found[name]).tobytes() == np.asarray(values).tobytes(), name


def test_nothing_at_all_can_be_kept(kept):
    """A portion whose images were all left out."""
    kept.put(0, join(iter([])))
    assert (kept.numbers(), kept.get(0)) == ([0], {})


# ---- several processes


def test_processes_that_see_different_folders_do_what_nobody_has_done(tmp_path):
    """Of five pieces the first process has kept one and the second two."""
    done = [[1], [0, 4]]
    computed: list[list[int]] = []

    @dataclass(frozen=True)
    class Pretended(Processes):
        def gather(self, value):
            return done

        def give(self, value, source=0):
            return (source, value)

    for rank in (0, 1):
        kept = Kept(tmp_path / str(rank), {})
        for number in done[rank]:
            kept.put(number, {"piece": np.array([number])})

        def compute(numbers):
            computed.append(list(numbers))
            return ({"piece": np.array([number])} for number in numbers)

        given = list(spread(Pretended(rank, 2), 5, compute, kept))
        assert [source for source, _ in given] == [1, 0, 0, 1, 1]
        own = [(place, int(value["piece"][0])) for place, (source, value) in enumerate(given) if source == rank]
        assert own == [(place, place) for place, source in enumerate([1, 0, 0, 1, 1]) if source == rank]
    assert computed == [[2], [3]]


# ---- the steps


@pytest.fixture
def project(tmp_path, folder, project_root, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    write_json(layout.FINGERPRINTS, {"steps": {"score": "1", "measure": "2"}, "families": {"tiny-smolvlm": "3"}})
    return params.load(project_root / layout.PARAMS)


def test_what_a_step_keeps_goes_when_it_is_done(project):
    engine, job = engine_of(tiny("idefics3")), Job("tiny-smolvlm", "top-4")

    def fail() -> None:
        with kept_portions("score", project, job, engine) as kept:
            kept.put(0, {"iou": np.zeros(1)})
            raise InputError("no")

    with pytest.raises(InputError):
        fail()
    with kept_portions("score", project, job, engine) as kept:
        assert kept.numbers() == [0]
    assert not layout.kept_portions("tiny-smolvlm", "score").exists()


def test_what_a_step_keeps_depends_on_all_that_its_results_follow_from(project, project_root):
    engine, job = engine_of(tiny("idefics3")), Job("tiny-smolvlm", "top-4")

    def facts(step="score", config=project, engine=engine) -> str:
        with kept_portions(step, config, job, engine) as kept:
            return str(sorted(kept.facts.items()))

    def changed(**values: str) -> str:
        given = {key.replace("__", "."): text for key, text in values.items()}
        return facts(config=params.load(project_root / layout.PARAMS, given))

    before = facts()
    assert changed(impact__mask_threshold="0.4") != before
    assert changed(seed="1") != before
    assert changed(measure__images="3", compute__workers="2", train__lr="1.0") == before
    assert facts("measure") != before
    assert facts(engine=engine_of(tiny("idefics3"), batch_tokens=8192)) != before
    write_json(layout.FINGERPRINTS, {"steps": {"score": "9"}, "families": {"tiny-smolvlm": "3"}})
    assert facts() != before


# ---- kill -9

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from family_facts import tiny
from headimpact.data import coco
from headimpact.engine import forward, portions
from headimpact.engine.forward import Engine, EngineSettings
from headimpact.engine.portions import Kept
from headimpact.impact.scoring import ChanceSettings, score_images
forward.WINDOW = portions.WINDOW = 2
put = Kept.put
def put_and_wait(self, number, arrays):
    put(self, number, arrays)
    if number == 1:
        print("two are done", flush=True)
        sys.stdin.readline()
Kept.put = put_and_wait
samples = coco.read_part(Path({folder!r}), "impact")
engine = Engine(tiny("idefics3"), EngineSettings(workers=2, prefetch=1))
score_images(engine, samples, ChanceSettings(0.5, 2, 0), kept=Kept(Path({kept!r}), {{"base": "a"}}))
"""


def test_of_a_killed_score_no_process_stays_and_the_rest_is_done(samples, folder, project_root, pairs, kept):
    script = CHILD.format(tests=str(project_root / "tests"), folder=str(folder), kept=str(kept.folder))
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(project_root / "src")},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "two are done\n"
    workers = psutil.Process(child.pid).children(recursive=True)
    assert len(workers) == 2
    child.send_signal(signal.SIGKILL)
    child.communicate()
    until = time.monotonic() + 60  # they look for their parent every few seconds
    while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        assert time.monotonic() < until, "a worker has outlived its parent"
        time.sleep(0.1)
    assert kept.numbers() == [0, 1]
    vlm = tiny("idefics3")
    impact, _ = score_images(engine_of(vlm), samples, CHANCE, kept=kept)
    undisturbed, _ = score_images(engine_of(vlm), samples, CHANCE)
    for name, values in vars(undisturbed).items():
        assert np.asarray(getattr(impact, name)).tobytes() == np.asarray(values).tobytes(), name
