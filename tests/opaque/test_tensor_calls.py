"""Generators called with tensors: differentiable, and parts of functions that are read as layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from tests.opaque_modules import OPAQUE
from tests.wrappers.test_joined import PARTS
from unrelu.errors import InputError
from unrelu.models.network import Network
from unrelu.opaque.opaque_network import OpaqueNetwork

NETS = PARTS | {"extended": unrelu.extend(PARTS["relu"], offset=(-1, 1)), "joined": unrelu.join(**PARTS)}


@pytest.mark.parametrize("name", NETS)
def test_a_tensor_gives_a_differentiable_tensor(name):
    net = NETS[name]
    z = torch.from_numpy(0.3 * np.random.default_rng(0).standard_normal((2, net.latent_dim))).requires_grad_()
    x = net(z)
    assert isinstance(x, torch.Tensor)
    assert x.shape == (2, *net.output_shape)
    np.testing.assert_array_equal(x.detach(), net(z.detach().numpy()))
    (gradient,) = torch.autograd.grad(x.sum(), z)
    np.testing.assert_allclose(gradient, net.jacobian(z.detach().numpy()).sum(axis=1), rtol=1e-9, atol=1e-9)
    (along,) = torch.func.jvp(net, (z.detach(),), (torch.ones_like(z),))[1:]
    np.testing.assert_allclose(along.reshape(2, -1), net.jacobian(z.detach().numpy()).sum(axis=2), rtol=1e-9, atol=1e-9)


def test_shapes_and_types_are_those_of_the_codes():
    net = OPAQUE["skip"]
    assert net(torch.zeros(6, 1, 1)).shape == net.output_shape
    assert net(torch.zeros(4, 6)).shape == (4, *net.output_shape)
    assert net(torch.zeros(6)).dtype == torch.float32
    assert net(torch.zeros(6, dtype=torch.int64)).dtype == torch.float64
    assert isinstance(net([0.0] * 6), np.ndarray)
    with pytest.raises(InputError, match=r"z has shape \(3, 5\); this network takes codes of shape \(6, 1, 1\)"):
        net(torch.zeros(3, 5))


@pytest.mark.parametrize("name", ["relu", "tanh", "power", "convolution"])
def test_functions_of_chains_are_chains(name):
    net = PARTS[name]
    found = unrelu.from_torch(lambda z: 2 * net(z) + 1, net.latent_dim)
    assert isinstance(found, Network)
    assert [layer.n_out for layer in found.layers][: len(net.layers)] == [layer.n_out for layer in net.layers]
    assert found.output_shape == net.output_shape
    z = np.random.default_rng(1).standard_normal((3, net.latent_dim))
    np.testing.assert_allclose(found(z), 2 * net(z) + 1, rtol=1e-9)


def test_functions_of_several_are_chains_where_they_are_dense():
    one, two = PARTS["relu"], PARTS["deep"]
    found = unrelu.from_torch(lambda z: torch.cat([one(z[:, :3]), two(z[:, 2:])], dim=1), 4)
    assert isinstance(found, Network)
    z = np.random.default_rng(1).standard_normal((3, 4))
    np.testing.assert_allclose(found(z), unrelu.join(one=one, two=two)(z), rtol=1e-9)


def test_functions_of_what_is_no_chain_have_its_derivatives():
    """Forward mode goes through the call: detached tensors have no tangents."""
    net = OPAQUE["residual"]
    found = unrelu.from_torch(lambda z: net(z).square(), 5)
    assert isinstance(found, OpaqueNetwork)
    z = np.random.default_rng(2).standard_normal((3, 5))
    np.testing.assert_allclose(found.jacobian(z), 2 * net(z)[:, :, None] * net.jacobian(z), rtol=1e-9, atol=1e-9)
