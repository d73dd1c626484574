"""Rectifiers inside opaque generators: every call is found, and is smoothed as that of a chain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.opaque_modules import made
from unrelu.loaders import from_torch
from unrelu.opaque.opaque_network import OpaqueNetwork, RectifierCalls


class Ways(nn.Module):
    """One layer, whose activation is called in one way, beside a linear branch; no layer has a maximum of one entry."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.beside, self.last = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(8, 10)
        self.activation = activation

    def forward(self, z):
        return self.last(self.activation(self.first(z)) + self.beside(z)).unsqueeze(1).amax(1)


def left_in_place(u):
    torch.relu_(u)
    return u


WAYS = {
    "a module": (nn.ReLU(), 0.0),
    "in place": (nn.ReLU(inplace=True), 0.0),
    "a function": (torch.relu, 0.0),
    "a method": (lambda u: u.relu(), 0.0),
    "a method in place": (lambda u: u.relu_(), 0.0),
    "of which nothing is taken": (left_in_place, 0.0),
    "an operator": (torch.ops.aten.relu.default, 0.0),
    "leaky": (nn.LeakyReLU(0.3), 0.3),
    "leaky, in place": (nn.LeakyReLU(0.3, inplace=True), 0.3),
    "leaky, by position": (lambda u: functional.leaky_relu(u, 0.3, True), 0.3),
    "leaky, by default": (functional.leaky_relu, 0.01),
    "leaky, by name": (lambda u: functional.leaky_relu(input=u, negative_slope=0.3), 0.3),
    "above one": (lambda u: functional.leaky_relu(u, 1.5), 1.5),
}


@pytest.mark.parametrize("way", WAYS)
def test_rectifiers_are_found_however_they_are_called(way):
    function, slope = WAYS[way]
    seen = []

    def substitute(call, u, activation):
        seen.append((call, activation.slope.item()))
        return torch.full_like(u, 7.0)

    u = torch.tensor([-1.0, 2.0])
    with RectifierCalls(substitute):
        assert function(u.clone()).tolist() == [7.0, 7.0]
    assert seen == [(0, slope)]
    np.testing.assert_allclose(function(u.clone()), [-slope, 2.0], rtol=1e-6)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.3, inplace=True)])
def test_it_is_smoothed_as_a_chain_is_by_the_sizes_of_its_layers(activation):
    module = made(lambda: nn.Sequential(nn.Linear(3, 9), activation, nn.Linear(9, 7), activation, nn.Linear(7, 10)))
    chain = from_torch(module, latent_shape=3)
    opaque = OpaqueNetwork(module.double().requires_grad_(False), (3,), "", (10,), 9)
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((6, 3)))
    # The sizes of a chain are those of other draws.
    sizes = [float(np.sqrt(np.square(np.maximum(u, 0)).mean())) for u in _arguments(chain, opaque.typical_codes)]
    widths = [*(0.4 * size for size in sizes), 0.0]
    layers = [
        replace(layer, activation=layer.activation.smoothed(width))
        for layer, width in zip(chain.layers, widths, strict=True)
    ]
    expected, smoothed = replace(chain, layers=tuple(layers)), opaque.smoothed(0.4)
    for found, wanted in zip(smoothed.linearize(z), expected.linearize(z), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(smoothed.forward(leaf).sum(), leaf)
    np.testing.assert_allclose(gradient, expected.linearize(z)[1].sum(dim=2), rtol=1e-9, atol=1e-12)
    assert np.abs(smoothed(z.numpy()) - opaque(z.numpy())).max() > 1e-3


def _arguments(chain, z):
    """The arguments of the hidden activations, and so the outputs of the affine maps."""
    outputs = [z, *chain.trace(z)]
    return [layer.matrix().dot(h.T).T + layer.bias() for layer, h in zip(chain.layers[:-1], outputs, strict=False)]


def test_a_generator_without_kinks_is_its_smoothed_one():
    for function in (torch.sin, torch.tanh):
        network = from_torch(made(lambda function=function: Ways(function)), latent_shape=3)
        assert network.smoothed(0.5) is network


class OneByOne(nn.Module):
    """Takes one code at a time under ``vmap``, as ONNX graphs of a fixed batch size."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 8)

    def forward(self, z):
        return torch.func.vmap(lambda row: torch.relu(self.first(row)) + row.sum())(z)


def test_rectifiers_within_vmap_are_left_as_they_are():
    network = OpaqueNetwork(made(OneByOne).double().requires_grad_(False), (3,), "", (8,), 8)
    assert network.smoothed(0.5) is network


class Viewed(nn.Module):
    """A convolution whose output is viewed, which takes a certain order in memory."""

    def __init__(self, view):
        super().__init__()
        self.first, self.conv = nn.Linear(3, 32), nn.Conv2d(2, 4, 3, padding=1)
        self.view = view

    def forward(self, z):
        x = torch.relu(self.conv(self.first(z).view(-1, 2, 4, 4)))
        x = x + torch.tanh(x.square())
        return x.view(len(z), -1) if self.view else x


@pytest.mark.parametrize("view", [False, True])
def test_convolutions_in_single_precision_compute_the_same_with_the_channels_last(view):
    network = from_torch(made(lambda: Viewed(view)), latent_shape=3)
    assert isinstance(network, OpaqueNetwork)
    z = np.random.default_rng(0).standard_normal((5, 3))
    single = network.to(torch.float32)
    np.testing.assert_allclose(single(z), network(z), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(single.jacobian(z), network.jacobian(z), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        network.to(torch.float32).smoothed(0.3)(z), network.smoothed(0.3)(z), rtol=1e-4, atol=1e-5
    )
