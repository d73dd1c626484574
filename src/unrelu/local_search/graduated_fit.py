r"""Graduated fits for ill-conditioned generators: BFGS in a Gauss-Newton metric, while noise and smoothing decrease.

Where the singular values of the Jacobian are decades apart, codes that fit lie in narrow curved valleys, and a descent
on the exact objective ends in one of many local optima on their slopes. A graduated fit minimises in turn

.. math:: f_t(z) = \sum_j \frac{(y - A G_t(z))_j^2}{1 + t^2 s^2 / \sigma_j^2} + \sigma^2 |z|_2^2

for smaller and smaller t. Here :math:`\sigma_j` is the standard deviation of the noise of an entry, and s the root mean
square of y, both before whitening: errors of t s are added to the noise. The kinks of G_t are smoothed by the share 3 t
of the size of each layer. t decreases to the smallest :math:`\sigma_j / s`, and is 0 in the end. All f_t have the
prior N(0, I) of codes, without which long codes are found that fit worse.

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

# The first t, the factor by which it decreases, and the smoothing as a multiple of t.
_FIRST, _FACTOR, _SMOOTHING = 0.3, 10 ** (-1 / 6), 3.0
# The steps with each t, and with the last, 0; the fits of an observation, from different starts.
_STEPS, _LAST_STEPS, _FITS = 25, 100, 2


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
        smoothed: returns the generator, in any precision, with kinks smoothed by a share, also 0, of each layer's size.
        variance: sigma^2, the variance of the noise of y.
    """

    objective: SquaredError
    smoothed: Callable[[float], Generator]
    variance: float

    def run(self, starts: Tensor, observations: Tensor, stop: Stop) -> Tensor:
        """The codes of some observations that fits reach, (b, k): the better of :data:`_FITS` for each.

        Args:
            starts: codes (N, k); fits begin with those of the least first f_t.
            observations: (b,).
            stop: asked before each step.
        """
        count, z, each = len(observations), starts[:0], torch.arange(0)
        for t, stage in self.stages(observations):
            if not len(z):
                at = torch.arange(count, device=z.device).repeat_interleave(len(starts))
                first = stage.values(starts.repeat(count, 1), at).reshape(count, -1)
                best = first.argsort(dim=1)[:, :_FITS]
                z, each = starts[best.flatten()], at.reshape(count, -1)[:, : best.shape[1]].flatten()
            if stop():
                break
            z = refine(stage, z, each, torch.zeros_like(z[:, 0]), _STEPS if t else _LAST_STEPS, stop).z
        lowest = stage.values(z, each).nan_to_num(nan=torch.inf).reshape(count, -1).argmin(dim=1)
        return z.reshape(count, -1, z.shape[1])[torch.arange(count), lowest]

    def stages(self, observations: Tensor) -> Iterator[tuple[float, SquaredError]]:
        """The values of t, and the objectives f_t of some observations, in their order."""
        operator, y = self.objective.operator.take(observations), self.objective.y[observations]
        weights = operator.weights(len(y))
        gain = torch.ones_like(y) if weights is None else torch.from_numpy(weights.copy()).to(y)
        seen = gain > 0
        size = torch.where(seen, y / gain, 0.0).square().sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True)
        added = size * gain.square() / self.variance  # s^2 / sigma_j^2, as whitening divides y_j by sigma_j
        prior = torch.full((self.objective.network.latent_dim,), self.variance).to(y)
        shares, most = [_FIRST], float(added.max()) ** 0.5
        while shares[-1] * _FACTOR * most >= 1:
            shares.append(shares[-1] * _FACTOR)
        for t in (*shares, 0.0):
            weight = 1 / (1 + t**2 * added).sqrt()
            network = _ComputedInSingle(self.smoothed(_SMOOTHING * t))
            operator_t = WeightedOperator(operator, weight)
            yield t, replace(self.objective, network=network, operator=operator_t, y=weight * y, prior=prior)
