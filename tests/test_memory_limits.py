"""What is too large for the memory: measured before any work, refused by name; what fits is not."""

from __future__ import annotations

import math
import os
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2
from torch import Tensor, nn

import unrelu
from unrelu.errors import HostError
from unrelu.models import generator
from unrelu.opaque import torch_opaque
from unrelu.opaque.torch_opaque import gradient_memory
from unrelu.runtime import machine

HOST = torch.device("cpu")


class Pixels(nn.Module):
    """A decoder with a skip connection: 256 coordinates, 3,072 outputs."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((4, 16), (16, 16), (16, 3))
        self.first, self.inner, self.last = (nn.Conv2d(*size, 3, padding=1) for size in sizes)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.first(z))
        return self.last(F.interpolate(F.relu(x + self.inner(x)), scale_factor=4))


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return Pixels().eval()


@pytest.fixture(scope="module")
def network(module: nn.Module) -> unrelu.Generator:
    return unrelu.from_torch(module, (4, 8, 8))


def memory_of(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    """Pretend that this machine has ``size`` bytes."""
    for user in (generator, torch_opaque):
        monkeypatch.setattr(user, "total_memory", lambda device: size)


def test_the_memory_of_this_machine(monkeypatch, tmp_path):
    machine.total_memory.cache_clear()
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**28 < machine.total_memory(HOST) <= physical
    for said, expected in (("4096\n", 4096), ("max\n", physical), ("0\n", physical)):
        (tmp_path / "limit").write_text(said)
        monkeypatch.setattr(machine, "_LIMITS", (tmp_path / "none", tmp_path / "limit"))
        machine.total_memory.cache_clear()
        assert machine.total_memory(HOST) == expected
    monkeypatch.delattr(os, "sysconf")
    machine.total_memory.cache_clear()
    assert machine.total_memory(HOST) > 2**60
    machine.total_memory.cache_clear()


def test_the_memory_of_a_gradient_is_what_pytorch_keeps(module):
    """Kept are 4 x 64 codes, the outputs of three convolutions' inputs and of two ReLUs; one tensor counts once."""
    codes = torch.zeros(2, 4, 8, 8, dtype=torch.float64)
    weights = sum(p.numel() for p in module.parameters())
    after, upsampled = 16 * 64, 16 * 32 * 32
    # The code, both ReLUs' outputs, the input of the last convolution.
    kept = 4 * 64 + 2 * after + upsampled
    assert gradient_memory(module, codes) == 8 * (weights + kept)
    assert gradient_memory(module, codes.float()) == 4 * (weights + kept)


def test_a_gradient_that_does_not_fit_is_refused_and_one_that_fits_is_not(module, monkeypatch):
    needed = gradient_memory(module, torch.zeros(2, 4, 8, 8, dtype=torch.float64))
    monkeypatch.setattr(torch_opaque, "_LARGE", 10**5)
    memory_of(monkeypatch, needed)
    assert unrelu.from_torch(module, (4, 8, 8)).latent_dim == 256
    memory_of(monkeypatch, needed - 1)
    with pytest.raises(
        HostError, match=r"at one code of shape \(4, 8, 8\) takes .* this machine has .* of memory; use"
    ):
        unrelu.from_torch(module, (4, 8, 8))
    assert unrelu.from_torch(module, (4, 4, 4)).latent_dim == 64


def test_without_room_for_a_jacobian_a_noisy_observation_is_inverted_and_its_uniqueness_unknown(network, monkeypatch):
    random = np.random.default_rng(3)
    y = network(random.normal(size=(4, 8, 8))) + 0.05 * random.normal(size=network.output_shape)
    free = unrelu.invert(network, y, noise="gaussian:0.05", learn=False)
    assert free.rank == 256
    memory_of(monkeypatch, 8 * 256 * 3072 - 1)
    r = unrelu.invert(network, y, noise="gaussian:0.05", learn=False)
    assert r.success
    assert (r.rank, r.freedom, r.identifiable) == (-1, -1, False)
    np.testing.assert_allclose(r.fun, free.fun, rtol=1e-6)
    energy = np.square(y - r.reconstruction).sum() / 0.05**2
    np.testing.assert_allclose(r.p_value, chi2.sf(energy, 3072 - 256), rtol=1e-3)  # a fit of k uses up k at most
    assert re.search(r"uniqueness +unknown", str(r))


@pytest.mark.parametrize(
    "call",
    [
        lambda net, y: unrelu.invert(net, y, "lm"),
        lambda net, y: net.jacobian(np.zeros(256)),
        lambda net, y: unrelu.identifiability(net, np.zeros(256)),
        lambda net, y: unrelu.invert(net, y, noise="gaussian:0.1", learn=False).laplace(),
    ],
)
def test_what_needs_a_jacobian_says_what_it_would_take(call, network, monkeypatch):
    memory_of(monkeypatch, 10**6)
    with pytest.raises(HostError, match=r"the Jacobian of one code, 3,072 x 256 numbers, takes 6 MiB, and there are"):
        call(network, network(np.zeros((4, 8, 8))) + 0.1)


def test_inspect_says_so(network, monkeypatch):
    memory_of(monkeypatch, 10**6)
    chain = unrelu.from_torch(nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 2000)))
    for net in (network, chain):
        seen = unrelu.inspect(net, samples=4)
        assert math.isnan(seen.identifiable)
        assert "identifiable  unknown" in str(seen)
        assert seen.verdict.startswith("nothing can be said of identifiable codes: the Jacobian of one code")
