r"""Refinement of codes to first-order optimality, also at kinks: BFGS with a weak Wolfe line search, and a test of it.

Codes go down f(z) = |A G(z) - y|^2 + lambda |z|^2 along -H grad f. H begins as the inverse of the Gauss-Newton matrix
2 (J^T J + lambda I) and is updated by BFGS, which adds the curvature of smooth outputs. At a kink the gradient jumps,
which BFGS takes for a large curvature: steps across it become short, and those along it lead on. So the method
converges on piecewise smooth functions too, with a line search that asks for a decrease and for a slope that has risen.

**When a code is optimal.** Where f is smooth, its gradient vanishes. At a kink it does not, but 0 is a convex
combination of gradients from the sides of the kink, so that no one-sided derivative is below 0. When steps have become
tiny, the last gradients g_j at trial points z_j are moved to the code with the Gauss-Newton matrix B,

.. math:: b_j = g_j + B (z - z_j), \qquad \min_{w \ge 0, \; 1^T w = 1} \tfrac12 \Big|\sum_j w_j b_j\Big|^2_{B^{-1}},

which is exact where f is piecewise quadratic. The minimum is what a step from the code can gain, as far as these
gradients tell. If it is a tiny part of f, the code is optimal; if not, the next step is
:math:`-B^{-1} \sum_j w_j b_j`, a descent direction of all of these sides at once.

Source: Lewis and Overton, "Nonsmooth optimization via quasi-Newton methods", Mathematical Programming 141 (2013),
algorithm 2.6 and section 6.3; Luksan and Vlcek, "A bundle-Newton method for nonsmooth unconstrained minimization",
Mathematical Programming 83 (1998); Nocedal and Wright, Numerical Optimization (2006), equation 6.17 (BFGS).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from torch import Tensor

from unrelu.local_search.squared_error import SquaredError

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Of the line search: the part of the promised decrease that a step has to bring, and the part of the slope that may be
# left; the longest and shortest step, in units of the one proposed.
_DECREASE, _SLOPE = 1e-4, 0.5
_LONGEST, _SHORTEST = 16.0, 1e-10
# A step is tiny that promises to lower f by less than this fraction. After two in a row optimality is tested: it may
# leave ten times as much, among gradients whose quadratic models are off by no more. Tuned on 15 trained and random
# decoders (24 tests of 30 observations), where L-BFGS then gains 1e-6 in the median and 2e-5 at most.
_TINY, _TINY_STEPS, _LEFT = 1e-6, 2, 10.0
# Where f is smooth, convergence is fast: a code goes on until a step promises no more than this fraction.
_VANISHED = 1e-13
# A code is also optimal when the steps between so many tests have together gained no more than a test may leave.
_TESTS = 4
# Gradients that are remembered: so many for each latent coordinate, and so many at most.
_REMEMBERED, _MOST_REMEMBERED = 3, 64
# The diagonal of the Gauss-Newton matrix is raised by this fraction of its mean, so that it has an inverse.
_FLOOR = 1e-12
# Numbers that are remembered of all codes at once (64 MiB).
_NUMBERS = 2**23


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
    objective: SquaredError, z: Tensor, rows: Tensor, enough: Tensor, most: int, stop: Callable[[], bool] | None = None
) -> Refined:
    """Codes refined to first-order optima of f, which never rises.

    Args:
        objective: f, in the precision that the codes are wanted in.
        z: codes near an optimum, (b, k), inside the bounds.
        rows: (b,), the observation of each.
        enough: values of f that are as good as 0, (b,).
        most: evaluations of f and its gradient at most, for each code.
        stop: asked before each whether to stop.
    """
    size = max(1, _NUMBERS // (_remembered(z.shape[1]) * z.shape[1]))
    parts = []
    for part in torch.split(torch.arange(len(z), device=z.device), size):
        state = _Refinement(objective, z[part], rows[part], enough[part])
        parts.append(state.run(most, stop))
    return Refined(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _remembered(k: int) -> int:
    return min(_REMEMBERED * k, _MOST_REMEMBERED)


class _Refinement:
    """The state of a refinement: arrays over the codes that are still at work, but those of the result.

    In NumPy, as steps on small arrays are many and its calls are short; f and its gradient are PyTorch's.
    """

    _OF_CODES = (
        "place", "enough", "z", "f", "g", "h", "p", "slope", "t", "low", "high", "tiny", "asked", "mark", "tests",
        "past_z", "past_f", "past_g",
    )  # fmt: skip

    def __init__(self, objective: SquaredError, z: Tensor, rows: Tensor, enough: Tensor) -> None:
        self.objective, self.like, self.rows = objective, z, rows
        n, k = z.shape
        self.box = None if objective.box is None else [_numpy(side) for side in objective.box]
        self.place, self.enough, self.z = np.arange(n), _numpy(enough), _numpy(z)
        self.f, self.g = self._evaluate(self.z)
        self.h = np.zeros((n, k, k))
        self.p, self.slope = np.zeros((n, k)), np.zeros(n)
        self.t, self.low, self.high = np.ones(n), np.zeros(n), np.full(n, np.inf)
        self.tiny, self.asked = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        self.mark, self.tests = np.full(n, np.inf), np.zeros(n, dtype=np.int64)
        remembered = _remembered(k)
        self.past_z, self.past_g = np.zeros((n, remembered, k)), np.zeros((n, remembered, k))
        self.past_f, self.turn = np.full((n, remembered), np.inf), 0
        self.end_z, self.end_f = self.z.copy(), self.f.copy()
        self.steps, self.optimal = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        self._retire(self.f <= self.enough, ~np.isfinite(self.f))
        if len(self.place):
            self.h = np.stack([_inverse(gram) for gram in self._gauss_newton(np.arange(len(self.place)))])
            self._aim(np.ones(len(self.place), dtype=bool))
            self._retire(-0.5 * self.slope <= _VANISHED * self.f, ~np.isfinite(self.slope))

    def run(self, most: int, stop: Callable[[], bool] | None) -> Refined:
        """So many trial steps of every code at most."""
        for _ in range(most):
            if not len(self.place) or (stop is not None and stop()):
                break
            self._step()
        self._write(np.ones(len(self.place), dtype=bool))
        device = self.like.device
        steps, optimal = torch.from_numpy(self.steps).to(device), torch.from_numpy(self.optimal).to(device)
        return Refined(self._tensor(self.end_z), self._tensor(self.end_f), steps, optimal)

    # --- the objective ------------------------------------------------------------------------------------------------

    def _tensor(self, z: Array) -> Tensor:
        return torch.from_numpy(z).to(self.like)

    def _evaluate(self, z: Array) -> tuple[Array, Array]:
        f, gradient = self.objective.gradient(self._tensor(z), self.rows)
        return _numpy(f), _numpy(gradient)

    def _gauss_newton(self, some: Index) -> Array:
        """2 (J^T J + prior I) of some codes, (s, k, k), with a diagonal that is raised by :data:`_FLOOR`."""
        which = torch.from_numpy(some).to(self.like.device)
        gram = 2 * _numpy(self.objective.system(self._tensor(self.z[some]), self.rows[which])[0])
        mean = np.einsum("sii->s", gram) / gram.shape[1]
        floor = np.maximum(_FLOOR * mean, np.finfo(float).tiny)
        return np.asarray(gram + floor[:, None, None] * np.eye(gram.shape[1]))

    def _free(self, z: Array, g: Array) -> npt.NDArray[np.bool_]:
        """Coordinates that are not held at a bound (:meth:`SquaredError.held`)."""
        if self.box is None:
            return np.ones(z.shape, dtype=bool)
        return ~(((z <= self.box[0]) & (g > 0)) | ((z >= self.box[1]) & (g < 0)))

    # --- steps --------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """One trial step of every code, and a new direction where it is accepted."""
        aimed = self.z + self.t[:, None] * self.p
        trial = aimed if self.box is None else np.clip(aimed, *self.box)
        f, g = self._evaluate(trial)
        self.steps[self.place] += 1
        self.past_z[:, self.turn], self.past_f[:, self.turn], self.past_g[:, self.turn] = trial, f, g
        self.turn = (self.turn + 1) % self.past_f.shape[1]
        s, y = trial - self.z, g - self.g
        slope, slope_there = (self.g * s).sum(axis=1), (g * s).sum(axis=1)
        lower = f <= self.f + _DECREASE * np.minimum(slope, 0.0)
        risen = (slope_there >= _SLOPE * slope) | (self.t >= _LONGEST) | (trial != aimed).any(axis=1)
        accepted = lower & risen
        self._bracket(lower)
        stuck = ~accepted & ((self.t < _SHORTEST) | (self.high - self.low < _SHORTEST))
        self._learn(accepted, s, y)
        self.z[accepted], self.f[accepted], self.g[accepted] = trial[accepted], f[accepted], g[accepted]
        self._aim(accepted)
        promised = -0.5 * self.slope
        self.tiny = np.where(accepted, np.where(promised <= _TINY * self.f, self.tiny + 1, 0), self.tiny)
        self.asked &= ~accepted
        vanished = accepted & (promised <= _VANISHED * self.f)
        optimal, lost = self._test(np.flatnonzero((self.tiny >= _TINY_STEPS) | vanished | stuck), stuck)
        self._retire(optimal | (self.f <= self.enough), lost | ~np.isfinite(self.slope))

    def _bracket(self, lower: npt.NDArray[np.bool_]) -> None:
        """The next length: between one that is too short and one that is too long, or twice as long."""
        self.high, self.low = np.where(lower, self.high, self.t), np.where(lower, self.t, self.low)
        open_ended = np.isinf(self.high)
        self.t = np.where(open_ended, 2 * self.t, 0.5 * (self.low + np.where(open_ended, 0.0, self.high)))

    def _learn(self, accepted: npt.NDArray[np.bool_], s: Array, y: Array) -> None:
        """BFGS: H + (1 + y'Hy / s'y) s s' / s'y - (Hy s' + s (Hy)') / s'y."""
        product = (s * y).sum(axis=1)
        least = np.finfo(float).eps * np.sqrt((s * s).sum(axis=1) * (y * y).sum(axis=1))
        weight = np.divide(1.0, product, out=np.zeros_like(product), where=accepted & (product > least))
        hy = (self.h @ y[:, :, None])[:, :, 0]
        ahead = ((1 + weight * (y * hy).sum(axis=1)) * weight)[:, None] * s - weight[:, None] * hy
        self.h += s[:, :, None] * ahead[:, None, :] - (weight[:, None] * hy)[:, :, None] * s[:, None, :]

    def _aim(self, some: npt.NDArray[np.bool_]) -> None:
        """New directions -H grad f of some codes."""
        if not some.any():
            return
        z, g, free = self.z[some], self.g[some], self._free(self.z[some], self.g[some])
        while True:
            p = -(self.h[some] @ (g * free)[:, :, None])[:, :, 0] * free
            leaving = ~self._free(z, -p)
            if not leaving.any():
                break
            free &= ~leaving
        self.p[some], self.slope[some] = p, (p * g).sum(axis=1)
        self.t[some], self.low[some], self.high[some] = 1.0, 0.0, np.inf

    # --- optimality ---------------------------------------------------------------------------------------------------

    def _test(self, some: Index, stuck: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Whether codes are optimal, and whether they are given up; those that are neither get a new direction."""
        optimal, lost = np.zeros(len(self.place), dtype=bool), np.zeros(len(self.place), dtype=bool)
        for i, b in zip(some, self._gauss_newton(some) if len(some) else (), strict=True):
            gain, p, kink = self._steepest(i, b)
            moved = self.mark[i] - self.f[i] > _LEFT * _TINY * self.f[i]
            self.mark[i], self.tests[i] = (self.f[i], 0) if moved else (self.mark[i], self.tests[i] + 1)
            enough = _LEFT * _TINY if kink or stuck[i] else _VANISHED
            optimal[i] = gain <= enough * self.f[i] or self.tests[i] >= _TESTS
            lost[i] = not optimal[i] and stuck[i] and self.asked[i]
            self.p[i], self.slope[i], self.tiny[i], self.asked[i] = p, -2 * gain, 0, True
            self.t[i], self.low[i], self.high[i] = 1.0, 0.0, np.inf
        return optimal, lost

    def _steepest(self, i: int, b: Array) -> tuple[float, Array, bool]:
        """What a step from a code may gain, by the gradients of all sides near it, that step, and if it is at a kink.

        It is at one where its own gradient promises twice as much.
        """
        f, step, free = (
            self.f[i],
            self.z[i] - self.past_z[i],
            self._free(self.z[i], self.g[i]) & self._free(self.z[i], -self.p[i]),
        )
        bent = step @ b
        with np.errstate(invalid="ignore"):
            there = self.past_f[i] + (self.past_g[i] * step).sum(axis=1) + 0.5 * (bent * step).sum(axis=1)
        near = np.abs(there - f) <= _LEFT * _TINY * f
        sides = np.vstack([self.g[i][None], (self.past_g[i] + bent)[near]])[:, free]
        direction = np.zeros(len(free))
        try:
            root = np.linalg.cholesky(b[np.ix_(free, free)])
            whitened = solve_triangular(root, sides.T, lower=True, check_finite=False)
            shortest = _shortest(whitened)
        except (np.linalg.LinAlgError, RuntimeError):  # not positive definite; nnls at its limit of steps
            return np.inf, direction, False
        direction[free] = -solve_triangular(root, shortest, lower=True, trans=1, check_finite=False)
        gain, alone = 0.5 * float(shortest @ shortest), 0.5 * float(whitened[:, 0] @ whitened[:, 0])
        return gain, direction, alone > 2 * gain

    # --- the end ------------------------------------------------------------------------------------------------------

    def _retire(self, optimal: npt.NDArray[np.bool_], lost: npt.NDArray[np.bool_]) -> None:
        """Write down codes that are finished, and go on with the others."""
        ended = optimal | lost
        if not ended.any():
            return
        self.optimal[self.place[optimal]] = True
        self._write(ended)
        for name in self._OF_CODES:
            setattr(self, name, getattr(self, name)[~ended])
        self.rows = self.rows[torch.from_numpy(~ended).to(self.rows.device)]

    def _write(self, some: npt.NDArray[np.bool_]) -> None:
        self.end_z[self.place[some]], self.end_f[self.place[some]] = self.z[some], self.f[some]


def _shortest(vectors: Array) -> Array:
    """The shortest convex combination of columns, (k,).

    Up to its length it is the solution of min |V w|^2 + (1'w - 1)^2, w >= 0, a problem of non-negative least squares.
    """
    size = float(np.sqrt((vectors * vectors).sum(axis=0).max(initial=0.0)))
    if size == 0:
        return np.zeros(len(vectors))
    matrix = np.vstack([vectors / size, np.ones((1, vectors.shape[1]))])
    weight, _ = nnls(matrix, np.append(np.zeros(len(vectors)), 1.0), maxiter=100 * vectors.shape[1])
    return np.asarray(vectors @ (weight / weight.sum()))


def _inverse(b: Array) -> Array:
    """The inverse of a positive definite matrix; a multiple of I where it has none."""
    try:
        root = np.linalg.inv(np.linalg.cholesky(b))
        return np.asarray(root.T @ root)
    except np.linalg.LinAlgError:
        return np.eye(len(b)) / max(float(np.trace(b)), 1.0) if np.isfinite(b).all() else np.eye(len(b))


def _numpy(values: Tensor) -> Array:
    return values.detach().cpu().double().numpy().copy()
