"""Graphs that branch, and products that are activations, as chains of layers: their outputs, methods and proofs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import unrelu
from tests.loaders.chains import CHAINS, Composed, Skips, seq
from tests.loaders.loader_checks import check_same_as_module, codes, evaluation
from tests.loaders.onnx_checks import export
from tests.opaque_modules import Residual
from unrelu.opaque.opaque_network import OpaqueNetwork


def test_what_passes_is_the_narrower_one():
    """The code of 4 instead of the value of 10 that it determines; no value that a later layer does not need."""
    net, heads = (unrelu.from_torch(evaluation(CHAINS[name][1]())) for name in ("residual", "heads"))
    assert [layer.n_out for layer in net.layers] == [10 + 4, 10 + 10, 10, 24]
    kinks = [int(layer.activation.kinks(layer.n_out).sum()) for layer in net.layers]
    assert kinks == [10, 10, 10, 0]
    assert [layer.n_out for layer in heads.layers] == [12, 14]


def test_a_large_graph_that_branches_is_kept_as_it_is():
    module = evaluation(Residual(4, 600, 24, plain=True))
    net = unrelu.from_torch(module, latent_shape=4)
    assert isinstance(net, OpaqueNetwork)
    assert "has branches, by" in net.reason
    check_same_as_module(net, module)


PRODUCTS = {
    "swish": [lambda x: x * torch.sigmoid(x), lambda x: torch.sigmoid(x).mul(x), lambda x: x * torch.sigmoid(1.702 * x),
              lambda x: x * (1 / (1 + torch.exp(-x))), lambda x: x * torch.tanh(x)],
    "gelu": [lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), lambda x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5))],
    "gelu_tanh": [lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))],
    "mish": [lambda x: x * torch.tanh(F.softplus(x))],
    "hardswish": [lambda x: x * F.relu6(x + 3) / 6, lambda x: x * F.hardsigmoid(x)],
}  # fmt: skip


def between(function):
    """A function of each entry between two layers."""
    layers = {"first": nn.Linear(4, 9), "last": nn.Linear(9, 12)}
    return evaluation(Composed(lambda m, z: m.last(function(m.first(z))), **layers))


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
    net = unrelu.from_torch(module := between(function))
    assert net.layers[0].activation.name == name
    check_same_as_module(net, module)


@pytest.mark.parametrize("function", [lambda x: x * x, lambda x: x * torch.sin(x), lambda x: x * torch.sigmoid(x * x)])
def test_other_products_are_no_activation(function):
    assert isinstance(unrelu.from_torch(between(function), latent_shape=4), OpaqueNetwork)


ACTIVATIONS = [
    nn.GELU(), nn.GELU("tanh"), nn.ELU(), nn.SELU(), nn.CELU(0.7), nn.Mish(), nn.Softplus(), nn.Softplus(3), nn.SiLU(),
    nn.Hardtanh(), nn.Hardtanh(-1, 2), nn.ReLU6(), nn.Hardsigmoid(), nn.Hardswish(),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_modules_of_activations_traced_and_exported(tmp_path, activation):
    module = evaluation(seq(nn.Linear(4, 9), activation, nn.Linear(9, 12)))
    net = unrelu.from_torch(module)
    z = 3 * codes(net, 6)
    expected = module(torch.from_numpy(z)).detach().numpy()
    np.testing.assert_allclose(net(z), expected, rtol=1e-10, atol=1e-12)
    exported = (export(module.float(), (4,), tmp_path / f"{k}.onnx", opset_version=k) for k in (14, 20))
    for each in (net, *map(unrelu.load, exported)):
        assert len(each.layers) == 2
        np.testing.assert_allclose(each(z), expected, rtol=1e-4, atol=1e-5)


def test_methods_verdicts_and_proofs_of_a_chain_with_values_that_pass_through():
    net = unrelu.from_torch(evaluation(Skips(3, 6, 24)))
    z = codes(net, 3, seed=1)
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
