"""Two processes find what one finds, and end together."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shared_work
from torch.distributed import HashStore

from headimpact import processes
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine import forward, portions
from headimpact.errors import InputError
from headimpact.processes import ALONE, OtherEndedError, Processes

Results = dict[str, np.ndarray]


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torch.distributed.run tells a process."""
    root = Path(__file__).parent.parent
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    told |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1, "PYTHONPATH": f"{root / 'src'}:{root / 'tests'}"}
    return os.environ | {name: str(value) for name, value in told.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, shared_work.SIZES, seed=0)
    return folder


@pytest.fixture(scope="module")
def together(folder, tmp_path_factory) -> tuple[list[Results], list[str], list[int]]:
    """What two processes found, what they said, and how they ended."""
    results = tmp_path_factory.mktemp("together")
    (results / "of first").mkdir()
    (results / "of first" / "a.txt").write_text("text")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, shared_work.__file__, str(folder), str(results)]
    started = [
        subprocess.Popen(command, env=environment(rank, 2, port), stderr=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    found = []
    for rank in (0, 1):
        assert (results / f"{rank}.npz").exists(), said[rank]
        found.append(dict(np.load(results / f"{rank}.npz")))
    assert not (results / "1 state").exists()  # the first alone writes
    return found, said, [process.returncode for process in started]


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory) -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "WINDOW", 2)
        patch.setattr(portions, "WINDOW", 2)
        return shared_work.everything(folder, ALONE, tmp_path_factory.mktemp("alone") / "state")


def test_two_processes_find_the_same_bytes(together, alone):
    trained = {name for name in alone if name.startswith(("adapter", "history"))}
    assert len(alone) - len(trained) > 20
    for found in together[0]:
        assert set(alone) <= set(found)
        for name in alone.keys() - trained:
            assert found[name].tobytes() == np.asarray(alone[name]).tobytes(), name


def test_two_processes_train_the_same_adapter(together, alone):
    first, second = together[0]
    trained = [name for name in alone if name.startswith(("adapter", "history"))]
    assert len(trained) == 1 + 2 * 2 * 3
    for name in trained:
        assert first[name].tobytes() == second[name].tobytes(), name
        np.testing.assert_allclose(first[name], alone[name], atol=1e-5, rtol=1e-5)


def test_processes_that_work_on_different_things_are_refused(together):
    for found in together[0]:
        assert "Process 2 of 2 has another dataset than the first (of process 1, not of process 0)" in str(
            found["refused"]
        )


def test_what_the_first_has_the_others_get(together):
    assert [found["folder"].tolist() for found in together[0]] == [["a.txttext"]] * 2


def test_an_error_of_one_process_ends_both_with_one_message(together):
    _, said, codes = together
    assert codes == [1, 1]
    errors = [line for text in said for line in text.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, said
    assert errors[0].startswith(f"Error: process 2 of 2, on {socket.gethostname()}: this image is bad")
    assert not any("Traceback" in text for text in said)


# ---- before they have met


def test_one_process_is_alone():
    assert processes.launched("cpu") is ALONE
    ALONE.wait()
    assert (ALONE.gather(1), ALONE.give(2), ALONE.is_first) == ([1], 2, True)
    assert processes.told_here(InputError("so")) == "so"


def test_what_all_fail_at_is_said_once_a_machine(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank, said in (("0", "so"), ("1", None)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert processes.told_here(InputError("so")) == said


@pytest.mark.parametrize(
    ("device", "gpus", "message"),
    [("cuda:1", 2, "cannot share cuda:1"), ("auto", 1, "2 processes were started on a machine with 1 GPUs")],
)
def test_every_process_has_its_own_gpu(monkeypatch, device, gpus, message):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    with pytest.raises(InputError, match=message):
        processes.launched(device)


def test_processes_that_do_not_find_each_other_are_refused(monkeypatch):
    """As under a launcher that accelerate does not know."""
    monkeypatch.setenv("WORLD_SIZE", "2")

    class Lonely:
        num_processes = 1

    monkeypatch.setattr("accelerate.PartialState", lambda **named: Lonely())
    with pytest.raises(InputError, match="2 processes were started, but 1 found each other"):
        processes.launched("cpu")

    def refused(**named):
        raise ValueError("no MASTER_ADDR\nand more")

    monkeypatch.setattr("accelerate.PartialState", refused)
    with pytest.raises(InputError, match=r"did not find each other: no MASTER_ADDR$"):
        processes.launched("cpu")


def test_what_the_launcher_ends_ends_by_an_error(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    processes._end_with_the_others()
    try:
        with pytest.raises(OtherEndedError, match="ended from outside"):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_process_heeds_the_error_of_another():
    store = HashStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_store", lambda: store)
        images = Processes(1, 2, group="some").heed(iter(range(3)))
        assert next(images) == 0
        store.add(processes._ERRORS, 1)
        with pytest.raises(OtherEndedError):
            next(images)


def test_a_closed_connection_is_an_end_of_another_process():
    with pytest.raises(OtherEndedError, match="run the same command again"), processes._others_there():
        raise RuntimeError("Connection closed by peer")
