"""Small generators of random weights that are no chains of layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrelu.loaders import from_torch
from unrelu.models.generator import Generator

_LATENT = 6


class ConvolutionalResidual(nn.Module):
    """A picture of 8 x 8 pixels by upsampling, with a residual block at each resolution."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(_LATENT, 4 * channels), nn.Conv2d(channels, 1, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, z: Tensor) -> Tensor:
        """G(z), (b, 1, 8, 8)."""
        x = self.enter(z).view(len(z), -1, 2, 2)
        for block in self.blocks:
            x = F.interpolate(x, scale_factor=2.0)
            x = x + F.relu(block(x))
        return self.leave(x)  # type: ignore[no-any-return]


class QueriedAttention(nn.Module):
    """Learned queries attend to tokens of the code, followed by a perceptron."""

    def __init__(self, tokens: int = 4, width: int = 16, queries: int = 20) -> None:
        super().__init__()
        self.enter, self.queries = nn.Linear(_LATENT, tokens * width), nn.Parameter(torch.randn(1, queries, width))
        self.cross = nn.MultiheadAttention(width, 2, batch_first=True)
        self.leave = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, z: Tensor) -> Tensor:
        """G(z), (b, 20, 3)."""
        memory, queries = self.enter(z).view(len(z), -1, self.queries.shape[2]), self.queries.expand(len(z), -1, -1)
        attended: Tensor = self.cross(queries, memory, memory, need_weights=False)[0]
        return self.leave(queries + attended)  # type: ignore[no-any-return]


class CouplingFlow(nn.Module):
    """Affine couplings, as of RealNVP, of 48 numbers that are affine in the code."""

    def __init__(self, size: int = 48, couplings: int = 4) -> None:
        super().__init__()
        self.enter, half = nn.Linear(_LATENT, size), size // 2
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(half, 32), nn.ReLU(), nn.Linear(32, size)) for _ in range(couplings)
        )

    def forward(self, z: Tensor) -> Tensor:
        """G(z), (b, 48)."""
        a, b = self.enter(z).chunk(2, dim=1)
        for part in self.parts:
            scale, shift = part(a).chunk(2, dim=1)
            a, b = b * torch.exp(torch.tanh(scale)) + shift, a
        return torch.cat([a, b], dim=1)


def _function() -> Callable[[Tensor], Tensor]:
    w, v = torch.randn(_LATENT, 40, dtype=torch.float64) / 2, torch.randn(40, 60, dtype=torch.float64) / 6
    return lambda z: torch.relu(z @ w) @ v + torch.sin(z @ w @ v)


MODULES: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "convolutional residual": ConvolutionalResidual, "attention": QueriedAttention, "flow": CouplingFlow,
    "function": _function,
}  # fmt: skip


def module_without_layers(name: str, seed: int) -> Generator:
    """The generator of that name in :data:`MODULES`, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = MODULES[name]()
    return from_torch(module.double().eval() if isinstance(module, nn.Module) else module, latent_shape=_LATENT)
