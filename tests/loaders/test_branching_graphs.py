"""Graphs that branch, and products that are activations, as chains of layers: their outputs, methods and proofs."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import unrelu
from tests.opaque_modules import Residual
from unrelu.models.network import Network
from unrelu.opaque.opaque_network import OpaqueNetwork

residual = partial(Residual, 4, 10, 24, plain=True)


class Skips(nn.Module):
    """Layers that take all values before them."""

    def __init__(self, k=4, width=10, n=24, activation=torch.relu):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(k, width), nn.Linear(width + k, width), nn.Linear(2 * width + k, n)])
        self.activation = activation

    def forward(self, z):
        first, second, last = self.layers
        x = self.activation(first(z))
        y = self.activation(second(torch.cat([x, z], 1)))
        return last(torch.cat((y, x, z), dim=-1))


class SideBySide(nn.Module):
    """Two networks of different depth and activations, each on a part of the code."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 12))
        self.two = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 14), nn.Sigmoid())

    def forward(self, z):
        a, b = z.split([2, 3], dim=1)
        return torch.cat([self.one(a), self.two(b)], 1)


class Normalised(nn.Module):
    """Batch normalisation, dropout, constants, reshapes and differences between branches."""

    def __init__(self):
        super().__init__()
        self.enter, self.norm, self.inner = nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Linear(12, 12)
        self.drop, self.leave = nn.Dropout(), nn.Linear(6, 10)

    def forward(self, z):
        h = self.enter(z) * 2 + 1
        x, y = (h - 0.5 * self.drop(self.inner(F.gelu(self.norm(h))))).chunk(2, dim=1)
        return torch.tanh(torch.stack([self.leave(x), self.leave(y - x[:, :6])], dim=2)).reshape(-1, 4, 5)


class Heads(nn.Module):
    """A trunk with a head without an activation and one with."""

    def __init__(self):
        super().__init__()
        self.trunk, self.mean, self.scale = nn.Linear(4, 12), nn.Linear(12, 7), nn.Linear(12, 7)

    def forward(self, z):
        h = F.silu(self.trunk(z))
        return torch.stack([self.mean(h), F.softplus(self.scale(h))], 1)


class InPlace(nn.Module):
    """Changes a value in place that it takes again later."""

    def __init__(self):
        super().__init__()
        self.enter, self.inner = nn.Linear(4, 12), nn.Linear(12, 12)

    def forward(self, z):
        h = self.enter(z)
        return self.inner(F.relu(h, inplace=True)) + h


class Convolutional(nn.Module):
    """A residual block with a convolution."""

    def __init__(self):
        super().__init__()
        self.enter, self.inner = nn.Linear(4, 32), nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, z):
        h = self.enter(z).view(-1, 2, 4, 4)
        return h + self.inner(torch.relu(h))


MODULES = {
    "residual": residual, "residual GELU": partial(residual, activation=F.gelu), "skips": Skips,
    "skips ELU": partial(Skips, activation=F.elu), "side by side": SideBySide, "normalised": Normalised, "heads": Heads,
    "in place": InPlace, "convolutional": Convolutional,
}  # fmt: skip


def made(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = MODULES[name]().double().eval()
        for m in module.modules():
            if isinstance(m, nn.BatchNorm1d):
                nn.init.uniform_(m.running_var, 0.5, 1.5)
                nn.init.normal_(m.running_mean)
    return module, 5 if name == "side by side" else 4


def codes(k, count=6, seed=0):
    return np.random.default_rng(seed).standard_normal((count, k))


@pytest.mark.parametrize("name", MODULES)
def test_a_traced_graph_that_branches(name):
    module, k = made(name)
    net, z = unrelu.from_torch(module, latent_shape=k), codes(k)
    assert isinstance(net, Network)
    expected = module(torch.from_numpy(z)).detach().numpy()
    np.testing.assert_allclose(net(z), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore")
def test_an_exported_graph_that_branches(tmp_path, name):
    module, k = made(name)
    path = tmp_path / "net.onnx"
    torch.onnx.export(
        module.float(), (torch.zeros(1, k),), path, dynamo=False, input_names=["z"], dynamic_axes={"z": {0: "b"}}
    )
    net, z = unrelu.load(path), codes(k, 1).astype(np.float32)
    assert isinstance(net, Network)
    [expected] = onnxruntime.InferenceSession(path).run(None, {"z": z})
    np.testing.assert_allclose(net(z.astype(np.float64)), expected, rtol=1e-4, atol=1e-5)


def test_what_passes_is_the_narrower_one():
    """The code of 4 instead of the value of 10 that it determines; no value that a later layer does not need."""
    net = unrelu.from_torch(made("residual")[0])
    assert [layer.n_out for layer in net.layers] == [10 + 4, 10 + 10, 10, 24]
    kinks = [int(layer.activation.kinks(layer.n_out).sum()) for layer in net.layers]
    assert kinks == [10, 10, 10, 0]
    assert [layer.n_out for layer in unrelu.from_torch(made("heads")[0]).layers] == [12, 14]


def test_a_large_graph_that_branches_is_kept_as_it_is():
    module, z = Residual(4, 600, 24, plain=True).double().eval(), codes(4)
    net = unrelu.from_torch(module, latent_shape=4)
    assert isinstance(net, OpaqueNetwork)
    assert "has branches, by" in net.reason
    np.testing.assert_allclose(net(z), module(torch.from_numpy(z)).detach().numpy(), rtol=1e-12, atol=1e-12)


# --- activations ------------------------------------------------------------------------------------------------------

PRODUCTS = {
    "swish": [lambda x: x * torch.sigmoid(x), lambda x: torch.sigmoid(x).mul(x), lambda x: x * torch.sigmoid(1.702 * x),
              lambda x: x * (1 / (1 + torch.exp(-x))), lambda x: x * torch.tanh(x)],
    "gelu": [lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), lambda x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5))],
    "gelu_tanh": [lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))],
    "mish": [lambda x: x * torch.tanh(F.softplus(x))],
    "hardswish": [lambda x: x * F.relu6(x + 3) / 6, lambda x: x * F.hardsigmoid(x)],
}  # fmt: skip


class Between(nn.Module):
    """A function of each entry between two layers."""

    def __init__(self, function):
        super().__init__()
        self.first, self.function, self.last = nn.Linear(4, 9), function, nn.Linear(9, 12)

    def forward(self, z):
        return self.last(self.function(self.first(z)))


ALPHA, BETA = (torch.linspace(*ends, 9, dtype=torch.float64) for ends in ((-3, 2), (-1.3, 1.4)))
BETWEEN = [
    *((name, each) for name, products in PRODUCTS.items() for each in products),
    ("swish", lambda x: (BETA + torch.sigmoid(ALPHA * x) * (1 - BETA)) * x),  # the learned one of an emulator
    *((name, lambda x, limits=limits: torch.clamp(x, *limits)) for name, limits in (
        ("hardsigmoid", (0.0, 1.0)), ("hardtanh", (-1.0, 1.0)), ("hardsigmoid", (-0.5, 2.0)), ("relu", (0.3, None)),
        ("relu", (None, 0.2)), ("relu", (0.0, None)),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("name", "function"), BETWEEN)
def test_a_product_or_a_limit_that_is_an_activation(name, function):
    module, z = Between(function).double().eval(), codes(4)
    net = unrelu.from_torch(module)
    assert net.layers[0].activation.name == name
    np.testing.assert_allclose(net(z), module(torch.from_numpy(z)).detach().numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("function", [lambda x: x * x, lambda x: x * torch.sin(x), lambda x: x * torch.sigmoid(x * x)])
def test_other_products_are_no_activation(function):
    assert isinstance(unrelu.from_torch(Between(function).double().eval(), latent_shape=4), OpaqueNetwork)


ACTIVATIONS = [
    nn.GELU(), nn.GELU("tanh"), nn.ELU(), nn.SELU(), nn.CELU(0.7), nn.Mish(), nn.Softplus(), nn.Softplus(3), nn.SiLU(),
    nn.Hardtanh(), nn.Hardtanh(-1, 2), nn.ReLU6(), nn.Hardsigmoid(), nn.Hardswish(),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_modules_of_activations_traced_and_exported(tmp_path, activation):
    module = nn.Sequential(nn.Linear(4, 9), activation, nn.Linear(9, 12)).double().eval()
    net, z = unrelu.from_torch(module), 3 * codes(4)
    assert isinstance(net, Network)
    assert len(net.layers) == 2
    expected = module(torch.from_numpy(z)).detach().numpy()
    np.testing.assert_allclose(net(z), expected, rtol=1e-10, atol=1e-12)
    for opset in (14, 20):
        path = tmp_path / f"{opset}.onnx"
        torch.onnx.export(
            module.float(), (torch.zeros(1, 4),), path, dynamo=False, opset_version=opset, input_names=["z"],
            dynamic_axes={"z": {0: "b"}},
        )  # fmt: skip
        exported = unrelu.load(path)
        assert isinstance(exported, Network)
        np.testing.assert_allclose(exported(z), expected, rtol=1e-4, atol=1e-5)


# --- what a chain is good for -----------------------------------------------------------------------------------------


def test_methods_verdicts_and_proofs_of_a_chain_with_values_that_pass_through():
    net, z = unrelu.from_torch(made("skips")[0]), codes(4, 3, seed=1)
    x = net(z)
    exact = unrelu.invert(net, x)
    assert exact.success.all()
    assert exact.identifiable.all()
    np.testing.assert_allclose(exact.z, z, atol=1e-5)
    a = 0.1 * float(x.std())
    noisy = x + np.random.default_rng(2).uniform(-a, a, x.shape)
    assert unrelu.invert(net, noisy, noise=unrelu.Uniform(a)).success.all()
    found = unrelu.invert(net, noisy[0], "linf")
    assert np.isfinite(found.fun)
    result = unrelu.invert(net, noisy[0], noise=unrelu.Uniform(a))
    proof = unrelu.certify(net, noisy[0], result, noise=f"uniform:{a!r}", time_limit=60)
    assert str(proof.status) in ("OPTIMAL", "PROVED", "CERTIFIED"), proof
    assert proof.verify(net, noisy[0])
