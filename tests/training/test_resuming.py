"""What is killed goes on to the same bytes."""

import os
import signal
import subprocess
import sys

import pytest
from training_runs import Script, adapter_digest, kill_after, prepare, same, weights

from headimpact.adapters import training
from headimpact.engine import checkpoints
from headimpact.errors import InputError


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
from training_runs import prepare
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
