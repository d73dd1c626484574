"""Convolutional generators of real size with random weights: a DCGAN, and a residual generator."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrelu.runtime.streams import torch_stream

LATENT = 100
WEIGHTS = ("tutorial", "normalised", "He")
_BATCH, _BATCHES = 64, 4
# Channels of the residual generator, from 4 x 4 pixels up, each at twice the size of the one before.
_RESIDUAL, _QUICK_RESIDUAL, _SMALLEST = (128, 64, 32, 16, 8), (32, 16), 4
RESIDUAL_LATENT = 128


def generator(weights: str, channels: int, seed: int) -> nn.Module:
    """The generator of PyTorch's DCGAN tutorial with random weights.

    Args:
        weights: "tutorial": N(0, 0.02^2), factors of the batch normalisations N(1, 0.02^2), statistics 0 and 1, as the
            tutorial begins; its outputs are close to 0. "normalised": the same with the statistics that training
            leaves, those of batches. "He": variances that keep the size from layer to layer.
        channels: of the first layer; the tutorial has 512.
        seed: of the weights.
    """
    random = torch_stream("large, weights", seed, weights, channels)
    sizes = [channels, channels // 2, channels // 4, channels // 8]
    modules: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(zip([LATENT, *sizes], [*sizes, 3], strict=True)):
        layer = nn.ConvTranspose2d(n_in, n_out, 4, 2 if i else 1, 1 if i else 0, bias=False)
        # Each output of a layer of stride 2 is a sum over 4 positions of the kernel, of the first over one.
        deviation = (2 / (n_in * (4 if i else 1))) ** 0.5 if weights == "He" else 0.02
        nn.init.normal_(layer.weight, 0.0, deviation, generator=random)
        modules.append(layer)
        if i < len(sizes):
            normalisation = nn.BatchNorm2d(n_out, momentum=None)
            if weights != "He":
                nn.init.normal_(normalisation.weight, 1.0, 0.02, generator=random)
            modules += [normalisation, nn.ReLU()]
    module = nn.Sequential(*modules, nn.Tanh()).requires_grad_(False)
    if weights == "normalised":
        for _ in range(_BATCHES):
            module(torch.randn(_BATCH, LATENT, 1, 1, generator=random))
    return module.eval()


class UpsamplingBlock(nn.Module):
    """A residual block that doubles the size: normalisation, ReLU, upsampling and two convolutions beside a 1 x 1."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.normalisations = nn.ModuleList([nn.BatchNorm2d(n_in), nn.BatchNorm2d(n_out)])
        self.convolutions = nn.ModuleList([nn.Conv2d(n_in, n_out, 3, 1, 1), nn.Conv2d(n_out, n_out, 3, 1, 1)])
        self.skip = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, h, h) to (B, n_out, 2 h, 2 h)."""
        h = self.convolutions[0](F.interpolate(F.relu(self.normalisations[0](x)), scale_factor=2))
        h = self.convolutions[1](F.relu(self.normalisations[1](h)))
        x = h + self.skip(F.interpolate(x, scale_factor=2))
        return x


def residual_generator(quick: bool, seed: int) -> nn.Module:
    """A residual generator, 128 to 3 x 128 x 128, weights as PyTorch draws them, statistics of some batches."""
    channels = _QUICK_RESIDUAL if quick else (_RESIDUAL[0], *_RESIDUAL)
    random, last = torch_stream("large, residual", seed), channels[-1]
    module = nn.Sequential(
        nn.Linear(RESIDUAL_LATENT, channels[0] * _SMALLEST**2),
        nn.Unflatten(1, (channels[0], _SMALLEST, _SMALLEST)),
        *(UpsamplingBlock(a, b) for a, b in pairwise(channels)),
        nn.BatchNorm2d(last), nn.ReLU(), nn.Conv2d(last, 3, 3, 1, 1), nn.Tanh(),
    ).requires_grad_(False)  # fmt: skip
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=random)
            nn.init.zeros_(torch.as_tensor(layer.bias))
    for _ in range(_BATCHES):
        module(torch.randn(_BATCH // 4, RESIDUAL_LATENT, generator=random))
    return module.eval()
