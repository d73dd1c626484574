r"""Refinement of codes to first-order optimality, also at kinks: BFGS with a weak Wolfe line search.

Codes descend f(z) = |A G(z) - y|^2 + lambda |z|^2 along -H grad f. H begins as the inverse of the Gauss-Newton matrix
B = 2 (J^T J + lambda I) and is updated by BFGS, which adds the curvature of smooth outputs. At a kink the gradient
jumps. BFGS treats the jump as a large curvature: steps across the kink become short, and steps along it go on. With a
line search that only asks for a decrease and a risen slope, the method therefore converges on piecewise smooth
functions.

**When a code is optimal.** Where f is smooth, a Gauss-Newton step promises no gain, :math:`\tfrac12 g^T B^{-1} g
\approx 0`. At a kink it does. Once steps are tiny, BFGS begins anew with :math:`B^{-1}`. A code is optimal when that
gains only a tiny fraction of f.

The steps are compiled, code by code. For small dense networks the objective is evaluated in compiled code too, for
others by PyTorch, of all codes at once. The steps of a code do not depend on the other codes.

Source: Lewis and Overton, "Nonsmooth optimization via quasi-Newton methods", Mathematical Programming 141 (2013),
algorithm 2.6; Nocedal and Wright, Numerical Optimization (2006), equation 6.17 (BFGS); with bounds Bertsekas,
"Projected Newton methods for optimization problems with simple constraints", SIAM J. Control and Optimization (1982).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrelu.local_search.descent_kernel import backward, copy, forward, residual, work_arrays
from unrelu.local_search.halting import Stop
from unrelu.local_search.packed_observations import PackedObservations, packable
from unrelu.local_search.squared_error import SquaredError
from unrelu.lp.compilation import compile_by, jit, kernel
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
# The diagonal of the Gauss-Newton matrix is raised by this fraction of its mean, or by its rounding, to be invertible.
_FLOOR = 1e-12
_EPS = float(np.finfo(np.float64).eps)

# The numbers of a code: f, the slope along its direction, the next length along it, lengths that are too short and too
# long, the f that counts as 0, tiny steps in a row, and evaluations so far.
_F, _SLOPE, _LENGTH, _LOW, _HIGH, _ENOUGH, _IN_A_ROW, _STEPS = range(8)
# The vectors of a code: the code, the gradient, the direction, the next trial point and the gradient there, the step,
# the change of the gradient, a work vector, and then the rows of H.
_Z, _G, _P, _TRIAL, _THERE, _S, _Y, _WORK, _H = range(9)


@jit
def _drop(z, p, free, box):
    """Fix the coordinates at a bound that a step along p would cross; return whether there are any."""
    dropped = False
    for j in range(len(z)):
        if free[j] > 0 and ((z[j] <= box[0, j] and p[j] < 0) or (z[j] >= box[1, j] and p[j] > 0)):
            free[j], dropped = 0.0, True
    return dropped


@jit
def _try(vectors, numbers, box, length):
    """Set the trial point of a code, at a length along its direction, inside the bounds."""
    z, p, trial, numbers[_LENGTH] = vectors[_Z], vectors[_P], vectors[_TRIAL], length
    for j in range(len(z)):
        trial[j] = min(max(z[j] + length * p[j], box[0, j]), box[1, j])


@kernel
def _aim(vectors, numbers, box):
    """Set the direction of a code to -H grad f, in the coordinates not held at a bound, and its trial point."""
    z, g, p, free, again, slope = vectors[_Z], vectors[_G], vectors[_P], vectors[_WORK], True, 0.0
    for j in range(len(z)):
        free[j], p[j] = 1.0, -g[j]
    _drop(z, p, free, box)
    while again:
        slope = 0.0
        for j in range(len(z)):
            total = 0.0
            for i in range(len(z)):
                total += vectors[_H + j, i] * g[i] * free[i]
            p[j] = -total * free[j]
            slope += p[j] * g[j]
        again = _drop(z, p, free, box)
    numbers[_SLOPE], numbers[_LOW], numbers[_HIGH] = slope, 0.0, np.inf
    _try(vectors, numbers, box, 1.0)


@jit
def _learn(vectors, s, y, h):
    """BFGS: H + (1 + y'Hy / s'y) s s' / s'y - (Hy s' + s (Hy)') / s'y. ``h`` is a work vector."""
    k, product, bent = len(s), np.dot(s, y), 0.0
    if not product > _EPS * math.sqrt(np.dot(s, s) * np.dot(y, y)):
        return
    for i in range(k):
        h[i] = np.dot(vectors[_H + i], y) / product
        bent += y[i] * h[i]
    for i in range(k):
        row = vectors[_H + i]
        for j in range(k):
            row[j] += (1 + bent) / product * s[i] * s[j] - h[i] * s[j] - s[i] * h[j]


@kernel
def _accept(vectors, numbers, box, f):
    """Accept the trial point of a code, with objective f, or set another one, nearer or farther along the direction.

    Returns whether the code is optimal, or BFGS is to begin anew.
    """
    z, g, trial, there, s, y = vectors[_Z], vectors[_G], vectors[_TRIAL], vectors[_THERE], vectors[_S], vectors[_Y]
    slope, later, cut, length = 0.0, 0.0, False, numbers[_LENGTH]
    numbers[_STEPS] += 1
    for j in range(len(z)):
        s[j] = trial[j] - z[j]
        y[j] = there[j] - g[j] if s[j] != 0 else 0.0  # a coordinate held at a bound shows no curvature
        slope, later = slope + g[j] * s[j], later + there[j] * s[j]
        cut |= vectors[_P, j] != 0 and not box[0, j] < trial[j] < box[1, j]
    if f <= numbers[_F] + _DECREASE * min(slope, 0.0):
        numbers[_LOW] = length
        if later >= _RISEN * slope or length >= _LONGEST or cut:
            _learn(vectors, s, y, vectors[_WORK])
            copy(trial, z)
            copy(there, g)
            numbers[_F] = f
            _aim(vectors, numbers, box)
            promised = -0.5 * numbers[_SLOPE]
            numbers[_IN_A_ROW] = numbers[_IN_A_ROW] + 1 if promised <= _TINY * f else 0.0
            more = promised > _VANISHED * f and promised < np.inf and f > numbers[_ENOUGH]
            return numbers[_IN_A_ROW] >= _TINY_STEPS or not more
    else:
        numbers[_HIGH] = length
    between = 0.5 * (numbers[_LOW] + numbers[_HIGH])
    _try(vectors, numbers, box, between if numbers[_HIGH] < np.inf else 2 * length)
    return numbers[_LENGTH] < _SHORTEST or numbers[_HIGH] - numbers[_LOW] < _SHORTEST


@kernel
def _evaluate_packed(weights, layout, widths, ends, work, y, prior, z, gradient):
    """Return f at a code of a packed network, and write its gradient.

    ``widths`` are zeros (d,), and ``ends`` says where layers end in each of the vectors of ``work``.
    """
    x, slopes, back, r = work[1], work[2], work[3], work[4, : len(y)]
    forward(weights, layout, widths, z, ends, x, slopes)
    f = residual(x, ends[len(layout)], y, r, z, prior)
    backward(weights, layout, ends, slopes, r, back)
    for j in range(len(z)):
        gradient[j] = 2 * (back[j] + prior[j] * z[j])
    return f


def _compile() -> None:
    """Compile or load the kernels for vectors and matrices in double precision."""
    vector, matrix = "f8[::1]", "f8[:, ::1]"
    _aim.compile(f"({matrix}, {vector}, {matrix})")
    _accept.compile(f"({matrix}, {vector}, {matrix}, f8)")
    of_network = f"{vector}, i8[:, ::1], {vector}, i8[::1], {matrix}"
    _evaluate_packed.compile(f"({of_network}, {', '.join([vector] * 4)})")


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
    objective: SquaredError,
    z: Tensor,
    observations: Tensor,
    enough: Tensor,
    most: int,
    stop: Stop | None = None,
    curvature: SquaredError | None = None,
) -> Refined:
    """Refine codes to first-order optima of f; f never rises.

    Args:
        objective: f, in the precision that the codes are wanted in.
        z, observations: codes near an optimum, (b, k), inside the bounds, and the observation of each, (b,).
        enough: values of f that count as 0, (b,).
        most: the most evaluations of f and its gradient for each code.
        stop: asked, every few steps, whether to stop.
        curvature: f in single precision, if Jacobians are expensive: they only shape the steps.
    """
    compile_by(_compile, _evaluate_packed.stats.cache_path, "refinement")
    size = at_once(HESSIAN_NUMBERS, z.shape[1] ** 2)
    each = zip(torch.split(z, size), torch.split(observations, size), torch.split(enough, size), strict=True)
    parts = [_Refinement(objective, *part, curvature or objective).run(most, stop or (lambda: False)) for part in each]
    return Refined(*(torch.cat(values) for values in zip(*parts, strict=True)))


class _Refinement:
    """The state of a refinement: the vectors (n, 8 + k, k) and numbers (n, 8) of codes.

    Attributes:
        packed: the observations of a small dense network, for compiled evaluations; None for others.
    """

    def __init__(
        self, objective: SquaredError, z: Tensor, observations: Tensor, enough: Tensor, curvature: SquaredError
    ) -> None:
        self.objective, self.curvature = objective, curvature
        self.observations, (n, k) = observations.cpu().numpy(), z.shape
        self.box, self.prior, network, y = (
            _numpy(objective.box),
            _numpy(objective.prior),
            objective.network,
            objective.y,
        )
        self.packed: PackedObservations | None = None
        if y.dtype == torch.float64 and objective.squares and packable(network, objective.operator):
            self.packed = PackedObservations(network, objective.operator, _numpy(y), np.float64)
        self.vectors, self.numbers = np.zeros((n, _H + k, k)), np.zeros((n, 8))
        self.numbers[:, _ENOUGH], self.vectors[:, _Z] = _numpy(enough), _numpy(z)
        self.numbers[:, _F], self.vectors[:, _G] = self._evaluate(_Z, np.arange(n))
        self.mark, self.optimal, self.ended = np.full(n, np.inf), np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        self._begin(np.arange(n))

    def run(self, most: int, stopped: Stop) -> Refined:
        """Make at most ``most`` trial steps of every code."""
        while len(some := np.flatnonzero(~self.ended & (self.numbers[:, _STEPS] < most))) and not stopped():
            asks = self._together(some) if self.packed is None else self._apart(self.packed, some, most, stopped)
            self._begin(some[asks])
        z, f = (self.objective.tensor(values) for values in (self.vectors[:, _Z], self.numbers[:, _F]))
        steps = self.numbers[:, _STEPS].astype(np.int64)
        return Refined(z, f, self.objective.index(steps), self.objective.index(self.optimal))

    def _evaluate(self, which: int, some: Index) -> tuple[Array, Array]:
        """f and its gradient by PyTorch at one of the vectors of some codes, (s,) and (s, k)."""
        z, where = self.objective.tensor(self.vectors[some, which]), self.objective.index(self.observations[some])
        f, gradient = self.objective.gradient(z, where)
        return _numpy(f), _numpy(gradient)

    def _together(self, some: Index) -> Flags:
        """Make a trial step of some codes, evaluated by PyTorch; return which BFGS is to begin anew, (s,)."""
        f, self.vectors[some, _THERE] = self._evaluate(_TRIAL, some)
        each = zip(some, f, strict=True)
        return np.array([_accept(self.vectors[i], self.numbers[i], self.box, value) for i, value in each])

    def _apart(self, packed: PackedObservations, some: Index, most: int, stopped: Stop) -> Flags:
        """Make steps of some codes, one code after another; return which BFGS is to begin anew, (s,)."""
        asks = np.zeros(len(some), dtype=bool)
        for a, i in enumerate(some):
            network, y = packed.of(int(self.observations[i]))
            ends, _, _, work, *_ = work_arrays(network.layout, np.float64)
            exact, vectors, numbers = network._replace(sizes=0 * network.sizes), self.vectors[i], self.numbers[i]
            while not asks[a] and numbers[_STEPS] < most:
                f = _evaluate_packed(*exact, ends, work, y, self.prior, vectors[_TRIAL], vectors[_THERE])
                asks[a] = _accept(vectors, numbers, self.box, f)
            if stopped():
                break
        return asks

    def _begin(self, some: Index) -> None:
        """Begin BFGS of some codes with the inverse of B, or end them if they are optimal."""
        done = self.numbers[some, _F] <= self.numbers[some, _ENOUGH]
        self.optimal[some[done]] = self.ended[some[done]] = True
        some = some[~done]
        if not len(some):
            return
        self.vectors[some, _H:] = self._gauss_newton(some)
        for i in some:
            _aim(self.vectors[i], self.numbers[i], self.box)
        f, promised = self.numbers[some, _F], -0.5 * self.numbers[some, _SLOPE]
        self.optimal[some] = (promised <= _VANISHED * f) | (self.mark[some] - f <= _LEFT * f)
        self.mark[some], self.numbers[some, _IN_A_ROW] = f, 0
        self.ended[some] = self.optimal[some] | ~np.isfinite(promised)

    def _gauss_newton(self, some: Index) -> Array:
        """The inverses of B of some codes, (s, k, k), with the diagonal raised by :data:`_FLOOR`."""
        z, where = self.curvature.tensor(self.vectors[some, _Z]), self.curvature.index(self.observations[some])
        gram = 2 * self.curvature.system(z, where)[0].double()
        floor = max(_FLOOR, torch.finfo(z.dtype).eps) * gram.diagonal(dim1=1, dim2=2).mean(dim=1)
        floor = floor.clamp_min(np.finfo(float).tiny)
        one = torch.eye(z.shape[1]).to(gram)
        inverse, failed = torch.linalg.inv_ex(gram + floor[:, None, None] * one)
        return _numpy(torch.where((failed == 0)[:, None, None], inverse, one))


def _numpy(values: Tensor) -> Array:
    return values.detach().cpu().double().numpy().copy()
