"""Devices and precisions: the best that is there, or the one that is asked for, or an error before anything is read."""

import pytest
import torch
from tiny_folders import saved

from headimpact import devices
from headimpact.errors import InputError
from headimpact.vlm import loading


def test_the_device_is_the_best_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.choose_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.choose_device("auto").type == "cpu"
    assert devices.choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps", "abacus"])
def test_a_device_that_is_not_there_is_told_before_anything_is_read(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda:3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"There is no device {device} on this machine"):
        loading.load("nowhere", device=device)


def test_the_precision_is_what_the_device_is_good_at(monkeypatch):
    assert devices.choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert devices.choose_dtype("auto", torch.device("mps")) == torch.float32
    assert devices.choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    for able, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert devices.choose_dtype("auto", torch.device("cuda")) == expected


def test_the_precision_can_be_chosen():
    base = loading.load(str(saved("qwen2_vl")), device="cpu", dtype="bfloat16")
    assert base.model.dtype == torch.bfloat16
