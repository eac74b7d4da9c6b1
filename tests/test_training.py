"""Training: what is killed goes on to the same bytes, what is trained is what was meant, and the best is kept."""

import collections
import dataclasses
import itertools
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import obvious
import pytest
import torch
from accelerate.state import AcceleratorState
from engines import captions_of, count_forwards, engine_of
from family_facts import fresh, kinds, tiny

from headimpact import files
from headimpact.adapters import lora, training
from headimpact.adapters.training import Measurement, Training, TrainSettings, epoch_order, validation_perplexity
from headimpact.data import coco
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine import checkpoints
from headimpact.engine.forward import Engine, Loaded
from headimpact.engine.phrases import backward
from headimpact.errors import InputError
from headimpact.vlm import packing
from headimpact.vlm.packing import Packed

LORA = lora.LoraSettings(rank=2, alpha=4, targets=("q_proj", "k_proj", "v_proj"))
LAYERS = [0, 2, 3]
SETTINGS = TrainSettings(
    seed=0,
    lr=1e-2,
    epochs=3,
    batch_images=2,
    gradient_checkpointing=False,
    warmup_share=0.2,
    weight_decay=0.01,
    max_grad_norm=1.0,
    evals_per_epoch=1,
    patience=9,
    checkpoint_steps=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 1, "train": 4, "val": 2, "test": 1}, seed=0)
    return folder


@pytest.fixture(scope="module")
def parts(folder) -> tuple[list[Sample], list[Sample]]:
    """Four images to train on, with 2 to 4 objects each, and two to validate on."""
    return coco.read_part(folder, "train"), coco.read_part(folder, "val")


def prepare(
    parts,
    checkpoint: Path,
    family="idefics3",
    fingerprint="same",
    dtype=torch.float32,
    batch_tokens=8192,
    **changes,
) -> Training:
    """A run on a base of its own, as a new process would prepare it."""
    vlm = fresh(family)
    vlm.model.to(dtype)
    layers = [layer for layer in LAYERS if layer in vlm.attention_layers]
    peft_model = lora.attach(vlm, layers, LORA, seed=0)
    settings = dataclasses.replace(SETTINGS, **changes)
    run = Training(engine_of(vlm, batch_tokens), peft_model, *parts, settings, checkpoint, fingerprint)
    run.peft_model = peft_model  # type: ignore[attr-defined]
    return run


@pytest.fixture
def start(parts, tmp_path) -> Callable[..., Training]:
    """Prepare a run whose checkpoint lies in the test's own folder."""
    return lambda **changes: prepare(parts, tmp_path / "state", **changes)


def adapter_digest(run: Training, folder: Path) -> str:
    """Digest of the adapter's files."""
    lora.save(run.peft_model, folder / "adapter", {})  # type: ignore[attr-defined]
    return files.digest_folder(folder / "adapter")


def weights(run: Training) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.parameters.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def values(history: list[Measurement], metric: str) -> list[float]:
    return [measured.value for measured in history if measured.metric == metric]


def kill_after(run: Training, measurements: int) -> None:
    """Abandon a run after so many measurements; what it did after that is lost, as with kill -9."""
    collections.deque(itertools.islice(run.run(), measurements), maxlen=0)


# ---- kill and resume


@dataclasses.dataclass
class Finished:
    """A run that nobody disturbed."""

    history: list[Measurement]
    digest: str


@pytest.fixture(scope="module")
def undisturbed(parts, tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = prepare(parts, folder / "state")
    history = list(run.run())
    assert [r.metric for r in history if r.step == 2] == ["train/loss", "train/lr", "val/perplexity"]
    assert [r.step for r in history if r.metric == "val/perplexity"] == [0, 2, 4, 6]
    return Finished(history, adapter_digest(run, folder))


# Two steps an epoch and a validation after each: 1 measurement at the start, then 5 an epoch. The state is written when
# the measurement after it is asked for.
@pytest.mark.parametrize(
    ("checkpoint_steps", "killed_after", "steps_left"),
    [
        (2, [1], 6),  # nothing but the first validation
        (2, [6], 6),  # in front of the first checkpoint
        (2, [7], 4),  # right after the first one
        (3, [11], 3),  # one that lies between two validations
        (2, [16], 2),  # everything trained, the best weights not yet put back
        (2, [17], 0),  # the end
        (1, [4, 8, 12], 2),  # again and again
        (100, [16], 6),  # there never was one
    ],
)
def test_a_killed_run_ends_with_the_same_bytes(
    start, undisturbed, tmp_path, monkeypatch, checkpoint_steps, killed_after, steps_left
):
    for measurements in killed_after:
        kill_after(start(checkpoint_steps=checkpoint_steps), measurements)
    run = start(checkpoint_steps=checkpoint_steps)
    steps = count_calls(monkeypatch, run, "optimize")
    assert list(run.run()) == undisturbed.history
    assert len(steps) == steps_left
    assert adapter_digest(run, tmp_path) == undisturbed.digest


def count_calls(monkeypatch, thing, name: str) -> list[tuple]:
    """The arguments of every call of a method from now on."""
    calls, real = [], getattr(thing, name)
    monkeypatch.setattr(thing, name, lambda *args: calls.append(args) or real(*args))
    return calls


CHILD = """
import dataclasses, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from headimpact.data import coco
from test_training import prepare
folder = Path({folder!r})
parts = coco.read_part(folder, "train"), coco.read_part(folder, "val")
for measured in prepare(parts, Path({state!r})).run():
    print(measured.step, measured.metric, flush=True)
    sys.stdin.readline()
"""


def test_a_process_that_is_killed_is_continued(folder, parts, undisturbed, project_root, tmp_path):
    """kill -9 in the midst of a step, after the first checkpoint."""
    state = tmp_path / "state"
    script = CHILD.format(tests=str(project_root / "tests"), folder=str(folder), state=str(state))
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(project_root / "src")},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    printed = []
    while "3 train/lr" not in printed:
        line = child.stdout.readline().strip()
        assert line, "the process ended by itself"
        printed.append(line)
        child.stdin.write("\n")  # go on ...
        child.stdin.flush()
    child.send_signal(signal.SIGKILL)  # ... but not far
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert checkpoints.load(state)[2]["step"] == 2

    run = prepare(parts, state)
    assert list(run.run()) == undisturbed.history
    assert adapter_digest(run, tmp_path) == undisturbed.digest


def test_a_checkpoint_of_something_else_is_not_continued(start, undisturbed, tmp_path):
    kill_after(start(fingerprint="other", lr=1.0), 13)
    assert checkpoints.load(tmp_path / "state")[2]["step"] == 4
    run = start()
    assert list(run.run()) == undisturbed.history
    assert adapter_digest(run, tmp_path) == undisturbed.digest


def test_a_damaged_checkpoint_is_refused(start, tmp_path):
    (tmp_path / "state").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="delete it to start over"):
        next(start().run())


# ---- the order of the samples


def shells(*ids: int) -> list[Sample]:
    return [Sample(i, Path("none"), 8, 8, ()) for i in ids]


def test_the_order_depends_on_seed_epoch_and_sample_alone():
    samples = shells(*range(1, 21))
    order = [sample.id for sample in epoch_order(samples, 0, 0)]
    assert sorted(order) == list(range(1, 21))
    np.random.seed(1)
    torch.manual_seed(1)
    assert [s.id for s in epoch_order(samples[::-1], 0, 0)] == order
    assert [s.id for s in epoch_order(samples, 0, 1)] != order
    assert [s.id for s in epoch_order(samples, 1, 0)] != order
    # A sample more or less moves no other one.
    assert [s.id for s in epoch_order(samples[:15], 0, 0)] == [i for i in order if i <= 15]


def test_every_epoch_shows_every_image_once(start, parts, monkeypatch):
    run = start(batch_images=3, epochs=2)
    assert (run.steps_per_epoch, run.total_steps) == (2, 4)
    steps = shown_by(run, monkeypatch)
    list(run.run())
    assert [len(step) for step in steps] == [3, 1, 3, 1]
    for epoch in range(2):
        order = [sample.id for sample in epoch_order(run.train, 0, epoch)]
        assert steps[2 * epoch] + steps[2 * epoch + 1] == order


def test_a_run_that_goes_on_within_an_epoch_shows_what_is_left_of_it(start, parts, monkeypatch):
    kill_after(start(batch_images=1, checkpoint_steps=5, epochs=2), 13)
    run = start(batch_images=1, epochs=2)
    steps = shown_by(run, monkeypatch)
    list(run.run())
    assert steps == [[sample.id] for sample in epoch_order(run.train, 0, 1)[1:]]


def test_images_without_objects_are_left_out(parts, tmp_path):
    train, val = parts
    nothing = dataclasses.replace(train[0], id=10**6, objects=())
    run = prepare(([nothing, *train], [*val, nothing]), tmp_path / "state")
    assert ([s.id for s in run.train], [s.id for s in run.val]) == ([s.id for s in train], [s.id for s in val])


def shown_by(run: Training, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The ids of the images of every step from now on."""
    steps, real = [], run.optimize

    def optimize(images: Iterator[Loaded[None]]) -> float:
        steps.append([])
        return real(followed(images))

    def followed(images: Iterator[Loaded[None]]) -> Iterator[Loaded[None]]:
        for image in images:
            steps[-1].append(image.prepared.sample.id)
            yield image

    monkeypatch.setattr(run, "optimize", optimize)
    return steps


def test_the_order_is_found_once_an_epoch(start, monkeypatch):
    run = start(batch_images=1, epochs=3)
    asked: list[int] = []
    monkeypatch.setattr(training, "epoch_order", lambda *given: asked.append(given[2]) or epoch_order(*given))
    monkeypatch.setattr(run, "optimize", lambda images: nudge(run, run.step))
    list(run.run())
    assert run.step == 12
    assert asked == [0, 1, 2]


# ---- one step


def test_the_learning_rate_by_hand(start):
    """Ten steps, two of them warm-up, then half a cosine over the other eight."""
    run = start(epochs=5, lr=0.4)
    assert run.total_steps == 10
    rates = [run.learning_rate(step) for step in range(10)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.4])
    assert rates[4] == pytest.approx(0.4 * (2 + math.sqrt(2)) / 4)
    assert rates[6] == pytest.approx(0.2)
    assert rates[8] == pytest.approx(0.4 * (2 - math.sqrt(2)) / 4)
    assert rates[9] == pytest.approx(0.4 * 0.0380602, abs=1e-6)


def test_the_recorded_rate_is_the_one_of_the_step(start, undisturbed):
    run = start()
    assert values(undisturbed.history, "train/lr") == [run.learning_rate(step) for step in range(6)]
    used = []
    step = run.optimizer.step
    run.optimizer.step = lambda: used.append(run.optimizer.param_groups[0]["lr"]) or step()
    kill_after(run, 3)
    assert used == [run.learning_rate(0)]


def gradients(run: Training) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first step."""
    found = {}
    run.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in run.parameters.items()})
    return run.optimize(first_images(run)), found


def first_images(run: Training) -> list[Loaded[None]]:
    """The images of the first step."""
    return captions_of(run.engine, epoch_order(run.train, 0, 0)[: run.settings.batch_images])


@pytest.mark.parametrize(("images", "forwards"), [(1, 4), (2, 2)])
def test_gradients_of_several_forwards_equal_those_of_one(start, monkeypatch, images, forwards):
    """The images have different numbers of tokens: a mean of means would differ."""
    whole = start(batch_images=4, max_grad_norm=1e9)
    longest = max(len(packed.ids) for packed in packed_images(whole))
    parts = start(batch_images=4, batch_tokens=images * longest, max_grad_norm=1e9)
    assert len({len(sample.objects) for sample in whole.train}) > 1
    counts = [count_forwards(monkeypatch, run.engine.vlm) for run in (whole, parts)]
    for run in (whole, parts):
        trained_a_little(run)
    (loss, expected), (other_loss, found) = gradients(whole), gradients(parts)
    assert [len(count) for count in counts] == [1, forwards]
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


def packed_images(run: Training) -> list[Packed]:
    return [
        packed
        for image in captions_of(run.engine, run.train)
        for packed in packing.pack_image(image.prepared.conversations, run.engine.vlm.prompt_attention)
    ]


def trained_a_little(run: Training) -> None:
    """At the start lora_B is zero, and so are the gradients of lora_A."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in run.parameters.items():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_gradients_are_those_of_the_mean_over_answer_tokens_and_clipped(start):
    run = start(batch_images=4, max_grad_norm=1e9)
    trained_a_little(run)
    losses: list[torch.Tensor] = []
    _, tokens = backward(run.engine, first_images(run), losses.append)
    assert tokens == sum(len(t.answer) for image in first_images(run) for t in image.prepared.conversations)
    (loss,) = losses
    expected = torch.autograd.grad(loss / tokens, list(run.parameters.values()))
    mean, found = gradients(run)
    assert mean == pytest.approx(loss.item() / tokens, rel=1e-6)
    for gradient, wanted in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-4)
    norm = torch.stack([gradient.norm() for gradient in expected]).norm()
    clipped = start(batch_images=4, max_grad_norm=float(norm) / 4)
    trained_a_little(clipped)
    for gradient, wanted in zip(gradients(clipped)[1].values(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted / 4, atol=1e-6, rtol=1e-3)


# ---- validation, early stopping, the best weights


def test_validation_perplexity_is_equation_3(parts):
    vlm = tiny("idefics3")
    _, val = parts
    engine = engine_of(vlm)
    found = validation_perplexity(engine, val)
    nll = []
    for sample in val:
        encoded = vlm.encode_image(sample.image())
        nll += [obvious.phrase_nll(vlm, obj.phrase, encoded) for obj in sample.objects]
    assert found == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-4)
    engine = engine_of(vlm, batch_tokens=1)
    assert validation_perplexity(engine, val) == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("nll", [800.0, math.nan, math.inf])
def test_a_perplexity_beyond_numbers_is_infinite(start, monkeypatch, nll):
    monkeypatch.setattr(training, "phrase_nll", lambda engine, images: [(None, None, 1.0, 3), (None, None, nll, 3)])
    run = start()
    assert validation_perplexity(run.engine, run.val) == (math.exp(400.5) if nll == 800 else math.inf)
    monkeypatch.setattr(training, "phrase_nll", lambda engine, images: [(None, None, nll, 3)])
    assert validation_perplexity(run.engine, run.val) == math.inf


def test_the_first_validation_is_the_bases_own(parts, undisturbed):
    engine = engine_of(tiny("idefics3"))
    expected = validation_perplexity(engine, parts[1])
    assert undisturbed.history[0].metric == "val/perplexity"
    assert undisturbed.history[0].value == pytest.approx(expected, rel=1e-6)


class Script:
    """Validations that give what is written, and the weights that they saw."""

    def __init__(self, run: Training, *perplexities: float):
        self.run = run
        self.perplexities = map(float, perplexities)
        self.seen: list[dict[str, torch.Tensor]] = []

    def __call__(self, engine: Engine, images: list[Loaded[None]]) -> float:
        self.seen.append(weights(self.run))
        return next(self.perplexities)


@pytest.mark.parametrize(
    ("patience", "perplexities", "best"),
    [
        # The first is the base's: better than all that follows, yet never kept.
        (2, [1, 5, 4, 6, 7], 2),  # two after the best: stopped before the end
        (2, [9, 5, 6, 4, 5, 3, 2], 6),  # one worse in between is no reason
        (1, [9, 5, 5], 1),  # no better is not better
        (3, [9, 4, 5, 5, 5], 1),
        (2, [9, 8, 7, 6, 5, 4, 3], 6),  # better to the end
        (2, [9, 8, 7, 6, 6.5, 6.2], 3),
        (2, [9, math.inf, 5, math.inf, 6], 2),  # a bad moment
    ],
)
def test_early_stopping_and_the_best_weights(start, monkeypatch, patience, perplexities, best):
    run = start(patience=patience, evals_per_epoch=2)
    script = Script(run, *perplexities)
    monkeypatch.setattr(training, "validation_perplexity", script)
    monkeypatch.setattr(run, "optimize", lambda images: nudge(run, run.step))
    history = list(run.run())
    assert values(history, "val/perplexity") == perplexities
    assert run.step == len(perplexities) - 1
    assert run.stopped_early == (run.step < 6)
    assert not same(script.seen[best], script.seen[best - 1])
    assert same(weights(run), script.seen[best])


def nudge(run: Training, step: int) -> float:
    """A step of the optimizer that costs nothing."""
    with torch.no_grad():
        for parameter in run.parameters.values():
            parameter += 0.01 * (step + 1)
    return 1.0


@pytest.mark.parametrize("checkpoint_steps", [1, 3])
def test_a_run_killed_after_it_ended_ends_again_without_a_step(start, monkeypatch, tmp_path, checkpoint_steps):
    """Its end is kept whatever the interval of checkpoints: what comes after the training may fail."""
    written = [9, 5, 4, 6, 7]
    ends = []
    for killed in (False, True):
        history = (tmp_path / "state").exists() and checkpoints.load(tmp_path / "state")[2]["history"]
        done = sum(metric == "val/perplexity" for *_, metric, _ in history or [])
        run = start(patience=2, evals_per_epoch=2, checkpoint_steps=checkpoint_steps)
        monkeypatch.setattr(training, "validation_perplexity", Script(run, *written[done:]))
        ends.append((list(run.run()), weights(run)))
        assert done == (5 if killed else 0)
    assert ends[0][0] == ends[1][0]
    assert ends[0][0][-1].step == 4
    assert same(ends[0][1], ends[1][1])


def test_a_run_that_diverges_says_so(start, monkeypatch):
    run = start(patience=2, evals_per_epoch=2, lr=0.5)
    monkeypatch.setattr(training, "validation_perplexity", Script(run, 9.0, *[math.inf] * 3))
    with pytest.raises(InputError, match=r"not finite in any of 3 validations. Lower train.lr \(it is 0.5\)"):
        list(run.run())


def test_a_learning_rate_beyond_reason_diverges(start):
    with pytest.raises(InputError, match=r"Training diverged.*Lower train\.lr"):
        list(start(lr=1e30, epochs=1, max_grad_norm=1e30).run())


@pytest.mark.parametrize("empty", [0, 1])
def test_a_part_without_images_is_refused(parts, tmp_path, empty):
    emptied = [[] if index == empty else part for index, part in enumerate(parts)]
    with pytest.raises(InputError, match="train and val: one has none"):
        prepare(emptied, tmp_path / "state")


# ---- what training does


@kinds()
def test_only_the_adapter_trains_and_the_loss_falls(parts, tmp_path, family):
    """Two images, learned by heart."""
    two = parts[0][:2]
    run = prepare((two, two), tmp_path / "state", family, epochs=18, lr=2e-2, evals_per_epoch=1)
    before = {n: p.detach().clone() for n, p in run.engine.vlm.model.named_parameters()}
    history = list(run.run())
    loss, perplexity = values(history, "train/loss"), values(history, "val/perplexity")
    assert len(loss) == 18
    assert loss[-1] < 0.8 * loss[0]
    assert min(perplexity) < 0.5 * perplexity[0]
    after = dict(run.engine.vlm.model.named_parameters())
    changed = {n for n, p in after.items() if not torch.equal(before[n], p)}
    assert changed == {n for n in after if "lora_" in n}
    assert len(changed) == 2 * len(set(LAYERS) & set(run.engine.vlm.attention_layers)) * 3
    found = validation_perplexity(run.engine, two)
    assert found == pytest.approx(min(perplexity), rel=1e-6)


@pytest.fixture
def other_precision():
    """accelerate holds one precision per process: forget it before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_an_adapter_trains_in_float32_on_a_base_in_bfloat16(parts, tmp_path, other_precision):
    run = prepare(parts, tmp_path / "state", dtype=torch.bfloat16, epochs=2)
    before = weights(run)
    history = list(run.run())
    assert run.engine.vlm.model.dtype == torch.bfloat16
    assert {weight.dtype for weight in run.parameters.values()} == {torch.float32}
    assert not any(torch.equal(before[name], weight) for name, weight in run.parameters.items())
    assert all(math.isfinite(measured.value) for measured in history)
    # Steps far smaller than bfloat16 resolves would be lost in it.
    moved = torch.cat([weight.detach().flatten() for weight in run.parameters.values()])
    assert not torch.equal(moved, moved.bfloat16().float())
