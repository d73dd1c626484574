r"""Refinement of codes to first-order optimality, also at kinks: BFGS with a weak Wolfe line search.

Codes descend f(z) = |A G(z) - y|^2 + lambda |z|^2 along -H grad f. H begins as the inverse of the Gauss-Newton matrix
B = 2 (J^T J + lambda I) and is updated by BFGS, which adds the curvature of smooth outputs. At a kink the gradient
jumps. BFGS treats the jump as a large curvature: steps across the kink become short, and steps along it go on. With a
line search that only asks for a decrease and a risen slope, the method therefore converges on piecewise smooth
functions.

**When a code is optimal.** Where f is smooth, a Gauss-Newton step promises no gain, :math:`\tfrac12 g^T B^{-1} g
\approx 0`. At a kink it does. Once steps are tiny, BFGS begins anew with :math:`B^{-1}`. A code is optimal when that
gains only a tiny fraction of f.

All codes make a step at once, and each has its own line search, so its steps do not depend on the others.

Source: Lewis and Overton, "Nonsmooth optimization via quasi-Newton methods", Mathematical Programming 141 (2013),
algorithm 2.6; Nocedal and Wright, Numerical Optimization (2006), equation 6.17 (BFGS); with bounds Bertsekas,
"Projected Newton methods for optimization problems with simple constraints", SIAM J. Control and Optimization (1982).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrelu.local_search.halting import Stop
from unrelu.local_search.squared_error import SquaredError
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.memory_limits import HESSIAN_NUMBERS, at_once

# The line search: the required share of the predicted decrease, the share of the slope that may remain, and the longest
# and shortest step, in units of the proposed one.
_DECREASE, _RISEN = 1e-4, 0.5
_LONGEST, _SHORTEST = 16.0, 1e-10
# A step is tiny if it is predicted to lower f by less than this fraction. After so many in a row, BFGS begins anew.
_TINY, _TINY_STEPS = 1e-6, 2
# Where f is smooth, convergence is fast: a code goes on until a step is predicted to gain at most this fraction.
_VANISHED = 1e-13
# A code is optimal when BFGS, begun anew, has gained at most this fraction of f. Tuned with _TINY on decoders of random
# and of trained weights.
_LEFT = 1e-6
# The diagonal of the Gauss-Newton matrix is raised by this fraction of its mean, so that it has an inverse.
_FLOOR = 1e-12


class Refined(NamedTuple):
    """What a refinement reached.

    Attributes:
        z, f: codes, (b, k), and their objectives, (b,).
        steps: evaluations of f and its gradient, (b,).
        optimal: whether each is at a first-order optimum, (b,).
    """

    z: Tensor
    f: Tensor
    steps: Tensor
    optimal: Tensor


def refine(
    objective: SquaredError, z: Tensor, observations: Tensor, enough: Tensor, most: int, stop: Stop | None = None
) -> Refined:
    """Refine codes to first-order optima of f; f never rises.

    Args:
        objective: f, in the precision that the codes are wanted in.
        z, observations: codes near an optimum, (b, k), inside the bounds, and the observation of each, (b,).
        enough: values of f that count as 0, (b,).
        most: the most evaluations of f and its gradient for each code; ``stop`` is asked before each.
    """
    size = at_once(HESSIAN_NUMBERS, z.shape[1] ** 2)
    each = zip(torch.split(z, size), torch.split(observations, size), torch.split(enough, size), strict=True)
    parts = [_Refinement(objective, *part).run(most, stop or (lambda: False)) for part in each]
    return Refined(*(torch.cat(values) for values in zip(*parts, strict=True)))


class _Refinement:
    """The state of a refinement: codes z (n, k), f (n,), gradients g and directions p (n, k), and H (n, k, k).

    The line search of a code has tried the length t (n,); lengths of at most ``low`` are too short, and of at least
    ``high`` too long.
    """

    def __init__(self, objective: SquaredError, z: Tensor, observations: Tensor, enough: Tensor) -> None:
        self.objective, self.like, self.observations, box = objective, z, observations, objective.box
        self.box = None if box is None else (_numpy(box[0]), _numpy(box[1]))
        self.z, self.enough, (n, k) = _numpy(z), _numpy(enough), z.shape
        self.f, self.g = self._evaluate(self.z, np.arange(n))
        self.p, self.inverse = np.zeros((n, k)), np.zeros((n, k, k))
        self.t, self.low, self.high, self.slope = np.ones(n), np.zeros(n), np.full(n, np.inf), np.zeros(n)
        self.steps, self.tiny = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self.mark = np.full(n, np.inf)
        self.optimal = self.f <= self.enough
        self.ended = self.optimal | ~np.isfinite(self.f)
        self._begin(np.flatnonzero(~self.ended))

    def run(self, most: int, stopped: Stop) -> Refined:
        """Make at most ``most`` trial steps of every code."""
        while len(some := np.flatnonzero(~self.ended & (self.steps < most))) and not stopped():
            self._step(some)
        steps, optimal = (torch.from_numpy(each).to(self.like.device) for each in (self.steps, self.optimal))
        return Refined(self._tensor(self.z), self._tensor(self.f), steps, optimal)

    def _step(self, some: Index) -> None:
        """Make a trial step of some codes: accept it, or choose another length along the direction."""
        z, g, t = self.z[some], self.g[some], self.t[some]
        aimed = z + t[:, None] * self.p[some]
        trial = aimed if self.box is None else np.clip(aimed, *self.box)
        f, there = self._evaluate(trial, some)
        self.steps[some] += 1
        s = trial - z
        slope = (g * s).sum(axis=1)
        lower = f <= self.f[some] + _DECREASE * np.minimum(slope, 0.0)
        cut = (trial != aimed).any(axis=1)
        taken = lower & (((there * s).sum(axis=1) >= _RISEN * slope) | (t >= _LONGEST) | cut)
        self.low[some[lower]], self.high[some[~lower]] = t[lower], t[~lower]
        low, high = self.low[some], self.high[some]
        self.t[some] = np.where(np.isfinite(high), 0.5 * (low + high), 2 * t)
        stuck = ~taken & ((self.t[some] < _SHORTEST) | (high - low < _SHORTEST))
        moved = some[taken]
        self._learn(moved, s[taken], there[taken] - g[taken])
        self.z[moved], self.f[moved], self.g[moved] = trial[taken], f[taken], there[taken]
        self._aim(moved)
        promised = -0.5 * self.slope[moved]
        self.tiny[moved] = np.where(promised <= _TINY * f[taken], self.tiny[moved] + 1, 0)
        self.optimal[moved] = f[taken] <= self.enough[moved]
        self.ended[moved] |= self.optimal[moved] | ~np.isfinite(promised)
        asks = (self.tiny[moved] >= _TINY_STEPS) | (promised <= _VANISHED * f[taken])
        self._begin(np.concatenate([moved[asks & ~self.ended[moved]], some[stuck]]))

    def _aim(self, some: Index) -> None:
        """Set the directions of some codes to -H grad f, in the coordinates not held at a bound, and lengths to 1."""
        g = self.g[some]
        free = self._inward(some, g)
        while True:
            p = -(self.inverse[some] @ (g * free)[:, :, None])[:, :, 0] * free
            leaving = free & ~self._inward(some, -p)
            if not leaving.any():
                break
            free &= ~leaving
        self.p[some], self.slope[some] = p, (p * g).sum(axis=1)
        self.t[some], self.low[some], self.high[some] = 1.0, 0.0, np.inf

    def _inward(self, some: Index, g: Array) -> Flags:
        """Whether coordinates are not at a bound that a step against g would cross, (s, k)."""
        if self.box is None:
            return np.ones(g.shape, dtype=bool)
        z, (low, high) = self.z[some], self.box
        return ~(((z <= low) & (g > 0)) | ((z >= high) & (g < 0)))

    def _learn(self, some: Index, s: Array, y: Array) -> None:
        """BFGS: H + (1 + y'Hy / s'y) s s' / s'y - (Hy s' + s (Hy)') / s'y."""
        y = np.where(s == 0, 0.0, y)  # a coordinate held at a bound shows no curvature
        product, sizes = (s * y).sum(axis=1), np.linalg.norm(s, axis=1) * np.linalg.norm(y, axis=1)
        known = product > np.finfo(float).eps * sizes
        some, s, y, product = some[known], s[known], y[known], product[known, None]
        h = (self.inverse[some] @ y[:, :, None])[:, :, 0] / product
        scaled = (0.5 * (1 + (y * h).sum(axis=1, keepdims=True)) / product) * s - h
        change = scaled[:, :, None] * s[:, None, :]
        self.inverse[some] += change + change.transpose(0, 2, 1)

    def _begin(self, some: Index) -> None:
        """Begin BFGS of some codes with the inverse of B, or end them if they are optimal."""
        if not len(some):
            return
        f = self.f[some]
        self.inverse[some] = self._gauss_newton(some)
        self._aim(some)
        promised, gained = -0.5 * self.slope[some], self.mark[some] - f
        self.mark[some], self.tiny[some] = f, 0
        self.optimal[some] = (promised <= _VANISHED * f) | (gained <= _LEFT * f)
        self.ended[some] = self.optimal[some] | ~np.isfinite(promised)

    def _gauss_newton(self, some: Index) -> Array:
        """The inverses of B of some codes, (s, k, k), with the diagonal raised by :data:`_FLOOR`."""
        gram = 2 * _numpy(self.objective.system(self._tensor(self.z[some]), self._observations(some))[0])
        k = gram.shape[1]
        floor = np.maximum(_FLOOR / k * np.einsum("sii->s", gram), np.finfo(float).tiny)
        inverse, failed = torch.linalg.inv_ex(torch.from_numpy(gram + floor[:, None, None] * np.eye(k)))
        return np.where((failed == 0)[:, None, None], inverse, torch.eye(k)).astype(np.float64)

    def _tensor(self, z: Array) -> Tensor:
        return torch.from_numpy(z).to(self.like)

    def _observations(self, some: Index) -> Tensor:
        return self.observations[torch.from_numpy(some).to(self.observations.device)]

    def _evaluate(self, z: Array, some: Index) -> tuple[Array, Array]:
        f, gradient = self.objective.gradient(self._tensor(z), self._observations(some))
        return _numpy(f), _numpy(gradient)


def _numpy(values: Tensor) -> Array:
    return values.detach().cpu().double().numpy().copy()
