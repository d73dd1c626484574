r"""Linear programs around one code: the linear regions that meet there, and the best step on all of them.

The errors are |y - psi(v)|. If single outputs of a convex piecewise linear activation are observed, v(z), (p,), is the
last pre-activation and psi that activation. Otherwise v is A G(z) and psi the identity. Each neuron of the other
piecewise linear activations has a kink at u = 0; on each side of it, v is a different affine function of z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg
from torch import Tensor

from unrelu.layerwise import LayerSystem, Rows
from unrelu.layerwise.layer_program import Answer, least_violation
from unrelu.lp.lp_status import LpStatus
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.linear_operators import Operator, OutputIndex
from unrelu.models.activations import Activation
from unrelu.models.network import Network
from unrelu.models.opaque_network import as_chain
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.streams import stream
from unrelu.runtime.work_clock import now

# A value is zero if it is less than this fraction of the size of its layer's values.
_ROUNDING = 1e-9
# Errors this close to the largest one count as equal to it.
_EQUAL = 1e-9
# The bisection for the smallest largest error ends when a step has this fraction of the possible gain.
_ENOUGH = 0.5
# A row of U depends on others if it is this close to their span, relative to its length.
_DEPENDENT = 1e-9


# --- linear regions ---------------------------------------------------------------------------------------------------


class Trace(NamedTuple):
    """The pre-activations of all neurons with a kink, layer after layer, u (b, N), and v (b, p), at codes (b, k)."""

    u: Array
    v: Array


class AdjacentRegions(NamedTuple):
    r"""The linear regions that meet around a code z_0.

    With e_j = relu(u_j) for some kinks j, and all other neurons staying on their side,

    .. math:: v = v_0 + V (z - z_0) + \Gamma (e - e_0), \qquad u = u_0 + U (z - z_0) + H (e - e_0)

    holds exactly, up to the curvature of smooth activations. H is strictly triangular: a kink only affects the layers
    above it. A bound of a coordinate is a kink with one side: u_j >= 0 is the distance from it.

    Attributes:
        u, v: the values at the code, (m,) and (p,).
        u_code, v_code: U (m, k) and V (p, k).
        u_kink, v_kink: H (m, m) and Gamma (p, m).
        largest: the largest e_j, (m,): for a bound, the distance to the opposite bound; infinite for kinks.
        bound: which kinks are bounds, (m,); bounds come last.
    """

    u: Array
    v: Array
    u_code: Array
    v_code: Array
    u_kink: Array
    v_kink: Array
    largest: Array
    bound: Flags

    @property
    def movable(self) -> bool:
        """Whether any step changes v."""
        return bool(self.v_code.any() or self.v_kink.any())

    def within(self, z: Array, bounds: Bounds, coordinates: Index) -> AdjacentRegions:
        """These regions with the bounds of some coordinates of the code z: the lower bound if it is finite."""
        n, m = len(coordinates), len(self.u)
        if not n:
            return self
        low, high = bounds.lower[coordinates], bounds.upper[coordinates]
        from_low = np.isfinite(low)
        rows = np.where(from_low, 1.0, -1.0)[:, None] * np.eye(len(z))[coordinates]
        distance = np.where(from_low, z[coordinates] - low, high - z[coordinates])
        return self._replace(
            u=np.concatenate([self.u, distance]), u_code=np.vstack([self.u_code, rows]),
            u_kink=np.pad(self.u_kink, (0, n)), v_kink=np.pad(self.v_kink, ((0, 0), (0, n))),
            largest=np.concatenate([self.largest, np.where(from_low, high - low, np.inf)]), bound=np.arange(m + n) >= m,
        )  # fmt: skip

    def independent(self, rank: npt.NDArray[np.int_]) -> Index:
        """Kinks with independent rows of U, ascending; those of a higher ``rank`` (m,) are preferred."""
        if not len(rank):
            return np.arange(0)
        lengths = np.linalg.norm(self.u_code, axis=1)[:, None]
        rows = np.divide(self.u_code, lengths, out=np.zeros_like(self.u_code), where=lengths > 0)
        weight = 1e3**rank
        r, order = linalg.qr(rows.T * weight, mode="r", pivoting=True)
        diagonal = np.abs(np.diag(r)) / weight[order[: min(r.shape)]]
        count = int(np.argmin(np.append(diagonal, 0.0) > _DEPENDENT))
        return np.sort(order[:count])


@dataclass(frozen=True, eq=False)
class Observation:
    """One observation of a network, evaluated in double precision.

    Attributes:
        network: G.
        measured: the map from the last pre-activations or outputs to v, (b, n) -> (b, p).
        y: the observed values, (p,).
        slopes: the slopes of psi below zero, (p,).
        keeps: whether v is the last pre-activation.
        sizes: the sizes of u in each layer and of v, for codes z ~ N(0, I), (d + 1,); rounding is relative to them.
    """

    network: Network
    measured: Callable[[Tensor], Array]
    y: Array
    slopes: Array
    keeps: bool
    sizes: Array

    @cached_property
    def ends(self) -> Index:
        """Where the kinks of each layer begin and end in u, (d + 1,)."""
        layers = self.network.layers
        counts = [layer.n_out if layer.activation.kinks(layer.n_out).any() else 0 for layer in layers]
        if self.keeps:
            counts[-1] = 0
        return np.concatenate([[0], np.cumsum(counts)])

    def errors(self, v: Array) -> Array:
        """|y - psi(v)|, (..., p)."""
        return np.abs(self.y - np.where(v > 0, v, v * self.slopes))

    def at_kink(self, u: Array, share: float = _ROUNDING) -> Flags:
        """Where u (N,) is below a fraction of the largest in its layer, by default rounding."""
        parts = np.split(np.abs(u), self.ends[1:-1])
        largest = np.maximum([float(part.max(initial=0.0)) for part in parts], self.sizes[:-1])
        return np.asarray(np.abs(u) <= share * np.repeat(largest, np.diff(self.ends)))

    def at_bend(self, v: Array) -> Flags:
        """Where v (p,) is at the kink of psi, up to rounding."""
        largest = max(float(np.abs(v).max(initial=0.0)), self.sizes[-1])
        return np.asarray((np.abs(v) <= _ROUNDING * largest) & (self.slopes < 1))

    def trace(self, z: Array) -> Trace:
        """The u and v of codes (b, k)."""
        x = torch.as_tensor(z, dtype=torch.float64)
        kinks, last = [np.empty((len(z), 0))], len(self.network.layers) - 1
        with torch.no_grad():
            for i, layer in enumerate(self.network.layers):
                x = layer.affine.apply(x)
                if self.ends[i + 1] > self.ends[i]:
                    kinks.append(_numpy(x))
                if i < last or not self.keeps:
                    x = layer.activation.forward(x)
            return Trace(np.hstack(kinks), self.measured(x))

    def regions(self, z: Array, kinks: Index) -> AdjacentRegions:
        """The linear regions around a code (k,) at which the given kinks, ascending numbers, meet."""
        m, k, last = len(kinks), len(z), len(self.network.layers) - 1
        x = torch.as_tensor(z[None, :], dtype=torch.float64)
        tangents = torch.eye(k + m, k).to(x)
        rows, values = np.zeros((m, k + m)), np.zeros(m)
        with torch.no_grad():
            for i, layer in enumerate(self.network.layers):
                x, tangents = layer.affine.apply(x), layer.affine.apply(tangents, constant=False)
                if i == last and self.keeps:
                    break
                u, x = x, layer.activation.forward(x)
                slope = layer.activation.derivative(u, x)
                # phi(u) = c u + (1 - c) relu(u): the first term moves with the code, the second with e.
                here = np.flatnonzero((self.ends[i] <= kinks) & (kinks < self.ends[i + 1]))
                neurons = torch.from_numpy(kinks[here] - self.ends[i])
                rows[here], values[here] = _numpy(tangents[:, neurons]).T, _numpy(u[0, neurons])
                if len(here):
                    slope[0, neurons] = layer.activation.derivative(-torch.ones_like(u), x)[0, neurons]
                tangents = tangents * slope
                tangents[k + torch.from_numpy(here), neurons] += 1 - slope[0, neurons]
            v, slopes = self.measured(x)[0], self.measured(tangents).T
        return AdjacentRegions(
            values, v, rows[:, :k], slopes[:, :k], rows[:, k:], slopes[:, k:], np.full(m, np.inf), np.zeros(m, bool)
        )


def observations(problem: Problem) -> list[Observation]:
    """The observations of a problem; they share the network, which is on the host, as linear programs are."""
    network = as_chain(problem.network, problem.norm).to(torch.float64, "cpu")
    operator, shown = problem.operator.to(torch.float64, network.device), problem.operator.observed_outputs(problem.y)
    last = network.layers[-1].activation
    keeps = last.convex and shown is not None
    slopes = last.slopes(network.output_dim) if keeps else np.ones(max(operator.m, network.output_dim))
    parts: list[tuple[Callable[[Tensor], Array], OutputIndex, Array]]
    if shown is None:
        own = [operator.take(np.array([i])) if operator.count else operator for i in range(problem.size)]
        parts = [(partial(_through, each), slice(operator.m), y) for each, y in zip(own, problem.y, strict=True)]
    else:
        parts = [(partial(_picked, entries), entries, y) for entries, y in shown]
    every = [Observation(network, measured, y, slopes[entries], keeps, slopes) for measured, entries, y in parts]
    whole = every[0] if shown is None else replace(every[0], measured=_numpy)
    trace = whole.trace(stream("typical sizes").standard_normal((4, network.latent_dim)))
    layers = [*np.split(trace.u, whole.ends[1:-1], axis=1), trace.v]
    sizes = np.array([float(np.abs(values).max(initial=0.0)) for values in layers])
    return [replace(each, sizes=sizes) for each in every]


def _picked(entries: OutputIndex, x: Tensor) -> Array:
    return _numpy(x)[:, entries]


def _through(operator: Operator, x: Tensor) -> Array:
    return _numpy(operator.forward(x))


def _numpy(x: Tensor) -> Array:
    array: Array = x.numpy()
    return array


# --- errors as constraints --------------------------------------------------------------------------------------------


class ErrorRows(NamedTuple):
    """Piecewise linear errors as violations of constraints: each is zero at a kink, with a slope on either side.

    Attributes:
        entry: the entry of v of each constraint, (n,).
        kink: the value of that entry where the error is zero, (n,).
        up, down: the slopes of the error above and below the kink, (n,); 0 where it stays zero.
    """

    entry: Index
    kink: Array
    up: Array
    down: Array

    def and_(self, *other: Any) -> ErrorRows:
        """These constraints and further ones, given by their arrays."""
        return ErrorRows._make(map(np.concatenate, zip(self, other, strict=True)))

    def around(self, v: Array) -> Rows:
        """The constraints on v' - v, for the programs of a layer."""
        center, up, down = self.kink - v[self.entry], self.up > 0, self.down > 0
        one = np.ones(len(center))
        return Rows(
            low=np.where(down, center, -np.inf),
            high=np.where(up, center, np.inf),
            low_slope=np.divide(1.0, self.down, out=one.copy(), where=down),
            high_slope=np.divide(1.0, self.up, out=one, where=up),
            target=np.where(up & down, center, 0.0),
            threshold=1.0,
        )


def rows_below(y: Array, slopes: Array, cutoff: float) -> ErrorRows:
    """The constraints for a largest error of at most a cutoff above 0; ``slopes`` are c, (p,), in [0, 1].

    A ReLU with y < cutoff that is off has the error y, which these constraints omit: there they are below the errors,
    elsewhere at or above them. Only the slopes of the constraints depend on the cutoff.
    """
    entry = np.arange(len(y))
    on = (y >= cutoff) | (slopes == 1)
    bent = (slopes > 0) & (slopes < 1)
    c = slopes[bent]
    # psi(v) <= y + d: v <= y + d and c v <= y + d.
    # psi(v) >= y - d: v >= y - d where y - d > 0, otherwise c v >= y - d.
    straight = ErrorRows(entry, y, np.ones(len(y)), on.astype(np.float64))
    return straight.and_(entry[bent], y[bent] / c, c, np.where(on[bent], 0.0, c))


def rows_of_sum(y: Array, slopes: Array, on: Flags) -> ErrorRows:
    """The constraints for the sum of errors, without its constant part, the y of a ReLU that is off.

    ``slopes`` are c, (p,), in [0, 1]; ``on`` says for which entries with y > 0 the error is |y - v|, (p,).
    """
    entry, c = np.arange(len(y)), slopes
    plain = (c == 1) | ((y > 0) & on)
    # y <= 0: |y - psi(v)| = |c v - y| - [c = 0] |y| + (1 - c) max(0, v).
    # y > 0, off: max(y - c v, v - y) <= |c v - y| + (1 + c) max(0, v - 2 y / (1 + c)), equal for v <= y / c.
    slope = np.where(plain, 1.0, c)
    two, bends = slope > 0, ~plain
    off = bends & (y > 0)
    kink = np.where(off, 2 * y / (1 + c), 0.0)[bends]
    first = ErrorRows(entry[two], y[two] / slope[two], slope[two], slope[two])
    return first.and_(entry[bends], kink, np.where(off, 1 + c, 1 - c)[bends], np.zeros(len(kink)))


# --- programs ---------------------------------------------------------------------------------------------------------


class Proposal(NamedTuple):
    """The step that a program proposes.

    Attributes:
        step: d, (k,).
        gain: the fall of the objective that the model predicts.
        most: an upper bound on the gain of any step inside the box on these sides.
        both: min(e_j, f_j), (m,): above 0 where the step is on both sides of a kink.
        prefers_on: where e_j > f_j, (m,).
        programs: the number of linear programs solved.
        timed_out: whether the time ran out.
    """

    step: Array
    gain: float
    most: float
    both: Array
    prefers_on: Flags
    programs: int
    timed_out: bool


class LocalProgram:
    """The programs around one code.

    Args:
        observation: the observation.
        regions: the linear regions around the code; the rows of U are independent.
        norm: "l1" or "linf".
        on: for l1, the entries with y > 0 whose error is |y - v|, (p,).
    """

    def __init__(self, observation: Observation, regions: AdjacentRegions, norm: str, on: Flags) -> None:
        self.observation, self.regions, self.norm, self.on = observation, regions, norm, on
        m, k = regions.u_code.shape
        self.free, self.inverse = np.eye(k), np.zeros((k, 0))
        if m:
            q, r = linalg.qr(regions.u_code.T)
            self.free = q[:, m:]
            self.inverse = linalg.solve_triangular(r[:m], q[:, :m].T).T
        self.raising = self.inverse @ (np.eye(m) - regions.u_kink)
        v = regions.v_code
        self.matrix = np.hstack([v @ self.raising + regions.v_kink, -v @ self.inverse, v @ self.free])
        self.lengths = np.linalg.norm(regions.u_code, axis=1)

    def propose(self, sides: npt.NDArray[np.int_], radius: float, end: float) -> Proposal:
        """The best step with each kink held on (1), held off (-1) or on both sides (0), (m,).

        Args:
            sides: one for each kink; a bound is on.
            radius: of the box, in units of the code: for u_j, relative to the length of its gradient.
            end: the end of the time allowed, by :func:`~unrelu.runtime.work_clock.now`.

        Raises:
            SolverError: the LP solver refuses a program.
        """
        m, free, u = len(sides), self.free.shape[1], self.regions.u
        used = np.concatenate([sides >= 0, sides <= 0, np.ones(free, dtype=bool)])
        far = np.concatenate([radius * self.lengths, radius * self.lengths, np.full(free, radius)])
        now = np.concatenate([np.maximum(u, 0), np.maximum(-u, 0), np.full(free, radius)])
        room = np.concatenate([self.regions.largest - u, np.full(m + free, np.inf)])
        lower, upper = -np.minimum(now, far), np.minimum(far, np.maximum(room, 0.0))
        solver = _Solver(self, np.ascontiguousarray(self.matrix[:, used]), lower[used], upper[used], end)
        gain, most = solver.largest() if self.norm == "linf" else solver.sum()
        change = np.zeros(len(used))
        change[used] = solver.h
        e, f = (now + change)[:m], (now + change)[m : 2 * m]
        step = self.raising @ change[:m] - self.inverse @ change[m : 2 * m] + self.free @ change[2 * m :]
        return Proposal(step, gain, most, np.minimum(e, f), e > f, solver.programs, solver.timed_out)


class _Solver:
    """The programs for given sides: v changes by ``matrix @ h``, with h in a box around 0."""

    def __init__(self, local: LocalProgram, matrix: Array, lower: Array, upper: Array, end: float) -> None:
        self.local, self.matrix, self.lower, self.upper, self.end = local, matrix, lower, upper, end
        self.y, self.slopes, self.v = local.observation.y, local.observation.slopes, local.regions.v
        self.h, self.programs, self.timed_out = np.zeros(matrix.shape[1]), 0, False
        self.system: LayerSystem | None = None

    def sum(self) -> tuple[float, float]:
        """Minimise the sum of errors; return the gain, and an upper bound on it."""
        rows = rows_of_sum(self.y, self.slopes, self.local.on)
        now = float(rows.around(self.v).violation(np.zeros(len(rows.entry))).sum())
        answer = self.solved(rows)
        self.h = answer.h
        return now - answer.objective, now - answer.bound

    def largest(self) -> tuple[float, float]:
        """Minimise the largest error; return the gain, and an upper bound on it.

        The minimum is the smallest cutoff whose constraints (:func:`rows_below`) can be met with errors of at most that
        cutoff. The more entries must be on, the larger the errors, so it is found by bisection between the y of the
        entries that may be off.
        """
        now = float(self.local.observation.errors(self.v).max())
        top = (1 - _EQUAL) * now
        first = self.solved(rows_below(self.y, self.slopes, top))
        # No output of a ReLU explains a negative y.
        least = float((-self.y).max(initial=0.0, where=self.slopes == 0))
        self.h, value, most = first.h, self.reached(first.h), now - max(first.bound, least)
        least = max(least, first.objective)
        cutoffs = np.unique(self.y[(self.y > least) & (self.y < top) & (self.slopes < 1)])
        low, high = 0, len(cutoffs)
        while low < high and not self.timed_out and now - value < _ENOUGH * most and most > _EQUAL * now:
            middle = (low + high) // 2
            answer = self.solved(rows_below(self.y, self.slopes, float(cutoffs[middle])), first)
            reached = self.reached(answer.h)
            if reached < value:
                self.h, value = answer.h, reached
            below = cutoffs[middle - 1] if middle else least
            low, high = (middle + 1, high) if answer.objective > below else (low, middle)
        if low >= high:
            most = min(most, now - value + _EQUAL * now)
        return now - value, most

    def reached(self, h: Array) -> float:
        """The largest error at h, on the linear regions."""
        return float(self.local.observation.errors(self.v + self.matrix @ h).max())

    def solved(self, rows: ErrorRows, warm_start: Answer | None = None) -> Answer:
        n = len(rows.entry)
        if self.system is None or self.system.n_out != n:
            in_order = n == len(self.matrix) and bool((rows.entry == np.arange(n)).all())
            matrix = self.matrix if in_order else self.matrix[rows.entry]
            self.system = LayerSystem(matrix, np.zeros(n), Activation("identity"), self.lower, self.upper)
        if warm_start is None:
            warm_start = Answer(np.zeros(len(self.lower)), np.inf, 0.0, LpStatus.FAILED, 0)
        left = self.end - now()
        answer = least_violation(self.system, rows.around(self.v), self.local.norm, left, warm_start)
        self.programs += 1
        self.timed_out |= answer.status is LpStatus.LIMIT
        return answer
