"""L-BFGS descents (limited-memory quasi-Newton) of a batch of codes: one reverse pass a step, no Jacobian."""

from __future__ import annotations

import torch
from torch import Tensor

from unrelu.local_search.halting import Steps
from unrelu.local_search.squared_error import SquaredError

# The number of pairs (step, change of the gradient) that update the inverse Hessian.
_MEMORY = 10
# A step that does not lower f is tried again at the fraction _SHORTER of its length, at most _TRIALS times.
_SHORTER, _TRIALS = 0.25, 8
# The largest root mean square of the first step: codes are drawn from N(0, I).
_FIRST = 0.1


class LimitedMemorySteps(Steps):
    r"""Codes that descend f(z) = |A G(z) - y|^2 + lambda |z|^2 by steps along -H grad f.

    H is an approximate inverse Hessian: s'y / y'y I, updated by the last steps s and the changes y of the gradient
    along them. Where G is expensive and k large, a Jacobian costs as much as hundreds of such steps. A code is finished
    when f is small, when its next step is predicted to gain little, or when no fraction of that step lowers f.
    Coordinates held at a bound stay there, and steps end inside the bounds.

    Args:
        tiny_decrease: a code is finished when its next step is predicted to lower f by less than this fraction.

    Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4 (the two-loop recursion).
    """

    def __init__(
        self, objective: SquaredError, z: Tensor, observations: Tensor, tiny_decrease: float, enough: Tensor
    ) -> None:
        f, self.gradient = objective.gradient(z, observations)
        super().__init__(objective, z, observations, f, enough)
        self.done |= ~torch.isfinite(f)
        self.tiny_decrease = tiny_decrease
        longest, size = _FIRST * z.shape[1] ** 0.5, self.gradient.norm(dim=1)
        self._scale, self._length = longest / size.clamp_min(longest), torch.ones_like(f)
        self._failed = torch.zeros_like(self.steps)
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # s and y, (b, k), and 1 / s'y; 0 without a pair

    def step(self, at: Tensor) -> None:
        """Make one trial step of some codes."""
        free = ~self.objective.held(self.z[at], self.gradient[at])
        direction = free * self._newton(at, free * self.gradient[at])
        promised = 0.5 * (direction * self.gradient[at]).sum(dim=1)
        ahead = promised > self.tiny_decrease * self.f[at]
        self.done[at] |= ~ahead
        kept = torch.nonzero(ahead)[:, 0]
        at, direction = at[kept], direction[kept]
        if not len(at):
            return
        s = self.objective.clip(self.z[at] - self._length[at, None] * direction) - self.z[at]
        f, gradient = self.objective.gradient(self.z[at] + s, self.observations[at])
        better = f < self.f[at]
        self._learn(at, s, gradient - self.gradient[at])
        self.z[at] = torch.where(better[:, None], self.objective.clip(self.z[at] + s), self.z[at])
        self.gradient[at] = torch.where(better[:, None], gradient, self.gradient[at])
        self.f[at] = torch.where(better, f, self.f[at])
        self.steps[at] += 1
        self._length[at] = torch.where(better, torch.ones_like(f), _SHORTER * self._length[at])
        self._failed[at] = torch.where(better, 0, self._failed[at] + 1)
        self.done[at] |= (self.f[at] <= self.enough[at]) | (self._failed[at] >= _TRIALS)

    def _newton(self, at: Tensor, gradient: Tensor) -> Tensor:
        """Compute H grad f, (a, k), by the two-loop recursion."""
        q = gradient.clone()
        weights = []
        for s, y, curvature in reversed(self._pairs):
            weights.append(curvature[at] * (s[at] * q).sum(dim=1))
            q -= weights[-1][:, None] * y[at]
        q *= self._scale[at, None]
        for (s, y, curvature), weight in zip(self._pairs, reversed(weights), strict=True):
            q += (weight - curvature[at] * (y[at] * q).sum(dim=1))[:, None] * s[at]
        return q

    def _learn(self, at: Tensor, s: Tensor, y: Tensor) -> None:
        """Keep pairs of positive curvature, also from rejected steps; such pairs keep H positive definite."""
        product = (s * y).sum(dim=1)
        usable = torch.isfinite(product) & (product > torch.finfo(s.dtype).eps * s.norm(dim=1) * y.norm(dim=1))
        pair = (torch.zeros_like(self.z), torch.zeros_like(self.z), torch.zeros_like(self.f))
        for kept, new in zip(pair, (s, y, 1 / product), strict=True):
            kept[at] = torch.where(usable[:, None] if new.dim() == 2 else usable, new, torch.zeros_like(new))
        self._pairs = [*self._pairs[1 - _MEMORY :], pair]
        scale = product / y.square().sum(dim=1)
        self._scale[at] = torch.where(usable & torch.isfinite(scale), scale, self._scale[at])
