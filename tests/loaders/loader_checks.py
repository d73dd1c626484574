"""What every loaded network must satisfy, whichever file or module it came from."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from unrelu.models.network import Network


def codes(net: Network, count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, net.latent_dim))


def check_same_as_module(net: Network, module: nn.Module) -> None:
    """G(z) and its Jacobian are PyTorch's, to 1e-10 in float64; a module in another dtype is converted in a copy."""
    z = torch.from_numpy(codes(net))
    with torch.no_grad():
        wanted = module(z.reshape(len(z), *net.latent_shape)).numpy()
    np.testing.assert_allclose(net(z.numpy()), wanted, atol=1e-10, rtol=1e-10)
    assert net(z[0].numpy()).shape == net.output_shape == wanted.shape[1:]

    def flat(code: torch.Tensor) -> torch.Tensor:
        return module(code.reshape(1, *net.latent_shape)).reshape(-1)

    jacobian = torch.autograd.functional.jacobian(flat, z[0]).numpy()
    np.testing.assert_allclose(net.jacobian(z[0].numpy()), jacobian, atol=1e-9, rtol=1e-9)


def layers_reproduce(net: Network) -> None:
    """phi(A h + b), with A and b written out, is what each layer computes; and the Jacobian is the slope of G."""
    z = codes(net)
    values = [z, *net.trace(z)]
    for layer, h, x in zip(net.layers, values[:-1], values[1:], strict=True):
        flat = h.reshape(len(z), -1)
        assert layer.matrix().shape == (layer.n_out, layer.n_in) == (math.prod(layer.out_shape), flat.shape[1])
        np.testing.assert_allclose(layer.value(flat), x.reshape(len(z), -1), atol=1e-10, rtol=1e-10)
    # A central difference is exact but for rounding wherever G is linear, and to O(step^2) where it is smooth.
    direction, step = codes(net, 1, seed=1)[0], 1e-6
    slope = (net(z[0] + step * direction) - net(z[0] - step * direction)).reshape(-1) / (2 * step)
    np.testing.assert_allclose(net.jacobian(z[0]) @ direction, slope, atol=1e-6, rtol=1e-6)


def evaluation(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 and evaluation mode, its batch normalisations and slopes away from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
                m.running_mean.copy_(torch.randn(m.num_features, generator=generator) / 4)
                m.running_var.copy_(0.5 + torch.rand(m.num_features, generator=generator))
            if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.PReLU) and m.weight is not None:
                m.weight.copy_(0.2 + torch.rand(m.weight.shape, generator=generator))
            if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.bias is not None:
                m.bias.copy_(torch.randn(m.num_features, generator=generator) / 4)
    return module.double().eval()
