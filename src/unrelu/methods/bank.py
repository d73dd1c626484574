"""Samples of a generator, and the linear estimate of a code that they give for any measurement."""

from __future__ import annotations

import weakref
from functools import cached_property

import torch
from torch import Tensor

from unrelu.generator import Generator
from unrelu.operators import Operator

__all__ = ["Bank"]

# Samples drawn, fewer where they would hold more than so many numbers (256 MiB).
_SAMPLES = 4096
_FEWEST = 256
_NUMBERS = 2**26
# Principal directions of the outputs that are kept.
_DIRECTIONS = 128
# Power iterations that find them.
_SWEEPS = 2

_banks: weakref.WeakKeyDictionary[Generator, dict[int, Bank]] = weakref.WeakKeyDictionary()


class Bank:
    r"""Draws z_i ~ N(0, I), their outputs x_i = G(z_i), and the Gaussian model that they suggest.

    With F the principal directions of the outputs, scaled to their deviations,

    .. math:: x \approx \bar x + F s + \epsilon, \quad z \approx \bar z + P s, \quad s \sim N(0, I)

    Attributes:
        z: (N, k), float32.
        x: (N, n), float32.
    """

    def __init__(self, network: Generator, seed: int) -> None:
        self.network = weakref.proxy(network)
        single = network.to(torch.float32)
        count = max(_FEWEST, min(_SAMPLES, _NUMBERS // network.output_dim))
        draws = torch.Generator().manual_seed(seed)
        self.z = torch.randn(count, network.latent_dim, generator=draws).to(network.device)
        parts = torch.split(self.z, max(1, _NUMBERS // (4 * network.width)))
        self.x = torch.cat([single.forward(part) for part in parts])
        self._draws = draws

    @classmethod
    def of(cls, network: Generator, seed: int) -> Bank:
        """The bank of a network and seed, built at the first call and kept as long as the network lives."""
        banks = _banks.setdefault(network, {})
        if seed not in banks:
            banks.clear()  # one bank of a network at a time
            banks[seed] = cls(network, seed)
        return banks[seed]

    @cached_property
    def model(self) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        """Means of x (n,) and z (k,), F^T (r, n), P^T (r, k), and the mean variance of x that F leaves over."""
        count, n = self.x.shape
        mean_x, mean_z = self.x.mean(dim=0), self.z.mean(dim=0)
        x, z = self.x - mean_x, self.z - mean_z
        r = min(_DIRECTIONS, n, count - 1)
        basis = torch.randn(n, r, generator=self._draws).to(x.device)
        for _ in range(_SWEEPS):
            basis = torch.linalg.qr(x.T @ (x @ basis))[0]
        scores = x @ basis
        variances, rotation = torch.linalg.eigh(scores.T @ scores / count)
        deviations = variances.clamp_min(1e-12 * float(variances.max()) + torch.finfo(x.dtype).tiny).sqrt()
        scores = scores @ (rotation / deviations)
        left = float((x.square().sum() / count - variances.sum()).clamp_min(0) / n)
        return mean_x, mean_z, (rotation * deviations).T @ basis.T, scores.T @ z / count, left

    def estimate(self, operator: Operator, y: Tensor, noise: float) -> Tensor:
        r"""Linear minimum mean square error estimate of the codes of observations y (B, m), (B, k).

        .. math:: \hat z = \bar z + P (I + C^T C / \sigma^2)^{-1} C^T (y - A \bar x) / \sigma^2, \qquad C = A F

        Args:
            operator: A, in float32.
            y: (B, m), float32.
            noise: sigma^2, the variance of y - A x; what F leaves over is added to it.
        """
        mean_x, mean_z, directions, codes, left = self.model
        size = len(y)
        seen = operator.tangents(directions.expand(size if operator.count else 1, -1, -1))
        r = y - operator.forward(mean_x.expand(size, -1))
        variance = noise + left
        gram = seen @ seen.transpose(1, 2)
        gram.diagonal(dim1=1, dim2=2).add_(variance)
        right = (seen @ r[:, :, None])[:, :, 0] if operator.count else r @ seen[0].T
        s = (torch.linalg.solve(gram, right[:, :, None])[:, :, 0] if operator.count
             else torch.linalg.solve(gram[0], right.T).T)  # fmt: skip
        estimate: Tensor = mean_z + s @ codes
        return estimate

    def nearest(self, operator: Operator, y: Tensor, count: int) -> Tensor:
        """The codes of the samples that are closest to each observation, (B, count, k)."""
        rows = []
        for i in range(len(y)):
            seen = operator.take(torch.tensor([i], device=y.device)).forward(self.x)
            rows.append(torch.topk((seen - y[i]).square().sum(dim=1), count, largest=False).indices)
        return self.z[torch.stack(rows)]
