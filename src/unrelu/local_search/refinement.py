r"""Refinement of codes to first-order optimality, also at kinks: BFGS with a weak Wolfe line search.

Codes descend f(z) = |A G(z) - y|^2 + lambda |z|^2 along -H grad f. H begins as the inverse of the Gauss-Newton matrix
2 (J^T J + lambda I) and is updated by BFGS, which adds the curvature of smooth outputs. At a kink the gradient jumps.
BFGS treats the jump as a large curvature: steps across the kink become short, and steps along it go on. With a line
search that only asks for a decrease and a risen slope, the method therefore converges on piecewise smooth functions.

**When a code is optimal.** Where f is smooth, its gradient vanishes. At a kink it does not, but 0 is a convex
combination of the gradients on the sides of the kink, so no one-sided derivative is negative. Once steps are tiny, the
last gradients g_j at trial points z_j are extrapolated to the code with the Gauss-Newton matrix B,

.. math:: b_j = g_j + B (z - z_j), \qquad \min_{w \ge 0, \; 1^T w = 1} \tfrac12 \Big|\sum_j w_j b_j\Big|^2_{B^{-1}},

which is exact where f is piecewise quadratic. The minimum estimates the possible gain of a step from the code. If it is
a tiny fraction of f, the code is optimal. If not, the next step is :math:`-B^{-1} \sum_j w_j b_j`, a descent direction
on all these sides at once. If such steps gain little, BFGS restarts with a multiple of I, which follows valleys of many
kinks, and then with :math:`B^{-1}`. A code is also optimal when the steps between six tests in a row have together
gained less than 1e-5 of f.

The steps are compiled, code by code. For small dense networks, :func:`refine_packed` evaluates the objective too, in
double precision. For others, :func:`accept` is called after an evaluation of all codes at once. The steps of a code do
not depend on the other codes of its batch.

Source: Lewis and Overton, "Nonsmooth optimization via quasi-Newton methods", Mathematical Programming 141 (2013),
algorithm 2.6 and section 6.3; Luksan and Vlcek, "A bundle-Newton method for nonsmooth unconstrained minimization",
Mathematical Programming 83 (1998); Nocedal and Wright, Numerical Optimization (2006), equation 6.17 (BFGS).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from torch import Tensor

from unrelu.local_search.descent_kernel import ROOM, SHORTEST_CODE, copy, forward, residual
from unrelu.local_search.halting import Stop
from unrelu.local_search.packed_observations import (
    INPUTS,
    MATRIX,
    OUTPUTS,
    PackedLayer,
    PackedNetwork,
    PackedObservations,
    packable,
)
from unrelu.local_search.squared_error import SquaredError
from unrelu.lp.compilation import compile_by, jit, kernel
from unrelu.models.activations import Activation
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Index, Integers

# The line search: the required share of the predicted decrease, the share of the slope that may remain, and the longest
# and shortest step, in units of the proposed one.
_DECREASE, _RISEN = 1e-4, 0.5
_LONGEST, _SHORTEST = 16.0, 1e-10
# A step is tiny if it is predicted to lower f by less than this fraction. After two in a row, optimality is tested.
# Tuned together with _LEFT.
_TINY, _TINY_STEPS = 1e-6, 2
# Where f is smooth, convergence is fast: a code goes on until a step is predicted to gain at most this fraction.
_VANISHED = 1e-13
_EPS = float(np.finfo(np.float64).eps)
# Why steps end: they go on, optimality is to be tested, f counts as 0, or the direction is not a number.
_GOES_ON, _ASKS, _DONE, _LOST = range(4)


# The numbers of a code: f, the slope along its direction, the next length along it, lengths that are too short and
# too long, the f that counts as 0, tiny steps in a row, evaluations so far, whether no length was accepted (1 or 0),
# and then f at the last trial points. They share an array because a kernel with many arguments compiles slowly.
F, _SLOPE, _LENGTH, _LOW, _HIGH, _ENOUGH, _IN_A_ROW, _STEPS, _STUCK, _PAST_F = range(10)
# The vectors of a code: the code, the gradient, the direction, the trial point and the gradient there, three work
# vectors, and then the rows of H, the last trial points, and the gradients there.
Z, G, P, _TRIAL, _TRIAL_G, _S, _Y, _WORK, H = range(9)


def codes_at(z: Array, f: Array, g: Array, enough: Array, remembered: int) -> tuple[Array, Array]:
    """The vectors (n, 8 + k + 2 r, k) and numbers (n, 9 + r) of codes (n, k), without H and a direction.

    Args:
        f, g: objectives (n,) and gradients (n, k).
        enough: objectives that count as 0, (n,).
        remembered: the number of trial points that are remembered, r.
    """
    n, k = z.shape
    vectors, numbers = np.zeros((n, H + k + 2 * remembered, k)), np.zeros((n, _PAST_F + remembered))
    vectors[:, Z], vectors[:, G], numbers[:, F], numbers[:, _ENOUGH], numbers[:, _PAST_F:] = z, g, f, enough, np.inf
    turn(numbers)
    return vectors, numbers


def turn(numbers: Array) -> None:
    """Begin a line search along a new direction."""
    numbers[..., _LENGTH], numbers[..., _LOW], numbers[..., _HIGH], numbers[..., _IN_A_ROW] = 1.0, 0.0, np.inf, 0.0


@jit
def dot(x, y):
    """The inner product."""
    total = 0.0
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@jit
def _free(z, g, low, high):
    """Whether a coordinate may move: it is not at a bound that a step against g would cross."""
    return not ((z <= low and g > 0) or (z >= high and g < 0))


@kernel
def aim(vectors, numbers, box):
    """Set the direction of a code to -H grad f, in the coordinates not held at a bound, and its length to 1."""
    z, g, p, free, low, high = vectors[Z], vectors[G], vectors[P], vectors[_WORK], box[0], box[1]
    k = len(z)
    for j in range(k):
        free[j] = 1.0 if _free(z[j], g[j], low[j], high[j]) else 0.0
    leaving = True
    while leaving:
        leaving = False
        for j in range(k):
            total, row = 0.0, vectors[H + j]
            for m in range(k):
                total += row[m] * g[m] * free[m]
            p[j] = -total * free[j]
        for j in range(k):
            if free[j] > 0 and not _free(z[j], -p[j], low[j], high[j]):
                free[j], leaving = 0.0, True
    numbers[_SLOPE], numbers[_LENGTH], numbers[_LOW], numbers[_HIGH] = dot(p, g), 1.0, 0.0, np.inf


@jit
def _learn(vectors):
    """BFGS: H + (1 + y'Hy / s'y) s s' / s'y - (Hy s' + s (Hy)') / s'y."""
    s, y, hy = vectors[_S], vectors[_Y], vectors[_WORK]
    k, product = len(s), dot(s, y)
    if not product > _EPS * math.sqrt(dot(s, s) * dot(y, y)):
        return
    for a in range(k):
        hy[a] = dot(vectors[H + a], y) / product
    one = (1 + dot(y, hy)) / product
    for a in range(k):
        row = vectors[H + a]
        for b in range(k):
            row[b] += one * s[a] * s[b] - hy[a] * s[b] - s[a] * hy[b]


@kernel
def accept(vectors, numbers, box, f, cut):
    """Accept the trial point of a code, with objective f, or choose another length along the direction.

    ``cut`` says whether a bound has shortened the step. Returns one of the four reasons to end.
    """
    z, g, trial, there, s, y = vectors[Z], vectors[G], vectors[_TRIAL], vectors[_TRIAL_G], vectors[_S], vectors[_Y]
    k, remembered = len(z), len(numbers) - _PAST_F
    past = int(numbers[_STEPS]) % remembered
    numbers[_PAST_F + past] = f
    copy(trial, vectors[H + k + past])
    copy(there, vectors[H + k + remembered + past])
    numbers[_STEPS] += 1
    for j in range(k):
        s[j] = trial[j] - z[j]
        y[j] = there[j] - g[j] if s[j] != 0 else 0.0  # a coordinate held at a bound shows no curvature
    slope, t = dot(g, s), numbers[_LENGTH]
    if f <= numbers[F] + _DECREASE * min(slope, 0.0):
        numbers[_LOW] = t
        if dot(there, s) >= _RISEN * slope or t >= _LONGEST or cut:
            _learn(vectors)
            copy(trial, z)
            copy(there, g)
            numbers[F], numbers[_STUCK] = f, 0.0
            aim(vectors, numbers, box)
            promised = -0.5 * numbers[_SLOPE]
            if f <= numbers[_ENOUGH]:
                return _DONE
            if not abs(promised) < np.inf:
                return _LOST
            numbers[_IN_A_ROW] = numbers[_IN_A_ROW] + 1 if promised <= _TINY * f else 0.0
            return _ASKS if numbers[_IN_A_ROW] >= _TINY_STEPS or promised <= _VANISHED * f else _GOES_ON
    else:
        numbers[_HIGH] = t
    if numbers[_HIGH] < np.inf:
        numbers[_LENGTH] = 0.5 * (numbers[_LOW] + numbers[_HIGH])
    else:
        numbers[_LENGTH] = 2 * t
    if numbers[_LENGTH] < _SHORTEST or numbers[_HIGH] - numbers[_LOW] < _SHORTEST:
        numbers[_STUCK] = 1.0
        return _ASKS
    return _GOES_ON


@jit
def _backward(weights, layout, ends, slopes, back):
    """The reverse pass: from the derivatives with respect to the outputs, at the end of ``back``, to the code's."""
    for above in range(len(layout)):
        layer = len(layout) - 1 - above
        inputs, outputs, begin = layout[layer, INPUTS], layout[layer, OUTPUTS], layout[layer, MATRIX]
        below, here = ends[layer], ends[layer + 1]
        there = back[here : here + outputs]
        for i in range(outputs):
            there[i] *= slopes[here + i]
        for j in range(inputs):
            if layer > 0 and slopes[below + j] == 0:
                back[below + j] = 0.0
            else:
                back[below + j] = dot(weights[begin + j * outputs : begin + (j + 1) * outputs], there)


@kernel
def refine_packed(weights, layout, widths, ends, work, y, prior, most, vectors, numbers, box):
    """Make steps of one code on a packed network in double precision, until they end or are ``most`` in all.

    ``widths`` are zeros (d,), and ``ends`` says where layers end in each of the five vectors of ``work``.
    """
    z, p, trial, there, low, high = vectors[Z], vectors[P], vectors[_TRIAL], vectors[_TRIAL_G], box[0], box[1]
    k, last = len(z), ends[len(layout)]
    u, x, slopes, back, r = work[0], work[1], work[2], work[3], work[4]
    reason = _GOES_ON
    while reason == _GOES_ON and numbers[_STEPS] < most:
        cuts = 0
        for j in range(k):
            aimed = z[j] + numbers[_LENGTH] * p[j]
            trial[j] = min(max(aimed, low[j]), high[j])
            if trial[j] != aimed:
                cuts += 1
        forward(weights, layout, widths, trial, ends, u, x, slopes)
        f = residual(x, last, y, r, trial, prior)
        for j in range(len(y)):
            back[last + j] = 2 * r[j]
        _backward(weights, layout, ends, slopes, back)
        for j in range(k):
            there[j] = back[j] + 2 * prior[j] * trial[j]
        reason = accept(vectors, numbers, box, f, cuts > 0)
    return reason


def room(layout: Integers) -> tuple[Array, Integers, Array]:
    """The widths, ends and work of :func:`refine_packed` for networks of this layout."""
    ends = np.concatenate([[0, layout[0, INPUTS]], layout[:, OUTPUTS]]).cumsum()
    return np.zeros(len(layout)), ends, np.zeros((5, ends[-1] + 2 * ROOM))


def compile_refinement() -> None:
    """Compile or load these steps before their first use, see :func:`~unrelu.lp.compilation.compile_by`."""
    compile_by(_smallest_refinement, refine_packed.stats.cache_path, "refinement")


def _smallest_refinement() -> None:
    """Refine on G(z) = relu(z)."""
    one = np.ones((1, 1))
    network = PackedNetwork.of([PackedLayer(one, np.zeros(1), Activation("relu"), 1.0)], np.float64)
    vectors, numbers = codes_at(one, one[0], one, np.zeros(1), 1)
    box = np.array([[-np.inf], [np.inf]])
    aim(vectors[0], numbers[0], box)
    weights, layout, _ = network
    refine_packed(weights, layout, *room(layout), np.zeros(1), np.zeros(1), 1, vectors[0], numbers[0], box)
    accept(vectors[0], numbers[0], box, 1.0, False)


# --- the refinement of many codes -------------------------------------------------------------------------------------

# The possible gain of an optimal code is at most this fraction of f. Tuned, with the next numbers, on the trained
# families to tune on (``unrelu_studies``).
_LEFT = 10.0 * _TINY
# A remembered gradient is used if its quadratic model is off by at most this share of f; otherwise its region does not
# touch the code. With 1e-5, L-BFGS lowers two of 1,000 codes that count as optimal by more than 1e-4.
_NEAR = 1e-7
# A code is also optimal when the steps between this many tests have together gained at most the fraction _LEFT of f.
_TESTS = 6
# The first step after a restart of BFGS with a multiple of I, as a share of |z| / sqrt(k).
_FIRST = 1e-3
# The number of gradients remembered for each latent coordinate, and the most in all. With 3, on decoders trained with
# dropout, L-BFGS lowers 10 of 90 codes by more than 1e-4, with 8 it lowers 2.
_REMEMBERED, _MOST_REMEMBERED = 8, 200
# The diagonal of the Gauss-Newton matrix is raised by this fraction of its mean, so that it has an inverse.
_FLOOR = 1e-12
# The most numbers remembered for all codes at once (64 MiB).
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
    objective: SquaredError, z: Tensor, observations: Tensor, enough: Tensor, most: int, stop: Stop | None = None
) -> Refined:
    """Refine codes to first-order optima of f; f never rises.

    Args:
        objective: f, in the precision that the codes are wanted in.
        z, observations: codes near an optimum, (b, k), inside the bounds, and the observation of each, (b,).
        enough: values of f that count as 0, (b,).
        most: the most evaluations of f and its gradient for each code; ``stop`` is asked before each.
    """
    size = max(1, _NUMBERS // (_remembered(z.shape[1]) * z.shape[1]))
    each = zip(torch.split(z, size), torch.split(observations, size), torch.split(enough, size), strict=True)
    parts = [_Refinement(objective, *part).run(most, stop or (lambda: False)) for part in each]
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
        self.prior = np.zeros(k) if objective.prior is None else _numpy(objective.prior)
        f, g = self._evaluate(_numpy(z), np.arange(n))
        self.vectors, self.numbers = codes_at(_numpy(z), f, g, _numpy(enough), _remembered(k))
        self.optimal = f <= self.numbers[:, _ENOUGH]
        self.ended = self.optimal | ~np.isfinite(f)
        self.mark, self.tests = np.full(n, np.inf), np.zeros(n, np.int64)
        some = np.flatnonzero(~self.ended)
        for i, gram in zip(some, self._gauss_newton(some) if len(some) else (), strict=True):
            self.vectors[i, H : H + k] = _inverse(gram)
            aim(self.vectors[i], self.numbers[i], self.box)
        promised = -0.5 * self.numbers[:, _SLOPE]
        self.optimal[some] |= promised[some] <= _VANISHED * f[some]
        self.ended |= self.optimal | ~np.isfinite(promised)
        self.packed = self._packed()

    def _packed(self) -> PackedObservations | None:
        """The packed observations for compiled steps; None if the network is not small and dense."""
        network, y = self.objective.network, self.objective.y
        plain = y.dtype == torch.float64 and self.objective.squares
        if not (plain and packable(network, self.objective.operator)):
            return None
        assert isinstance(network, Network)
        return PackedObservations(network, self.objective.operator, _numpy(y), np.float64)

    def run(self, most: int, stopped: Stop) -> Refined:
        """Make at most ``most`` trial steps of every code."""
        while not stopped():
            some = np.flatnonzero(~self.ended & (self.numbers[:, _STEPS] < most))
            if not len(some):
                break
            reasons = self._step_together(some) if self.packed is None else self._step_apart(some, most, stopped)
            self.optimal[some[reasons == _DONE]] = True
            self.ended[some[(reasons == _DONE) | (reasons == _LOST)]] = True
            self._test(some[reasons == _ASKS])
        steps = torch.from_numpy(self.numbers[:, _STEPS].astype(np.int64)).to(self.like.device)
        optimal = torch.from_numpy(self.optimal).to(self.like.device)
        return Refined(self._tensor(self.vectors[:, Z]), self._tensor(self.numbers[:, F]), steps, optimal)

    def _step_together(self, some: Index) -> Integers:
        """Make one trial step of some codes, by PyTorch; return why they end."""
        aimed = self.vectors[some, Z] + self.numbers[some, _LENGTH, None] * self.vectors[some, P]
        trial = np.clip(aimed, *self.box)
        f, g = self._evaluate(trial, some)
        self.vectors[some, _TRIAL], self.vectors[some, _TRIAL_G] = trial, g
        cut = (trial != aimed).any(axis=1)
        codes = zip(some, f, cut, strict=True)
        return np.array([accept(self.vectors[i], self.numbers[i], self.box, *there) for i, *there in codes])

    def _step_apart(self, some: Index, most: int, stopped: Stop) -> Integers:
        """Make compiled steps of some codes, one code after another, until they end; return why."""
        assert self.packed is not None
        reasons, observations = np.full(len(some), _GOES_ON), self.observations.numpy()
        for a, i in enumerate(some):
            if stopped():
                break
            (weights, layout, _), y = self.packed.of(int(observations[i]))
            reasons[a] = refine_packed(
                weights, layout, *room(layout), y, self.prior, most, self.vectors[i], self.numbers[i],
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
        """2 (J^T J + diag(prior)) of some codes, (s, k, k), with the diagonal raised by :data:`_FLOOR`."""
        gram = 2 * _numpy(self.objective.system(self._tensor(self.vectors[some, Z]), self._observations(some))[0])
        mean = np.einsum("sii->s", gram) / gram.shape[1]
        floor = np.maximum(_FLOOR * mean, np.finfo(float).tiny)
        return np.asarray(gram + floor[:, None, None] * np.eye(gram.shape[1]))

    # --- optimality ---------------------------------------------------------------------------------------------------

    def _test(self, some: Index) -> None:
        """Test whether codes are optimal; those that are not get a new direction."""
        for i, b in zip(some, self._gauss_newton(some) if len(some) else (), strict=True):
            gain, p, kink = self._steepest(i, b)
            f, stuck = self.numbers[i, F], bool(self.numbers[i, _STUCK])
            moved = self.mark[i] - f > _LEFT * f
            self.mark[i], self.tests[i] = (f, 0) if moved else (self.mark[i], self.tests[i] + 1)
            self.optimal[i] = gain <= (_LEFT if kink or stuck else _VANISHED) * f or self.tests[i] >= _TESTS
            self.ended[i] = self.optimal[i] or not np.isfinite(gain)
            if self.tests[i] % 3:
                self._begin_anew(i, b if self.tests[i] % 3 == 2 else None)
            else:
                self.vectors[i, P], self.numbers[i, _SLOPE] = p, -2 * gain
            turn(self.numbers[i])

    def _begin_anew(self, i: int, b: Array | None) -> None:
        """Restart BFGS with the inverse of b, or with a multiple of I."""
        k = self.vectors.shape[2]
        inverse = np.eye(k) if b is None else _inverse(b)
        if b is None:
            length = _FIRST * max(_norm(self.vectors[i, Z]) / np.sqrt(k), SHORTEST_CODE)
            inverse *= length / max(_norm(self.vectors[i, G]), length * np.finfo(np.float64).tiny)
        self.vectors[i, H : H + k] = inverse
        self.numbers[i, _STUCK] = 0.0
        aim(self.vectors[i], self.numbers[i], self.box)

    def _steepest(self, i: int, b: Array) -> tuple[float, Array, bool]:
        """The possible gain of a step from a code, by the gradients of all sides near it, the step, and if at a kink.

        The code is at a kink if its own gradient alone predicts more than twice that gain.
        """
        vectors, f, k = self.vectors[i], self.numbers[i, F], self.vectors.shape[2]
        z, g, p, (past_z, past_g) = vectors[Z], vectors[G], vectors[P], np.split(vectors[H + k :], 2)
        step, past_f, (low, high) = z - past_z, self.numbers[i, _PAST_F:], self.box
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

    It is proportional to V w for the w >= 0 that minimises |V w|^2 + (1'w - 1)^2 (non-negative least squares).
    """
    size = float(np.sqrt((vectors * vectors).sum(axis=0).max(initial=0.0)))
    if size == 0:
        return np.zeros(len(vectors))
    matrix = np.vstack([vectors / size, np.ones((1, vectors.shape[1]))])
    weight, _ = nnls(matrix, np.append(np.zeros(len(vectors)), 1.0), maxiter=100 * vectors.shape[1])
    return np.asarray(vectors @ (weight / weight.sum()))


def _inverse(b: Array) -> Array:
    """The inverse of a positive definite matrix; a multiple of I if it is not positive definite."""
    try:
        root = np.linalg.inv(np.linalg.cholesky(b))
        return np.asarray(root.T @ root)
    except np.linalg.LinAlgError:
        return np.eye(len(b)) / max(float(np.trace(b)), 1.0) if np.isfinite(b).all() else np.eye(len(b))


def _norm(vector: Array) -> float:
    """The length of a vector, also where its square overflows or vanishes."""
    return float(np.hypot.reduce(vector))


def _numpy(values: Tensor) -> Array:
    return values.detach().cpu().double().numpy().copy()
