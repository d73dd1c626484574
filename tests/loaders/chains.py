"""Chains of layers as people write them: with modules, functions, methods and arithmetic."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from tests.opaque_modules import Residual


def seq(*modules):
    return nn.Sequential(*modules)


class Composed(nn.Module):
    """Modules and parameters by name, and a function that makes outputs of them and the code."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, z):
        return self.function(self, z)


class Functional(nn.Module):
    """Everything as functions and methods, and the sizes asked from the input."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 16)
        self.bn = nn.BatchNorm1d(16)
        self.up = nn.ConvTranspose2d(4, 2, 3, 2, 1, 1)
        self.slopes = nn.Parameter(torch.rand(2))
        self.kernel = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.gain = nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("mean", torch.randn(4, 8, 8))

    def forward(self, z):
        h = F.leaky_relu(self.bn(self.fc(z)), 0.2).view(z.size(0), 4, 2, -1)
        h = F.prelu(self.up(h), self.slopes)
        h = F.dropout(h, 0.5, training=self.training)
        h = F.interpolate(h, scale_factor=2, mode="bilinear")
        h = F.conv2d(h, self.kernel, padding=1).relu_()
        h = torch.sigmoid(h) * self.gain - 2 * self.mean
        b, c = h.shape[:2]
        h = h.reshape(b, c, -1)[:, 1:, None, 3:-2]
        return -F.avg_pool2d(h.squeeze(2).unflatten(2, (1, -1)), (1, 2)).flatten(start_dim=1).tanh() / 3


def arithmetic(m, z, scale=2.0):
    h = torch.relu(z @ m.w + m.c)
    h = torch.add(1.0, h, alpha=scale)
    h = torch.rsub(h, m.c, alpha=0.5).sub(0.25).mul_(m.c.exp()).div(math.pi)
    h = torch.matmul(m.left, h.view(-1, 2, 3)).contiguous()
    h += m.c.sum()
    return torch.tanh(input=h.to(torch.float64).clone())


class Equalized(nn.Linear):
    """A subclass with a forward of its own is traced, not taken for its base."""

    def forward(self, x):
        return F.linear(x, self.weight * 0.5, self.bias)


class Named(nn.Linear):
    """A subclass that inherits forward is its base."""


def dcgan(width=4):
    def block(n, m, *geometry):
        return seq(nn.ConvTranspose2d(n, m, *geometry, bias=False), nn.BatchNorm2d(m), nn.ReLU(True))

    last = seq(nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False), nn.Tanh())
    return seq(block(6, 2 * width, 4, 1, 0), block(2 * width, width, 4, 2, 1), last)


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


def normalised(m, z):
    """Batch normalisation, dropout, constants, reshapes and differences between branches."""
    h = m.enter(z) * 2 + 1
    x, y = (h - 0.5 * m.drop(m.inner(F.gelu(m.norm(h))))).chunk(2, dim=1)
    return torch.tanh(torch.stack([m.leave(x), m.leave(y - x[:, :6])], dim=2)).reshape(-1, 4, 5)


# Graphs that branch: the shape of a code, and the module.
BRANCHING = {
    "residual": (4, partial(Residual, 4, 10, 24, plain=True)),
    "residual GELU": (4, partial(Residual, 4, 10, 24, plain=True, activation=F.gelu)),
    "skips": (4, Skips),
    "skips ELU": (4, partial(Skips, activation=F.elu)),
    # Two networks of different depth and activations, each on a part of the code.
    "side by side": (5, lambda: Composed(
        lambda m, z: torch.cat([part(c) for part, c in zip((m.one, m.two), z.split([2, 3], dim=1), strict=True)], 1),
        one=seq(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 12)),
        two=seq(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 14), nn.Sigmoid()),
    )),
    "normalised": (4, lambda: Composed(
        normalised, enter=nn.Linear(4, 12), norm=nn.BatchNorm1d(12), inner=nn.Linear(12, 12), drop=nn.Dropout(),
        leave=nn.Linear(6, 10),
    )),
    # A trunk with a head without an activation and one with.
    "heads": (4, lambda: Composed(
        lambda m, z: torch.stack([m.mean(h := F.silu(m.trunk(z))), F.softplus(m.scale(h))], 1),
        trunk=nn.Linear(4, 12), mean=nn.Linear(12, 7), scale=nn.Linear(12, 7),
    )),
    # A value is changed in place and taken again later.
    "in place": (4, lambda: Composed(
        lambda m, z: m.inner(F.relu(h := m.enter(z), inplace=True)) + h, enter=nn.Linear(4, 12), inner=nn.Linear(12, 12)
    )),
    "convolutional": (4, lambda: Composed(
        lambda m, z: (h := m.enter(z).view(-1, 2, 4, 4)) + m.inner(torch.relu(h)),
        enter=nn.Linear(4, 32), inner=nn.Conv2d(2, 2, 3, padding=1),
    )),
}  # fmt: skip

# The same of all chains.
CHAINS = {
    "mlp": (3, lambda: seq(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 9, bias=False), nn.ReLU())),
    "mlp with batch norms": (3, lambda: seq(
        nn.BatchNorm1d(3), nn.Linear(3, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(), nn.Linear(7, 5),
        nn.BatchNorm1d(5, affine=False),
    )),
    "batch norm after the activation": (3, lambda: seq(
        nn.Linear(3, 7), nn.ReLU(), nn.BatchNorm1d(7), nn.Linear(7, 4)
    )),
    "dcgan": ((6, 1, 1), dcgan),
    "vae": (3, lambda: seq(
        nn.Linear(3, 2 * 4 * 4), nn.Dropout(0.3), nn.Unflatten(1, (2, 4, 4)), nn.Upsample(scale_factor=2),
        nn.Conv2d(2, 3, 3, padding=1), nn.Dropout2d(), nn.BatchNorm2d(3), nn.LeakyReLU(0.2),
        nn.UpsamplingBilinear2d(scale_factor=2), nn.Conv2d(3, 1, 3, padding="same"), nn.Sigmoid(), nn.Flatten(),
    )),
    "groups, dilation, output padding": ((4, 1, 1), lambda: seq(
        nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (0, 1), (1, 2), groups=2, dilation=(1, 2)), nn.BatchNorm2d(6),
        nn.ReLU(), nn.Conv2d(6, 4, (2, 3), dilation=(2, 1), groups=2, padding="valid"), nn.PReLU(4),
    )),
    "one axis": (3, lambda: seq(
        nn.Linear(3, 12), nn.Unflatten(1, (4, 3)), nn.Upsample(scale_factor=3),
        nn.Conv1d(4, 6, 3, padding=2, dilation=2, groups=2), nn.BatchNorm1d(6), nn.LeakyReLU(0.2), nn.AvgPool1d(3, 2),
        nn.ConvTranspose1d(6, 2, 4, 2), nn.Flatten(),
    )),
    "average pooling": (4, lambda: seq(
        nn.Linear(4, 50), nn.Unflatten(1, (2, 5, 5)), nn.AvgPool2d(3, 2, 1), nn.ReLU(), nn.Upsample(6),
        nn.AvgPool2d((2, 3), (2, 1), (1, 1), ceil_mode=True, count_include_pad=False), nn.Sigmoid(),
    )),
    "adaptive pooling": (4, lambda: seq(
        nn.Linear(4, 48), nn.Unflatten(1, (2, 4, 6)), nn.Conv2d(2, 2, (2, 3), padding="same"), nn.ReLU(),
        nn.AdaptiveAvgPool2d((2, None)), nn.AdaptiveAvgPool2d(1),
    )),
    "pixel shuffle": (3, lambda: seq(nn.Linear(3, 24), nn.Unflatten(1, (8, 1, 3)), nn.PixelShuffle(2), nn.ReLU())),
    "linear on the last axis": (6, lambda: seq(
        nn.Linear(6, 6), nn.Unflatten(1, (2, 3)), nn.Linear(3, 4), nn.PReLU(2)
    )),
    "odd slopes": (3, lambda: seq(
        nn.Linear(3, 4), nn.LeakyReLU(0), nn.Linear(4, 4), nn.LeakyReLU(1.0), nn.Linear(4, 4), nn.LeakyReLU(1.5)
    )),
    "silu": (3, lambda: seq(
        nn.Linear(3, 6), nn.SiLU(inplace=True), nn.Linear(6, 8), nn.Unflatten(1, (2, 4)), nn.SiLU()
    )),
    "one layer": (3, lambda: nn.Linear(3, 5)),
    "functional": (5, Functional),
    "arithmetic": ((4,), lambda: Composed(arithmetic, **{
        name: nn.Parameter(torch.randn(shape)) for name, shape in (("w", (4, 6)), ("left", (5, 2)), ("c", 6))
    })),
    "equalized": (3, lambda: seq(Equalized(3, 4), nn.ReLU(), Named(4, 2))),
    "first layer with a forward of its own": (3, lambda: Equalized(3, 4)),
    **BRANCHING,
}  # fmt: skip
