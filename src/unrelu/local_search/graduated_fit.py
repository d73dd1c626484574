r"""Graduated fits for ill-conditioned generators: BFGS in a Gauss-Newton metric, while noise and smoothing decrease.

Where the singular values of the Jacobian are decades apart, codes that fit lie in narrow curved valleys, and a descent
on the exact objective ends in one of many local optima on their slopes. A graduated fit minimises in turn

.. math:: f_t(z) = \sum_j \frac{(y - A G_t(z))_j^2}{1 + t^2 s^2 / \sigma_j^2} + \sigma^2 |z|_2^2

for smaller and smaller t. Here :math:`\sigma_j` is the standard deviation of the noise of an entry, and s the root mean
square of y, both before whitening: errors of t s are added to the noise. The kinks of G_t are smoothed by the share 3 t
of the size of each layer. The last t is the smallest :math:`\sigma_j / s`. All f_t have the
prior N(0, I) of codes, without which long codes would be found that fit no better.

For each t, BFGS (:mod:`~unrelu.local_search.refinement`) begins with the inverse of J^T J + sigma^2 I. Its steps take a
gradient each. A Jacobian costs as much as k / 2 gradients, so Levenberg-Marquardt, which takes one for each step,
reaches less in the same time.

Source: Blake and Zisserman, Visual Reconstruction (1987) (graduated non-convexity); Nocedal and Wright, Numerical
Optimization (2006), section 6.1 (BFGS).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unrelu.local_search.halting import Stop
from unrelu.local_search.refinement import refine
from unrelu.local_search.squared_error import SquaredError
from unrelu.measurements import WeightedOperator
from unrelu.models.generator import Generator

# The first t, the factor by which it decreases, the smoothing as a multiple of t, and the steps with each t.
_FIRST, _FACTOR, _SMOOTHING, _STEPS = 0.3, 10 ** (-1 / 8), 3.0, 25


@dataclass(frozen=True, eq=False, repr=False)
class _ComputedInSingle(Generator):
    """A generator that computes in its own precision, and takes and returns double precision.

    Products of its Jacobians are then of double precision, which resolves singular values six decades apart.
    """

    base: Generator

    def __post_init__(self) -> None:
        for name in ("latent_shape", "output_shape", "width", "device"):
            object.__setattr__(self, name, getattr(self.base, name))
        object.__setattr__(self, "dtype", torch.float64)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> _ComputedInSingle:
        return replace(self, base=self.base.to(self.base.dtype, device))

    def forward(self, z: Tensor) -> Tensor:
        return self.base.forward(z.to(self.base.dtype)).double()

    def linearize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, tangents = self.base.linearize(z.to(self.base.dtype))
        return x.double(), tangents.double()


@dataclass(frozen=True, eq=False)
class GraduatedFit:
    """Graduated fits of observations with stated noise.

    Attributes:
        objective: f, in double precision.
        smoothed: returns the generator, in any precision, with kinks smoothed by a share of the size of each layer.
        variance: sigma^2, the variance of the noise of y.
    """

    objective: SquaredError
    smoothed: Callable[[float], Generator]
    variance: float

    def run(self, starts: Tensor, observations: Tensor, stop: Stop) -> Tensor:
        """The codes of some observations that fits reach, (b, k).

        Args:
            starts: codes (N, k); each fit begins with the one of the least first f_t.
            observations: (b,).
            stop: asked before each step.
        """
        each, z = torch.arange(len(observations), device=observations.device), None
        for stage in self.stages(observations):
            if z is None:
                z = torch.stack([starts[stage.values(starts, i.expand(len(starts))).argmin()] for i in each])
            if stop():
                break
            z = refine(stage, z, each, torch.zeros_like(z[:, 0]), _STEPS, stop).z
        assert z is not None
        return z

    def stages(self, observations: Tensor) -> Iterator[SquaredError]:
        """The objectives f_t of some observations, in their order."""
        operator, y = self.objective.operator.take(observations), self.objective.y[observations]
        weights = operator.weights(len(y))
        gain = torch.ones_like(y) if weights is None else torch.from_numpy(weights.copy()).to(y)
        seen = gain > 0
        size = torch.where(seen, y / gain, 0.0).square().sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True)
        added = size * gain.square() / self.variance  # s^2 / sigma_j^2, as whitening divides y_j by sigma_j
        prior = torch.full((self.objective.network.latent_dim,), self.variance).to(y)
        t, last = _FIRST, min(_FIRST, float(added.max()) ** -0.5)
        while t >= last:
            weight = 1 / (1 + t**2 * added).sqrt()
            network = _ComputedInSingle(self.smoothed(_SMOOTHING * t))
            operator_t = WeightedOperator(operator, weight)
            yield replace(self.objective, network=network, operator=operator_t, y=weight * y, prior=prior)
            t *= _FACTOR
