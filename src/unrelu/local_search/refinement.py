r"""Refinement of codes to first-order optimality, also at kinks: BFGS with a weak Wolfe line search.

Codes descend f(z) = |A G(z) - y|^2 + lambda |z|^2 along -H grad f. H begins as the inverse of the Gauss-Newton matrix
B = 2 (J^T J + lambda I) and is updated by BFGS, which adds the curvature of smooth outputs. At a kink the gradient
jumps. BFGS treats the jump as a large curvature: steps across the kink become short, and steps along it go on. The line
search only asks for a decrease and a risen slope. The method therefore converges on piecewise smooth functions.

**When a code is optimal.** Where f is smooth, a Gauss-Newton step promises no gain, :math:`\tfrac12 g^T B^{-1} g
\approx 0`. At a kink, it still promises one. Once steps are tiny, BFGS begins anew with :math:`B^{-1}`, then with a
multiple of I. A code is optimal when both gain only a tiny fraction of f.

Each code makes its own steps. For small dense networks, compiled code evaluates the objective. For other generators,
PyTorch evaluates it for all codes at once.

Source: Lewis and Overton, "Nonsmooth optimization via quasi-Newton methods", Mathematical Programming 141 (2013),
algorithm 2.6; Nocedal and Wright, Numerical Optimization (2006), equation 6.17 (BFGS); with bounds Bertsekas,
"Projected Newton methods for optimization problems with simple constraints", SIAM J. Control and Optimization (1982).
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrelu.local_search.descent_kernel import DescentArrays, value_and_gradient
from unrelu.local_search.halting import Stop
from unrelu.local_search.packed_observations import PackedObservations, packable
from unrelu.local_search.squared_error import SquaredError
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.compilation import compile_by
from unrelu.runtime.memory_limits import HESSIAN_NUMBERS, at_once

# The line search: the required share of the predicted decrease, the share of the slope that may remain, the longest and
# shortest step, in units of the proposed one, and the least share of a length that was too long.
_DECREASE, _RISEN = 1e-4, 0.5
_LONGEST, _SHORTEST, _NEAREST = 16.0, 1e-10, 1e-2
# A step is tiny if it is predicted to lower f by less than this fraction. After so many in a row, BFGS begins anew.
_TINY, _TINY_STEPS = 1e-6, 2
# Where f is smooth, convergence is fast: a code goes on until a step is predicted to gain at most this fraction.
_VANISHED = 1e-13
# A code is optimal when BFGS, restarted twice, has gained at most this fraction of f each time. Tuned together with
# _TINY on decoders with random and with trained weights.
_LEFT = 1e-6
# The diagonal of the Gauss-Newton matrix is raised by this fraction of its mean, or by its rounding, to be invertible.
_FLOOR = 1e-12
_EPS = float(np.finfo(np.float64).eps)
# The types of the arguments of the compiled evaluation.
_TYPES = "(f8[::1], i8[:, ::1], {}, f8[::1], i8[::1], " + ", ".join(["f8[::1]"] * 7) + ")"


class _Code:
    """A code on its way to an optimum: z, f, its gradient g and the inverse Hessian h.

    Attributes:
        trial: the next point at which f is asked for.
        steps, in_vain: evaluations of f so far, and how often in a row BFGS has gained little.
        optimal, ended: whether z is an optimum, and whether the refinement of z has ended.
    """

    def __init__(self, z: Array, f: float, g: Array, enough: float, box: Array) -> None:
        self.z, self.f, self.g, self.enough, self.box = z, f, g, enough, box
        self.trial, self.steps, self.tiny_steps, self.in_vain, self.began = z, 0, 0, 0, np.inf
        self.optimal = self.ended = f <= enough

    def begin(self, h: Array) -> None:
        """Begin BFGS with an inverse Hessian h; if it gained little, with a multiple of I of equal promise; or end."""
        self.h, self.tiny_steps, gained, self.began = h, 0, self.began - self.f, self.f
        self.in_vain, promised = self.in_vain + 1 if gained <= _LEFT * self.f else 0, self.aim()
        self.optimal = promised <= _VANISHED * self.f or self.in_vain > 1
        self.ended = self.optimal or not np.isfinite(promised)
        if self.in_vain == 1 and not self.ended:
            self.h = 2 * promised / float(self.g @ self.g) * np.eye(len(h))
            self.aim()

    def aim(self) -> float:
        """Set the direction to -H grad f, in the coordinates not held at a bound; return the gain that it promises."""
        at_low, at_high = self.z <= self.box[0], self.z >= self.box[1]
        free = ~((at_low & (self.g > 0)) | (at_high & (self.g < 0)))
        while True:
            self.p = np.where(free, self.h @ np.where(free, -self.g, 0.0), 0.0)
            crossing = (at_low & (self.p < 0)) | (at_high & (self.p > 0))
            if not np.count_nonzero(crossing):
                break
            free &= ~crossing
        self.low, self.high = 0.0, np.inf
        self.attempt(1.0)
        return -0.5 * float(self.p @ self.g)

    def attempt(self, length: float) -> None:
        """Set the trial point, at a length along the direction, inside the bounds."""
        self.length = length
        self.trial = np.minimum(np.maximum(self.z + length * self.p, self.box[0]), self.box[1])

    @property
    def cut(self) -> bool:
        """Whether the bounds end the line search."""
        outside = (self.trial <= self.box[0]) | (self.trial >= self.box[1])
        return bool((outside & (self.p != 0)).any())

    def take(self, f: float, g: Array) -> bool:
        """Accept the trial point, with f and g there, or try another, nearer or farther; return whether BFGS ends."""
        s, length = self.trial - self.z, self.length
        slope, self.steps, share = float(self.g @ s), self.steps + 1, 0.5
        if f <= self.f + _DECREASE * min(slope, 0.0):
            self.low = length
            if g @ s >= _RISEN * slope or length >= _LONGEST or self.cut:
                self.learn(s, np.where(s != 0, g - self.g, 0.0))  # a coordinate held at a bound shows no curvature
                self.z, self.f, self.g = self.trial, f, g
                promised = self.aim()
                self.tiny_steps = self.tiny_steps + 1 if promised <= _TINY * f else 0
                self.optimal = self.ended = f <= self.enough
                return self.ended or self.tiny_steps >= _TINY_STEPS or not _VANISHED * f < promised < np.inf
        else:
            self.high = length
            if self.low == 0 and slope < 0:  # where the parabola through both values with this slope is least
                share = max(_NEAREST, min(share, -0.5 * slope / (f - self.f - slope)))
        self.attempt(self.low + share * (self.high - self.low) if self.high < np.inf else 2 * length)
        return self.length < _SHORTEST or self.high - self.low < _SHORTEST

    def learn(self, s: Array, y: Array) -> None:
        """Update H by BFGS: H + (1 + y'Hy / s'y) s s' / s'y - (Hy s' + s (Hy)') / s'y."""
        product = float(s @ y)
        if product > _EPS * math.sqrt((s @ s) * (y @ y)):
            hy = (self.h @ y) / product
            across = s[:, None] * ((1 + y @ hy) / (2 * product) * s - hy)
            self.h += across + across.T


class Refined(NamedTuple):
    """The result of a refinement.

    Attributes:
        z, f: codes, (b, k), and their objectives, (b,).
        steps: evaluations of f and its gradient, (b,).
        optimal: whether each code is a first-order optimum, (b,).
    """

    z: Tensor
    f: Tensor
    steps: Tensor
    optimal: Tensor


def refine(
    objective: SquaredError, z: Tensor, observations: Tensor, enough: Tensor, most: int, stop: Stop | None = None,
    curvature: SquaredError | None = None,
) -> Refined:  # fmt: skip
    """Refine codes to first-order optima of f; f never rises.

    Args:
        objective: f, in the precision that the codes are wanted in.
        z, observations: codes near an optimum, (b, k), inside the bounds, and the observation of each, (b,).
        enough: values of f that count as 0, (b,).
        most: the most evaluations of f and its gradient for each code.
        stop: asked, every few steps, whether to stop.
        curvature: f in single precision, if Jacobians are expensive: they only shape the steps.
    """
    size = at_once(HESSIAN_NUMBERS, z.shape[1] ** 2)
    each = zip(torch.split(z, size), torch.split(observations, size), torch.split(enough, size), strict=True)
    parts = [_Refinement(objective, *part, curvature or objective).run(most, stop or (lambda: False)) for part in each]
    return Refined(*(torch.cat(values) for values in zip(*parts, strict=True)))


class _Refinement:
    """The refinement of some codes.

    Attributes:
        packed: the observations of a small dense network, for compiled evaluations; None for others.
    """

    def __init__(
        self, objective: SquaredError, z: Tensor, observations: Tensor, enough: Tensor, curvature: SquaredError
    ) -> None:
        self.objective, self.curvature, self.observations = objective, curvature, observations.cpu().numpy()
        self.prior, box, network, y = _numpy(objective.prior), _numpy(objective.box), objective.network, objective.y
        self.packed: PackedObservations | None = None
        if y.dtype == torch.float64 and objective.squares and packable(network, objective.operator):
            self.packed = PackedObservations(network, objective.operator, _numpy(y), np.float64)
            types = _TYPES.format("none" if self.packed.heads is None else "i8")
            compile_by(partial(value_and_gradient.compile, types), value_and_gradient.stats.cache_path, types)
        codes = _numpy(z)
        each = zip(codes, *self._evaluate(codes, np.arange(len(z))), _numpy(enough), strict=True)
        self.codes = [_Code(z, float(f), g, float(least), box) for z, f, g, least in each]

    @np.errstate(over="ignore", invalid="ignore")  # an exponential may overflow; such a code ends
    def run(self, most: int, stopped: Stop) -> Refined:
        """Make at most ``most`` trial steps of every code."""
        while not stopped():
            some = np.array([i for i, code in enumerate(self.codes) if not code.ended and code.steps < most], dtype=int)
            if not len(some):
                break
            for i, h in zip(some, self._gauss_newton(some), strict=True):
                self.codes[i].begin(h)
            some = some[[not self.codes[i].ended for i in some]]
            if self.packed is None:
                self._together(some, most, stopped)
            else:
                self._apart(self.packed, some, most, stopped)
        z, f, steps, optimal = zip(*((code.z, code.f, code.steps, code.optimal) for code in self.codes), strict=True)
        tensor, index = self.objective.tensor, self.objective.index
        return Refined(tensor(np.array(z)), tensor(np.array(f)), index(np.array(steps)), index(np.array(optimal)))

    def _together(self, some: Index, most: int, stopped: Stop) -> None:
        """Make BFGS steps of some codes; PyTorch evaluates f for all of them at once."""
        while len(some) and not stopped():
            each = zip(some, *self._evaluate(np.array([self.codes[i].trial for i in some]), some), strict=True)
            ends = [self.codes[i].take(float(f), g) or self.codes[i].steps >= most for i, f, g in each]
            some = some[~np.array(ends)]

    def _apart(self, packed: PackedObservations, some: Index, most: int, stopped: Stop) -> None:
        """Make BFGS steps of some codes; compiled code evaluates f for one code after another."""
        for i in some:
            code, ((numbers, layout, heads, sizes), y) = self.codes[i], packed.of(int(self.observations[i]))
            work, widths, going = DescentArrays.of(layout, np.float64), 0 * sizes, True
            vectors = work.ends, work.x, work.slopes, work.other
            while going and code.steps < most:
                gradient = np.empty_like(code.z)
                f = value_and_gradient(numbers, layout, heads, widths, *vectors, y, self.prior, code.trial, gradient)
                going = not code.take(f, gradient)
            if stopped():
                break

    def _evaluate(self, z: Array, some: Index) -> tuple[Array, Array]:
        """Compute f and its gradient by PyTorch at points z of some codes, (s,) and (s, k)."""
        where = self.objective.index(self.observations[some])
        f, gradient = self.objective.gradient(self.objective.tensor(z), where)
        return _numpy(f), _numpy(gradient)

    def _gauss_newton(self, some: Index) -> Array:
        """Invert the matrices B of some codes, (s, k, k), after raising their diagonals by :data:`_FLOOR`."""
        z = self.curvature.tensor(np.array([self.codes[i].z for i in some]))
        gram = 2 * self.curvature.system(z, self.curvature.index(self.observations[some]))[0].cpu().double()
        floor = max(_FLOOR, torch.finfo(z.dtype).eps) * gram.diagonal(dim1=1, dim2=2).mean(dim=1)
        one = torch.eye(z.shape[1]).to(gram)
        inverse, failed = torch.linalg.inv_ex(gram + floor.clamp_min(np.finfo(float).tiny)[:, None, None] * one)
        return _numpy(torch.where((failed == 0)[:, None, None], inverse, one))


def _numpy(values: Tensor) -> Array:
    return values.detach().cpu().double().numpy().copy()
