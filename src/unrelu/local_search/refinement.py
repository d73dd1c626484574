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
:math:`-B^{-1} \sum_j w_j b_j`, a descent direction of all of these sides at once. Where such steps gain little, BFGS
begins anew with a multiple of I, which leads along valleys of many kinks, and then with :math:`B^{-1}`. A code is also
optimal when six steps of these three kinds in a row have together gained less than 1e-5 of f.

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

from unrelu.local_search.packed_observations import PackedObservations, packable
from unrelu.local_search.refinement_kernel import (
    ASKS,
    DONE,
    ENOUGH,
    GOES_ON,
    LENGTH,
    LOST,
    PAST_F,
    SLOPE,
    STEPS,
    STUCK,
    TINY,
    TRIAL,
    TRIAL_G,
    VANISHED,
    F,
    G,
    H,
    P,
    Z,
    accept,
    aim,
    codes_at,
    compile_refinement,
    refine_packed,
    room,
    turn,
)  # fmt: skip
from unrelu.local_search.squared_error import SquaredError
from unrelu.models.network import Network

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# A test of optimality may leave so many times what a tiny step promises. Tuned, with the next numbers, on the trained
# families to tune on (``unrelu_studies``).
_LEFT = 10.0 * TINY
# Gradients count whose quadratic models are off by no more than this share of f: others are of regions that do not
# touch the code. With 1e-5, L-BFGS lowers two of 1,000 codes further by more than 1e-4 that were taken to be optimal.
_NEAR = 1e-7
# A code is also optimal when the steps between so many tests have together gained no more than a test may leave.
_TESTS = 6
# The first step of BFGS that begins with a multiple of I, as a share of |z| / sqrt(k), which is this at least.
_FIRST, _SHORTEST = 1e-3, 1e-3
# Gradients that are remembered: so many for each latent coordinate, and so many at most. With 3 for each, on decoders
# trained with dropout, L-BFGS lowers 10 of 90 codes further by more than 1e-4, with 8 it lowers 2.
_REMEMBERED, _MOST_REMEMBERED = 8, 200
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
    objective: SquaredError,
    z: Tensor,
    observations: Tensor,
    enough: Tensor,
    most: int,
    stop: Callable[[], bool] | None = None,
) -> Refined:
    """Codes refined to first-order optima of f, which never rises.

    Args:
        objective: f, in the precision that the codes are wanted in.
        z: codes near an optimum, (b, k), inside the bounds.
        observations: (b,), the observation of each.
        enough: values of f that are as good as 0, (b,).
        most: evaluations of f and its gradient at most, for each code.
        stop: asked before each whether to stop.
    """
    size = max(1, _NUMBERS // (_remembered(z.shape[1]) * z.shape[1]))
    parts = []
    for part in torch.split(torch.arange(len(z), device=z.device), size):
        state = _Refinement(objective, z[part], observations[part], enough[part])
        parts.append(state.run(most, stop))
    return Refined(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _remembered(k: int) -> int:
    return min(_REMEMBERED * k, _MOST_REMEMBERED)


class _Refinement:
    """The state of a refinement."""

    def __init__(self, objective: SquaredError, z: Tensor, observations: Tensor, enough: Tensor) -> None:
        compile_refinement()
        self.objective, self.like, self.observations = objective, z, observations
        (n, k), box = z.shape, objective.box
        self.box = np.array([[-np.inf] * k, [np.inf] * k]) if box is None else np.stack([_numpy(side) for side in box])
        f, g = self._evaluate(_numpy(z), np.arange(n))
        self.vectors, self.numbers = codes_at(_numpy(z), f, g, _numpy(enough), _remembered(k))
        self.optimal = f <= self.numbers[:, ENOUGH]
        self.ended = self.optimal | ~np.isfinite(f)
        self.mark, self.tests = np.full(n, np.inf), np.zeros(n, np.int64)
        some = np.flatnonzero(~self.ended)
        for i, gram in zip(some, self._gauss_newton(some) if len(some) else (), strict=True):
            self.vectors[i, H : H + k] = _inverse(gram)
            aim(self.vectors[i], self.numbers[i], self.box)
        promised = -0.5 * self.numbers[:, SLOPE]
        self.optimal[some] |= promised[some] <= VANISHED * f[some]
        self.ended |= self.optimal | ~np.isfinite(promised)
        self.packed = self._packed()

    def _packed(self) -> PackedObservations | None:
        """The observations for compiled steps, where the network is small and dense."""
        network, y = self.objective.network, self.objective.y
        plain = y.dtype == torch.float64 and self.objective.counts is None
        if not (plain and packable(network, self.objective.operator)):
            return None
        assert isinstance(network, Network)
        return PackedObservations(network, self.objective.operator, _numpy(y), np.float64)

    def run(self, most: int, stop: Callable[[], bool] | None) -> Refined:
        """So many trial steps of every code at most."""
        stopped = stop or (lambda: False)
        while not stopped():
            some = np.flatnonzero(~self.ended & (self.numbers[:, STEPS] < most))
            if not len(some):
                break
            reasons = self._step_together(some) if self.packed is None else self._step_apart(some, most, stopped)
            self.optimal[some[reasons == DONE]] = True
            self.ended[some[(reasons == DONE) | (reasons == LOST)]] = True
            self._test(some[reasons == ASKS])
        steps = torch.from_numpy(self.numbers[:, STEPS].astype(np.int64)).to(self.like.device)
        optimal = torch.from_numpy(self.optimal).to(self.like.device)
        return Refined(self._tensor(self.vectors[:, Z]), self._tensor(self.numbers[:, F]), steps, optimal)

    def _step_together(self, some: Index) -> npt.NDArray[np.int64]:
        """One trial step of some codes, by PyTorch, and why they end."""
        aimed = self.vectors[some, Z] + self.numbers[some, LENGTH, None] * self.vectors[some, P]
        trial = np.clip(aimed, *self.box)
        f, g = self._evaluate(trial, some)
        self.vectors[some, TRIAL], self.vectors[some, TRIAL_G] = trial, g
        cut = (trial != aimed).any(axis=1)
        codes = zip(some, f, cut, strict=True)
        return np.array([accept(self.vectors[i], self.numbers[i], self.box, *there) for i, *there in codes])

    def _step_apart(self, some: Index, most: int, stopped: Callable[[], bool]) -> npt.NDArray[np.int64]:
        """Compiled steps of some codes, one after another, until they end, and why."""
        assert self.packed is not None
        reasons, observations = np.full(len(some), GOES_ON), self.observations.numpy()
        for a, i in enumerate(some):
            if stopped():
                break
            (weights, layout, _), y = self.packed.of(int(observations[i]))
            reasons[a] = refine_packed(
                weights, layout, *room(layout), y, self.objective.prior, most, self.vectors[i], self.numbers[i],
                self.box,
            )  # fmt: skip
        return reasons

    # --- the objective ------------------------------------------------------------------------------------------------

    def _tensor(self, z: Array) -> Tensor:
        return torch.from_numpy(z).to(self.like)

    def _evaluate(self, z: Array, some: Index) -> tuple[Array, Array]:
        f, gradient = self.objective.gradient(self._tensor(z), self._observations(some))
        return _numpy(f), _numpy(gradient)

    def _observations(self, some: Index) -> Tensor:
        return self.observations[torch.from_numpy(some).to(self.observations.device)]

    def _gauss_newton(self, some: Index) -> Array:
        """2 (J^T J + prior I) of some codes, (s, k, k), with a diagonal that is raised by :data:`_FLOOR`."""
        gram = 2 * _numpy(self.objective.system(self._tensor(self.vectors[some, Z]), self._observations(some))[0])
        mean = np.einsum("sii->s", gram) / gram.shape[1]
        floor = np.maximum(_FLOOR * mean, np.finfo(float).tiny)
        return np.asarray(gram + floor[:, None, None] * np.eye(gram.shape[1]))

    # --- optimality ---------------------------------------------------------------------------------------------------

    def _test(self, some: Index) -> None:
        """Whether codes are optimal; those that are not get a new direction."""
        for i, b in zip(some, self._gauss_newton(some) if len(some) else (), strict=True):
            gain, p, kink = self._steepest(i, b)
            f, stuck = self.numbers[i, F], bool(self.numbers[i, STUCK])
            moved = self.mark[i] - f > _LEFT * f
            self.mark[i], self.tests[i] = (f, 0) if moved else (self.mark[i], self.tests[i] + 1)
            self.optimal[i] = gain <= (_LEFT if kink or stuck else VANISHED) * f or self.tests[i] >= _TESTS
            self.ended[i] = self.optimal[i] or not np.isfinite(gain)
            if self.tests[i] % 3:
                self._begin_anew(i, b if self.tests[i] % 3 == 2 else None)
            else:
                self.vectors[i, P], self.numbers[i, SLOPE] = p, -2 * gain
            turn(self.numbers[i])

    def _begin_anew(self, i: int, b: Array | None) -> None:
        """Let BFGS begin with the inverse of b, or with a multiple of I."""
        k = self.vectors.shape[2]
        inverse = np.eye(k) if b is None else _inverse(b)
        if b is None:
            length = max(_norm(self.vectors[i, Z]) / np.sqrt(k), _SHORTEST)
            inverse *= _FIRST * length / max(_norm(self.vectors[i, G]), np.finfo(np.float64).tiny)
        self.vectors[i, H : H + k] = inverse
        self.numbers[i, STUCK] = 0.0
        aim(self.vectors[i], self.numbers[i], self.box)

    def _steepest(self, i: int, b: Array) -> tuple[float, Array, bool]:
        """What a step from a code may gain, by the gradients of all sides near it, that step, and if it is at a kink.

        It is at one where its own gradient promises twice as much.
        """
        vectors, f, k = self.vectors[i], self.numbers[i, F], self.vectors.shape[2]
        z, g, p, (past_z, past_g) = vectors[Z], vectors[G], vectors[P], np.split(vectors[H + k :], 2)
        step, past_f, (low, high) = z - past_z, self.numbers[i, PAST_F:], self.box
        free = ~(((z <= low) & ((g > 0) | (p < 0))) | ((z >= high) & ((g < 0) | (p > 0))))
        bent = step @ b
        with np.errstate(invalid="ignore"):
            there = past_f + (past_g * step).sum(axis=1) + 0.5 * (bent * step).sum(axis=1)
        near = np.abs(there - f) <= _NEAR * f
        sides = np.vstack([g[None], (past_g + bent)[near]])[:, free]
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


def _norm(vector: Array) -> float:
    """Its length, also where its square is no number."""
    return float(np.hypot.reduce(vector))


def _numpy(values: Tensor) -> Array:
    return values.detach().cpu().double().numpy().copy()
