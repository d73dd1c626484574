"""Generators of kinds that are no chains of layers, as PyTorch modules with fixed random weights."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unrelu.loaders import from_torch
from unrelu.models.generator import Generator
from unrelu.opaque.torch_callables import frozen


class Residual(nn.Module):
    """A multilayer perceptron with skip connections, which ends in a maximum of one entry each unless it is plain.

    The maximum changes nothing, but no layer can do the same.
    """

    def __init__(self, k=5, width=24, n=40, blocks=2, activation=torch.relu, plain=False):
        super().__init__()
        self.plain = plain
        self.enter, self.leave, self.activation = nn.Linear(k, width), nn.Linear(width, n), activation
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)]) for _ in range(blocks)
        )

    def forward(self, z):
        h = self.enter(z)
        for first, second in self.blocks:
            h = h + second(self.activation(first(h)))
        x = self.leave(self.activation(h))
        return x if self.plain else x.unsqueeze(1).amax(1)


class Modulated(nn.Module):
    """A small StyleGAN 2: the code only modulates and demodulates the convolutions of a learned constant."""

    def __init__(self, k=6, channels=4):
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(k, 12), nn.LeakyReLU(0.2), nn.Linear(12, 12), nn.LeakyReLU(0.2))
        self.constant = nn.Parameter(torch.randn(1, channels, 3, 3))
        self.styles = nn.ModuleList(nn.Linear(12, channels) for _ in range(3))
        self.weights = nn.ParameterList([torch.randn(c, channels, 3, 3) for c in (channels, channels, 2)])

    def convolve(self, x, w, i):
        """Each element of the batch is convolved with a kernel of its own: groups of one convolution."""
        batch, _, height, width = x.shape
        kernel = self.weights[i] * (1 + self.styles[i](w))[:, None, :, None, None]
        kernel = kernel * torch.rsqrt(kernel.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        x = F.conv2d(x.reshape(1, -1, height, width), kernel.flatten(0, 1), padding=1, groups=batch)
        return x.reshape(batch, -1, height, width)

    def forward(self, z):
        w = self.mapping(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8) + z)
        x = self.constant.expand(z.shape[0], -1, -1, -1)
        x = F.leaky_relu(self.convolve(x, w, 0), 0.2)
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        x = F.leaky_relu(self.convolve(x, w, 1), 0.2)
        return self.convolve(x, w, 2)


class Attention(nn.Module):
    """Learned queries attend to tokens of the code, then a transformer layer; dropout and fused kernels included."""

    def __init__(self, k=6, tokens=3, width=8, queries=5):
        super().__init__()
        self.tokens, self.width = tokens, width
        self.enter = nn.Linear(k, tokens * width)
        self.queries = nn.Parameter(torch.randn(1, queries, width))
        self.cross = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.mix = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.1, batch_first=True)
        self.register_buffer("mask", torch.full((queries, queries), -torch.inf).triu(1))
        self.leave = nn.Linear(width, 4)

    def forward(self, z):
        memory = self.enter(z).view(z.shape[0], self.tokens, self.width)
        x = self.queries.expand(z.shape[0], -1, -1)
        x = x + self.cross(x, memory, memory, need_weights=False)[0]
        x = self.mix(x)
        x = x + F.scaled_dot_product_attention(x, x, x, attn_mask=self.mask)
        return self.leave(x)


class Skip(nn.Module):
    """A convolutional generator whose every resolution adds to the image, from a code of shape (6, 1, 1)."""

    def __init__(self, k=6):
        super().__init__()
        self.enter = nn.ConvTranspose2d(k, 8, 3)
        self.up = nn.ConvTranspose2d(8, 6, 4, 2, 1)
        self.norm = nn.GroupNorm(2, 6)
        self.images = nn.ModuleList([nn.Conv2d(8, 1, 1), nn.Conv2d(6, 1, 3, padding=1)])

    def forward(self, z):
        x = F.gelu(self.enter(z))
        image = F.interpolate(self.images[0](x), scale_factor=2)
        x = F.elu(self.norm(self.up(x)), inplace=True)
        return torch.tanh(image + self.images[1](x))


class Untraceable(nn.Module):
    """A chain that is not read as one, because its forward looks at the numbers."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def forward(self, z):
        return self.chain(z if z.isfinite().all() else 0 * z)


def made(kind, *args, seed=0, **options):
    """The module with weights from the seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(*args, **options).eval()


# The module, the shape of a code, and the node that breaks the chain.
GENERATORS = {
    "residual": (made(Residual), (5,), "operation 'add' has branches, by add"),
    "modulated": (made(Modulated), (6,), "operation 'pow' calls pow"),
    "attention": (made(Attention), (6,), "module 'cross' .MultiheadAttention."),
    "skip": (made(Skip), (6, 1, 1), "module 'norm' .GroupNorm.|where the model branches"),
}

OPAQUE = {name: from_torch(module, shape) for name, (module, shape, _) in GENERATORS.items()}


def codes(net: Generator, count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, net.latent_dim))


def double(module: nn.Module) -> nn.Module:
    return frozen(module, torch.float64, torch.device("cpu"))


class Function(nn.Module):
    """A function of the code and a matrix."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.linspace(-1, 2, 12).reshape(4, 3))

    def forward(self, z):
        return self.function(z, self.weight)


class Cube(torch.autograd.Function):
    """With a reverse-mode derivative only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class Rounded(Cube):
    """With the derivative of what it is not, as quantisers are trained."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient
