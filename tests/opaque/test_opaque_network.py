"""Generators that are no chains of layers: evaluated, differentiated and inverted all the same."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import unrelu.opaque.opaque_network as opaque_module
from tests.opaque_modules import (
    GENERATORS,
    OPAQUE,
    Attention,
    Cube,
    Function,
    Residual,
    Untraceable,
    codes,
    double,
    made,
)
from tests.support import freedom, rounding
from unrelu._invert import invert
from unrelu.errors import UnsupportedModelError
from unrelu.loaders import from_torch
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.opaque.opaque_network import OpaqueNetwork

each = pytest.mark.parametrize("name", OPAQUE)


@each
def test_it_is_the_module(name):
    module, shape, why = GENERATORS[name]
    net = OPAQUE[name]
    assert isinstance(net, OpaqueNetwork)
    assert re.search(why, net.reason)
    assert net.latent_shape == shape
    z = codes(net, 4)
    wanted = double(module)(torch.from_numpy(z).reshape(4, *shape)).numpy()
    np.testing.assert_allclose(net(z), wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(net(z[1]), wanted[1], rtol=1e-12, atol=1e-12)
    assert net.output_shape == wanted.shape[1:]
    assert net.output_dim == wanted[0].size
    assert net.typical_output > 0


@each
def test_jacobian_is_the_slope_of_the_output(name):
    """Central differences, and autograd's reverse mode."""
    net = OPAQUE[name]
    z, d, step = codes(net, 3), codes(net, 3, seed=1), 1e-6
    jacobian = net.jacobian(z)
    slope = (net(z + step * d) - net(z - step * d)).reshape(3, -1) / (2 * step)
    np.testing.assert_allclose(np.einsum("bnk,bk->bn", jacobian, d), slope, rtol=1e-6, atol=1e-7)
    for i in range(3):
        reverse = torch.autograd.functional.jacobian(lambda c: net.forward(c[None])[0], torch.from_numpy(z[i]))
        np.testing.assert_allclose(jacobian[i], reverse, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(net.jacobian(z[i]), jacobian[i], rtol=1e-10, atol=1e-11)


@each
def test_directions_are_pushed_in_pieces_where_they_are_many(name, monkeypatch):
    net = OPAQUE[name]
    z = torch.from_numpy(codes(net))
    whole = net.linearize(z)
    monkeypatch.setattr(opaque_module, "TANGENT_BYTES", 2 * 3 * net.width)
    for one, other in zip(whole, net.linearize(z), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@each
def test_float32(name):
    net = OPAQUE[name]
    single = net.to(torch.float32)
    z = codes(net)
    assert single.dtype == torch.float32
    assert single.forward(torch.zeros(1, net.latent_dim)).dtype == torch.float32
    assert single.linearize(torch.zeros(1, net.latent_dim))[1].dtype == torch.float32
    np.testing.assert_allclose(single(z), net(z), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(single.jacobian(z), net.jacobian(z), rtol=1e-3, atol=1e-4)
    wanted = double(GENERATORS[name][0])(torch.from_numpy(z).reshape(3, *net.latent_shape))
    np.testing.assert_allclose(net(z), wanted, rtol=1e-12, atol=1e-12)


@given(
    sizes=st.tuples(*[st.integers(1, 6)] * 3),
    blocks=st.integers(1, 3),
    activation=st.sampled_from([torch.relu, torch.tanh, nn.functional.silu, nn.functional.softplus]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=20)
def test_any_residual_network(sizes, blocks, activation, seed):
    """J d of forward mode is the slope along d, and v . J d = J^T v . d of reverse mode."""
    module = made(Residual, *sizes, blocks, activation, seed=seed)
    net = OpaqueNetwork(double(module), sizes[:1], "a test", sizes[2:], max(sizes))
    z, d, v = (torch.from_numpy(np.random.default_rng(seed + i).standard_normal((2, n)))
               for i, n in enumerate((sizes[0], sizes[0], sizes[2])))  # fmt: skip
    _, tangents = net.linearize(z)
    along = (tangents * d[:, :, None]).sum(dim=1)
    z.requires_grad_(True)
    (pulled,) = torch.autograd.grad((net.forward(z) * v).sum(), z)
    np.testing.assert_allclose((along * v).sum(dim=1), (pulled * d).sum(dim=1), rtol=1e-9, atol=1e-10)


def test_width_is_the_widest_tensor_of_a_code():
    assert from_torch(made(Residual, 3, 50, 7)).width == 50
    # Weights, larger than anything else here, are not counted.
    assert from_torch(made(Residual, 3, 4, 90)).width == 90
    assert OPAQUE["skip"].width == 6 * 6 * 6


@dataclass(frozen=True)
class Linear(Generator):
    """A generator of somebody else's making."""

    matrix: torch.Tensor
    latent_shape: tuple[int, ...] = (3,)
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    @property
    def output_shape(self):
        return (len(self.matrix),)

    @property
    def width(self):
        return len(self.matrix)

    def to(self, dtype=None, device=None):
        return self

    def forward(self, z):
        return z @ self.matrix.T

    def linearize(self, z):
        return self.forward(z), self.matrix.T.expand(len(z), -1, -1)


def test_a_generator_of_your_own():
    net = Linear(torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3))))
    z = codes(net)
    np.testing.assert_allclose(invert(net, net(z)).z, z, rtol=1e-10)
    with pytest.raises(UnsupportedModelError, match="a Linear has no layers; method='l1' needs a chain of layers"):
        invert(net, net(z), "l1")


def test_the_module_is_left_alone_and_later_changes_do_not_leak_in():
    module = made(Attention)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.random.get_rng_state()
    net = from_torch(module, 6)
    z = codes(net)
    x = net(z)
    net.jacobian(z)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.requires_grad and p.grad is None and p.dtype == torch.float32 for p in module.parameters())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    module.mask.zero_()
    module.train()
    np.testing.assert_array_equal(net(z), x)
    assert not any(p.requires_grad for p in net.module.parameters())
    assert not any(m.training for m in net.module.modules())


def test_what_a_forward_pass_leaves_behind_does_no_harm():
    """A module may keep what it computed, and inside a transform of PyTorch that is a tensor that outlives it."""

    class Remembers(Residual):
        def forward(self, z):
            self.seen = super().forward(z)
            return self.seen * 2

    net = from_torch(made(Remembers))
    z = codes(net)
    jacobian = net.jacobian(z)
    np.testing.assert_allclose(net.to(torch.float32).jacobian(z), jacobian, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(net.jacobian(z), jacobian)


def test_a_module_may_change_its_input():
    net = from_torch(Function(lambda z, w: (z.mul_(2) @ w.T).cosh_()), 3)
    z = torch.from_numpy(codes(net))
    before = z.clone()
    net.forward(z)
    net.linearize(z)
    assert torch.equal(z, before)
    np.testing.assert_allclose(net(z.numpy()), np.cosh(2 * z.numpy() @ net.module.weight.numpy().T), rtol=1e-12)


def test_fused_attention_is_switched_back_on():
    net, z = OPAQUE["attention"], codes(OPAQUE["attention"])
    net.jacobian(z)
    with opaque_module.plain_attention(), opaque_module.plain_attention():
        assert not torch.backends.mha.get_fastpath_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
        thread = threading.Thread(target=net, args=(z,))
        thread.start()
        thread.join()
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def fused(z, w):
    x = (z @ w.T).reshape(len(z), 1, 2, 2)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return nn.functional.scaled_dot_product_attention(x, 2 * x, x.exp()).flatten(1)


@pytest.mark.parametrize("function", [lambda z, w: Cube.apply(z @ w.T) + z[:, :1], fused])
def test_reverse_mode_where_there_is_no_forward_mode(function):
    net = from_torch(Function(function), 3)
    assert not net.forward_mode
    assert "reverse-mode Jacobian" in str(net)
    z = codes(net)
    d, step = codes(net, seed=1), 1e-6
    slope = (net(z + step * d) - net(z - step * d)) / (2 * step)
    with torch.no_grad():
        np.testing.assert_allclose(np.einsum("bnk,bk->bn", net.jacobian(z), d), slope, rtol=1e-6, atol=1e-7)
    x, tangents = net.linearize(torch.from_numpy(z))
    assert not x.requires_grad
    assert not tangents.requires_grad
    np.testing.assert_array_equal(x, net(z))
    assert (invert(net, net(z), "auto").residual("linf") < 1e-8).all()


def test_group_normalisation_of_channels_that_are_last_in_memory():
    """As after the attention between the pixels of a decoder of latent diffusion."""

    def normalised(z, w):
        x = torch.outer(torch.ones(4).to(w), w.sum(1)) * (z @ w.T)[:, :, None]
        return nn.functional.group_norm(x.reshape(-1, 2, 2, 4).permute(0, 3, 1, 2) ** 2, 2).flatten(1)

    net = from_torch(Function(normalised), 3)
    assert net.forward_mode
    z = torch.from_numpy(codes(net))
    reverse = [torch.autograd.functional.jacobian(lambda c: net.forward(c[None])[0], row) for row in z]
    np.testing.assert_allclose(net.jacobian(z.numpy()), torch.stack(reverse), rtol=1e-10, atol=1e-11)


def test_a_chain_and_the_same_module_made_opaque_agree():
    chain = made(nn.Sequential, nn.Linear(4, 12), nn.LeakyReLU(0.1), nn.Linear(12, 30), nn.ReLU())
    net, hidden = from_torch(chain), from_torch(Untraceable(chain).eval(), 4)
    assert isinstance(net, Network)
    assert isinstance(hidden, OpaqueNetwork)
    assert "takes a number out of a tensor that depends on the code" in hidden.reason
    assert (net.width, net.typical_output) == (hidden.width, pytest.approx(hidden.typical_output, rel=1e-12))
    z = codes(net, 6)
    np.testing.assert_allclose(hidden(z), net(z), rtol=0, atol=rounding(net, z))
    np.testing.assert_allclose(hidden.jacobian(z), net.jacobian(z), rtol=0, atol=rounding(net, np.eye(4)))
    np.testing.assert_array_equal(freedom(hidden, z), freedom(net, z))
    for method, options in (("lm", {}), ("auto", {}), ("gradient_descent", {"max_iterations": 100})):
        start = z + 0.05 * codes(net, 6, seed=2)
        one, other = (invert(g, net(z), method, z0=start, **options) for g in (net, hidden))
        np.testing.assert_allclose(other.z, one.z, rtol=1e-6, atol=1e-8)
        assert list(one.status) == list(other.status)
