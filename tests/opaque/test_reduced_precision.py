"""The rounding of modules in half precision and bfloat16, which the verdict takes for noise and says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import unrelu
from tests.opaque_modules import Residual, made

MODULES = {
    "dense": lambda: nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 120), nn.Sigmoid()),
    "residual": lambda: Residual(5, 24, 120),
    "convolutional": lambda: nn.Sequential(
        nn.Linear(5, 32), nn.ReLU(), nn.Unflatten(1, (2, 4, 4)), nn.ConvTranspose2d(2, 2, 4, 2, 1), nn.Tanh()
    ),
}
TYPES = [torch.float16, torch.bfloat16]


def observed(name, dtype, count=30):
    """The generator, codes, and what the module itself puts out."""
    module = made(MODULES[name]).to(dtype)
    z = torch.from_numpy(np.random.default_rng(11).standard_normal((count, 5))).to(dtype)
    with torch.no_grad():
        return unrelu.from_torch(module, 5), z.double().numpy(), module(z).double().numpy()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", MODULES)
def test_the_level_is_that_of_the_module(name, dtype):
    """Rounding is simulated, and agrees with what the module does to the margin that is stated."""
    net, z, y = observed(name, dtype)
    error = np.sqrt(np.square((net(z) - y).reshape(len(z), -1)).mean(axis=1))
    assert error.max() < net.rounding.level < 4 * error.max()
    assert net.rounding.dtype == dtype
    assert f"outputs are off by up to {net.rounding.level:.2g}" in str(net)
    assert net.to(torch.float32).rounding == net.rounding


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", MODULES)
def test_its_own_outputs_are_explained_by_its_rounding(name, dtype):
    net, _, y = observed(name, dtype, 6)
    r = unrelu.invert(net, y)
    assert r.success.all()
    assert {s.name for s in r.status} == {"NOISE_LEVEL"}
    level = f"'rounding:{net.rounding.level:.2g}'"
    assert all("noise= was not passed" in m and level in m for m in r.message)


def test_other_observations_are_judged_as_ever():
    net, z, y = observed("dense", torch.bfloat16, 4)
    assert {s.name for s in unrelu.invert(net, net(z)).status} == {"EXACT_FIT"}
    noisy = y + 0.1 * np.random.default_rng(0).standard_normal(y.shape)
    r = unrelu.invert(net, noisy)
    assert np.isnan(r.p_value).all()
    assert not any("rounding" in m for m in r.message)
    stated = unrelu.invert(net, y, noise="gaussian:0.5")
    assert str(stated.problem.noise) == "gaussian:0.5"
    # What is mixed by an operator is no output of the module.
    mixed = unrelu.invert(net, y @ np.ones((120, 9)), operator=np.ones((9, 120)))
    assert np.isnan(mixed.p_value).all()


def test_errors_beyond_the_rounding_are_a_misfit_that_says_what_was_taken():
    net, _, y = observed("dense", torch.float16, 2)
    noisy = torch.from_numpy(y + 0.1 * np.random.default_rng(0).standard_normal(y.shape)).half().double().numpy()
    r = unrelu.invert(net, noisy)
    assert {s.name for s in r.status} == {"MISFIT"}
    assert all("pass noise= if y has other errors" in m for m in r.message)


def test_modules_in_single_precision_have_none():
    assert unrelu.from_torch(made(MODULES["dense"]), 5).rounding is None
