"""Training state: what is read back is what was written, or a clear error."""

import pytest
import torch
from safetensors.torch import save_file

from headimpact.engine import checkpoints
from headimpact.errors import InputError

STATE = {"fingerprint": "é", "step": 3, "history": [[1, 0.5, "train/loss", 2.25]]}


def optimise(weights: dict[str, torch.nn.Parameter], optimizer, steps: range) -> None:
    """A few steps on a loss that is another one every step."""
    for step in steps:
        optimizer.zero_grad()
        sum((w * (i + step)).square().sum() for i, w in enumerate(weights.values(), 1)).backward()
        optimizer.step()


def start() -> tuple[dict[str, torch.nn.Parameter], torch.optim.AdamW]:
    torch.manual_seed(0)
    weights = {name: torch.nn.Parameter(torch.randn(3, 2)) for name in ("a.lora_A", "b.lora_B")}
    return weights, torch.optim.AdamW(weights.values(), lr=0.1)


def test_round_trip(tmp_path):
    weights, optimizer = start()
    optimise(weights, optimizer, range(2))
    transposed = torch.arange(6.0).reshape(2, 3).T
    checkpoints.save(tmp_path / "new" / "state.safetensors", weights | {"t": transposed}, [optimizer], STATE)
    tensors, moments, state = checkpoints.load(tmp_path / "new" / "state.safetensors")
    assert state == STATE
    assert set(tensors) == {"a.lora_A", "b.lora_B", "t"}
    assert all(torch.equal(tensors[name], weight) for name, weight in weights.items())
    assert torch.equal(tensors["t"], transposed)
    for index, entry in optimizer.state_dict()["state"].items():
        assert set(moments[0][index]) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(moments[0][index][key], value) for key, value in entry.items())


def test_optimizers_go_on_as_if_they_had_never_stopped(tmp_path):
    """Two of different kinds, each with a weight of its own."""

    def both(weights: dict[str, torch.nn.Parameter]) -> list[torch.optim.Optimizer]:
        first, second = weights.values()
        return [torch.optim.AdamW([first], lr=0.1), torch.optim.Muon([second], lr=0.1)]

    def work(weights: dict[str, torch.nn.Parameter], optimizers: list[torch.optim.Optimizer], steps: range) -> None:
        for step in steps:
            for optimizer in optimizers:
                optimizer.zero_grad()
            sum(((weight - step) ** 2).sum() for weight in weights.values()).backward()
            for optimizer in optimizers:
                optimizer.step()

    weights, _ = start()
    work(weights, both(weights), range(5))
    others, _ = start()
    before = both(others)
    work(others, before, range(2))
    checkpoints.save(tmp_path / "state", others, before, STATE)

    tensors, moments, _ = checkpoints.load(tmp_path / "state")
    resumed = {name: torch.nn.Parameter(tensors[name]) for name in weights}
    after = both(resumed)
    checkpoints.restore_optimizers(after, moments)
    work(resumed, after, range(2, 5))
    assert all(torch.equal(resumed[name], weight) for name, weight in weights.items())


def test_without_an_optimizer(tmp_path):
    checkpoints.save(tmp_path / "state", {"a": torch.ones(2)}, [], {})
    assert checkpoints.load(tmp_path / "state")[1:] == ({}, {})


def test_the_same_state_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        weights, optimizer = start()
        optimise(weights, optimizer, range(2))
        checkpoints.save(tmp_path / name, weights, [optimizer], STATE)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    checkpoints.save(tmp_path / "state", {"a": torch.ones(50)}, [], STATE)
    whole = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(whole[:kept])
    with pytest.raises(InputError, match=r"state is not a training checkpoint .*delete it to start over"):
        checkpoints.load(tmp_path / "state")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"state": "{"}])
def test_other_safetensors_are_refused(tmp_path, metadata):
    save_file({"a": torch.ones(2)}, tmp_path / "state", metadata=metadata)
    with pytest.raises(InputError, match="not a training checkpoint"):
        checkpoints.load(tmp_path / "state")


def test_a_write_that_is_interrupted_leaves_the_old_state(tmp_path, monkeypatch):
    checkpoints.save(tmp_path / "state", {"a": torch.ones(2)}, [], STATE)

    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path / "state", {"a": torch.zeros(2)}, [], {})
    tensors, _, state = checkpoints.load(tmp_path / "state")
    assert state == STATE
    assert tensors["a"].tolist() == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
