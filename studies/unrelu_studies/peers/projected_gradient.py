"""Projected gradient on the output; an inversion is the projection onto the generator's range."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from unrelu.measurements import IdentityOperator
from unrelu.methods import make
from unrelu.problem import Problem
from unrelu.result import Ending, Inversion

# An observation is finished when |y - A x|_2 changes by at most this fraction. The released code makes every step.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ProjectedGradient:
    r"""x <- P(x + step A^T (y - A x)) from x = 0, where P(u) = G(z) and z is the code found by inverting u.

    .. math:: u = x + \eta A^T (y - A x), \qquad z = \operatorname{argmin}_z |u - G(z)|, \qquad x \gets G(z)

    Of all iterates, the code with the least ``|y - A G(z)|_2`` is returned.

    Args:
        projection: how u is inverted: by a layer-wise method, or "lm" from the last code. The paper has "linf".
        step: :math:`\eta`. The released code of Shah and Hegde has 0.5; the paper does not say. For a mask, 1 replaces
            the hidden pixels by those of the iterate.
        max_iterations: the most projections of an observation; 10 in the released code.

    Source: Shah and Hegde, "Solving linear inverse problems using GAN priors: an algorithm with provable guarantees"
    (ICASSP 2018), Algorithm 1, and https://github.com/shahviraj/pgdgan; section 5.2 and Figure 4 of the paper.
    """

    projection: str = "linf"
    step: float = 0.5
    max_iterations: int = 10

    def __call__(self, problem: Problem) -> Inversion:
        """Step and project all observations at once until they have converged, or have no code."""
        network, project = problem.network, make(self.projection, {})
        whole = IdentityOperator(network.output_shape)
        z, x = problem.start(), np.zeros((problem.size, network.output_dim))
        size, best = np.linalg.norm(problem.y, axis=1), np.full_like(z, np.nan)
        least, active = np.full(problem.size, np.inf), np.arange(problem.size)
        for _ in range(self.max_iterations):
            part = problem.part(active)
            residual = torch.tensor(part.y - part.operator.values(x[active]))
            u = x[active] + self.step * part.operator.adjoint(residual).numpy()
            z[active] = project(replace(part, y=u, operator=whole, z0=z[active])).z
            active = active[np.isfinite(z[active]).all(axis=1)]
            x[active] = network.outputs(z[active]).reshape(len(active), -1)
            last, size[active] = size[active], np.linalg.norm(problem.part(active).residual(z[active]), axis=1)
            better = active[size[active] < least[active]]
            best[better], least[better] = z[better], size[better]
            active = active[np.abs(size[active] - last) > _TOLERANCE * last]
            if not len(active):
                break
        return Inversion.of(problem, best, method="projected", status=Ending.ITERATION_LIMIT, norm="l2")
