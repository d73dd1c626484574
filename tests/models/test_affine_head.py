"""Affine heads: what is found to be one, in all units, and what is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from tests.opaque_modules import OPAQUE
from tests.support import random_network
from unrelu.local_search.packed_observations import packable
from unrelu.measurements.working_units import Coordinates, on_coordinates
from unrelu.parameters.latent_bounds import Bounds
from unrelu.problem import Problem

K, N = 3, 12
NETWORK = random_network((K, 20, N), seed=1, bias=True)
T = torch.linspace(-1, 1, N, dtype=torch.float64)


def part(x, gain):
    return torch.cat([x[:, : N // 2] * gain, x[:, N // 2 :]], dim=1)


AFFINE = {
    "scale": unrelu.extend(NETWORK, scale=(0.5, 2)),
    "offset": unrelu.extend(NETWORK, offset=unrelu.Normal(3.0, 0.1)),
    "template": unrelu.extend(NETWORK, lambda x, a: x + a * T.to(x), a=unrelu.Normal(0.2, 0.5)),
    "two": unrelu.extend(NETWORK, lambda x, a, b: x * (1 + a * T.to(x)) + b * T.to(x), a=(-0.1, 0.1), b=(-1, 1)),
    "calibration, scale": unrelu.extend(NETWORK, part, gain=unrelu.Normal(1.0, 0.05), scale=(-1, 1), offset=True),
    "far": unrelu.extend(NETWORK, lambda x, a: x + (a - 1e6) * T.to(x), a=(1e6, 1e6 + 1)),
}
OTHERS = {
    "shift": unrelu.extend(NETWORK, shift=True, scale=True),
    "power": unrelu.extend(NETWORK, lambda x, a: x * torch.exp(a), a=(-1, 1)),
    "product": unrelu.extend(NETWORK, lambda x, a, b: x + a * b, a=(-1, 1), b=(-1, 1)),
    "absolute": unrelu.extend(NETWORK, lambda x, a: a * x.abs(), a=(1, 2)),
    "smoothing": unrelu.extend(NETWORK, lambda x, a: x + a * x.roll(1, -1), a=(0, 1)),
    "root": unrelu.extend(NETWORK, lambda x, a: x + a * torch.sqrt(x.abs() + 1), a=(0, 1)),
    "another shape": unrelu.extend(NETWORK, lambda x, a: a * x[:, ::2], a=(0, 1)),
    "no layers": unrelu.extend(OPAQUE["residual"], scale=True),
    "twice": unrelu.extend(unrelu.extend(NETWORK, scale=True), offset=True),
}


def refusing(x, a):
    if (x < 0).any():
        raise ValueError("outputs of a ReLU are not negative")
    return a * x


def values(net, z):
    found = net.headed
    x = found.network(z[:, :K])
    for head in found.heads:
        x = head.values(x, z[:, K:])
    return x


@pytest.mark.parametrize("name", AFFINE)
def test_heads_on_the_chain_are_the_generator(name):
    net = AFFINE[name]
    z = 2 * np.random.default_rng(1).standard_normal((20, net.latent_dim))
    np.testing.assert_allclose(values(net, z), net(z), rtol=1e-9, atol=1e-9 * np.abs(net(z)).max())


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_are_none(name):
    assert OTHERS[name].headed is None


def test_a_function_may_refuse_outputs_that_its_generator_does_not_have():
    net = unrelu.extend(random_network((K, 20, N), seed=2, bias=True), refusing, a=(0.5, 2))
    assert net.headed is None
    z = np.array([0.1, -0.4, 0.3, 0.5])
    np.testing.assert_allclose(unrelu.invert(net, net(z)).reconstruction, net(z), atol=1e-6)


@pytest.mark.parametrize("exponent", [0, 60])
def test_heads_are_in_the_units_of_a_search(exponent):
    base = unrelu.from_arrays([np.ldexp(NETWORK.layers[0].matrix(), -exponent), NETWORK.layers[1].matrix()])
    net = unrelu.extend(base, part, gain=unrelu.Normal(1.0, 0.05), scale=(0.5, 2))
    bounds = Bounds.parse((np.array([0.0, 5, -2, -np.inf, -1]), np.array([0.2, 7, np.inf, np.inf, 1])), (K + 2,))
    problem = Problem.build(net, net(np.zeros((2, K + 2)))).equilibrated()
    t = np.random.default_rng(2).standard_normal((9, K + 2))
    for made in (problem.network, on_coordinates(problem.network, Coordinates.of(bounds))):
        np.testing.assert_allclose(values(made, t), made(t), rtol=1e-9, atol=1e-9 * np.abs(made(t)).max())


def test_a_matrix_passes_through_one_scale_only():
    matrix = np.random.default_rng(3).standard_normal((7, N))
    for name, passes in (("scale", True), ("template", True), ("calibration, scale", False)):
        problem = Problem.build(AFFINE[name], np.zeros((1, 7)), operator=matrix)
        assert packable(problem.network, problem.operator) == passes


def measured_values(net, z, operator, kind):
    x = net(z)
    return x if kind == "whole" else x * operator if kind == "masks" else x @ operator.T


@pytest.mark.parametrize("name", ["calibration, scale", "two"])
@pytest.mark.parametrize("kind", ["whole", "masks", "matrix"])
def test_codes_are_found_whatever_is_measured(name, kind):
    net, rng = AFFINE[name], np.random.default_rng(4)
    z = rng.standard_normal((6, net.latent_dim))
    operator = {"whole": None, "masks": rng.random((6, N)) < 0.9, "matrix": rng.standard_normal((10, N))}[kind]
    y = net(z) if kind != "matrix" else net(z) @ operator.T
    r = unrelu.invert(net, y, operator=operator)
    measured = measured_values(net, r.z, operator, kind)
    expected = measured_values(net, z, operator, kind)
    assert (np.abs(measured - expected).max(axis=1) < 1e-7 * np.abs(y).max()).mean() >= 0.8


@pytest.mark.parametrize("known", [{"prior": unrelu.Normal(1, 0.5)}, {"bounds": (-2, 4)}], ids=["prior", "bounds"])
def test_units_of_codes_and_of_outputs_go_together(known):
    """Coordinates of a prior or bounds, within other units of outputs: the p-values are those in the user's units."""
    rng = np.random.default_rng(0)
    weights, codes, e = (
        rng.standard_normal((30, 4)),
        1 + 0.5 * rng.standard_normal((3, 5)),
        rng.standard_normal((3, 30)),
    )
    found = []
    for size in (1.0, 1e4):
        network = unrelu.extend(unrelu.from_arrays([size * weights]), scale=(0.5, 2))
        y = network(codes) + 1e-3 * size * e
        found.append(unrelu.invert(network, y, noise=f"gaussian:{1e-3 * size}", **known).p_value)
    assert (found[0] > 0.01).all()
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)
