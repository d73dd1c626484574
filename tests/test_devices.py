"""Generators on another device: what is computed there, what is refused, and how often the host waits."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

import unrelu
from unrelu.cli import process
from unrelu.errors import HostError, OptionError
from unrelu.models.generator import placed
from unrelu.result.fingerprint import fingerprint
from unrelu.runtime.host import computing

MODULE = nn.Sequential(nn.Linear(2, 5), nn.ReLU()).eval()
NET = unrelu.from_torch(MODULE)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "call",
    [
        lambda: NET.to(device="cuda"),
        lambda: unrelu.from_torch(nn.Flatten(), 3, device="cuda"),  # before the module is looked at
        lambda: unrelu.load("no such file.npz", device="cuda"),
        lambda: unrelu.invert(NET, "no observation", device="cuda"),
        lambda: unrelu.calibrate(NET, noise="gaussian:0.1", device="cuda"),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_any_work(call):
    with pytest.raises(OptionError, match=r"device='cuda' cannot be used \(.+\); available here: 'cpu'"):
        call()


@pytest.mark.parametrize(
    ("device", "why"), [("meta", "its tensors have no numbers"), ("gpu", "device type"), (1.5, ""), ("cuda:99", "")]
)
def test_what_is_no_device_is_refused(device, why):
    with pytest.raises(OptionError, match=rf"device={device!r} cannot be used \(.*{why}.*available here: 'cpu'"):
        unrelu.invert(NET, NET([0.5, 1.0]), device=device)


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu"), None])
def test_the_cpu_is_where_a_network_is(device):
    assert placed(NET, device) is NET
    r = unrelu.invert(NET, NET([0.5, 1.0]), device=device)
    assert r.problem.network is NET
    assert NET.to(device=device).device == torch.device("cpu")
    assert unrelu.from_torch(MODULE, device=device).device == torch.device("cpu")


def test_a_full_memory_is_an_error_of_ours():
    with (
        pytest.raises(HostError, match=r"memory of the device is full \(CUDA out of memory\. Tried.*at once"),
        computing(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")


def test_single_precision_is_not_less_inside():
    matmul = torch.backends.mkldnn.matmul
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        reduced = matmul.fp32_precision
        with computing():
            assert (matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision) == ("ieee", "ieee")
        assert matmul.fp32_precision == reduced
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["inspect", "run"])
def test_the_command_line_refuses_a_device_that_is_not_there(command, monkeypatch, capsys):
    data = [] if command == "inspect" else ["no file.npy", "-o", "no folder"]
    monkeypatch.setattr(sys, "argv", ["unrelu", command, "mnist-relu", *data, "--device", "cuda"])
    with pytest.raises(SystemExit) as end:
        process.main()
    assert end.value.code == 2
    message, option = capsys.readouterr().err.splitlines()
    assert message.startswith("error: device='cuda' cannot be used")
    assert option == "On the command line: --device"


@on_gpu
@pytest.mark.parametrize("method", ["auto", "lm", "adam"])
def test_a_gpu_finds_the_same_codes(method):
    rng = np.random.default_rng(0)
    net = unrelu.from_arrays([rng.standard_normal((12, 3)), rng.standard_normal((30, 12))])
    z = rng.standard_normal((4, 3))
    r = unrelu.invert(net, net(z), method, device="cuda", **({} if method == "auto" else {"z0": z + 0.01}))
    assert isinstance(r.z, np.ndarray)
    assert r.problem.network.device.type == "cuda"
    np.testing.assert_allclose(r.z, z, atol=1e-2 if method == "adam" else 1e-6)
    assert fingerprint(r.problem.network) == fingerprint(net)


@on_gpu
def test_a_convolutional_generator_on_a_gpu():
    module = nn.Sequential(nn.ConvTranspose2d(4, 8, 4), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2)).double().eval()
    net = unrelu.from_torch(module, (4, 1, 1), device="cuda")
    z = np.random.default_rng(1).standard_normal((3, 4, 1, 1))
    np.testing.assert_allclose(net(z), net.to(device="cpu")(z), atol=1e-12)
    r = unrelu.invert(net, net(z))
    assert [s.name for s in r.status] == ["EXACT_FIT"] * 3
