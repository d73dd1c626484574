r"""The linear program on the linear regions that meet around a code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

from unrelu.layerwise import LayerSystem, Rows
from unrelu.layerwise.layer_program import Answer, least_violation
from unrelu.local_search.adjacent_regions import AdjacentRegions, Observation
from unrelu.lp.lp_status import LpStatus
from unrelu.models.activations import Activation

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
# Errors this close to the largest one are as large.
_EQUAL = 1e-9
# The search for the smallest largest error ends where a step has this fraction of what can be gained.
_ENOUGH = 0.5
# A row of U that adds less than this fraction of its length to those before it depends on them.
_DEPENDENT = 1e-9


@dataclass(frozen=True, eq=False)
class ErrorRows:
    """Errors that are zero at a kink of v and have a slope on each side of it.

    Attributes:
        entry: which v each row is about, (n,).
        kink: where its error is zero, (n,).
        up, down: the slopes of the error above and below the kink, (n,); 0 where it stays zero.
    """

    entry: Index
    kink: Array
    up: Array
    down: Array

    def around(self, v: Array) -> Rows:
        """The rows of v' - v for the programs of a layer."""
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
    """For the largest error, where it is to be at most a cutoff.

    A ReLU with y < cutoff that is off has an error of y, which these rows leave out: they are below the errors there,
    and above them elsewhere. Which rows there are does not depend on the cutoff, only their slopes do.

    Args:
        y: (p,).
        slopes: c, (p,), in [0, 1].
        cutoff: above 0.
    """
    entry, n = np.arange(len(y)), len(y)
    on = (y >= cutoff) | (slopes == 1)
    bent = (slopes > 0) & (slopes < 1)
    c = slopes[bent]
    # psi(v) <= y + d: v <= y + d and c v <= y + d.
    # psi(v) >= y - d: v >= y - d where y - d > 0, otherwise c v >= y - d.
    straight = ErrorRows(entry, y, np.ones(n), on.astype(np.float64))
    return _joined([straight, ErrorRows(entry[bent], y[bent] / c, c, np.where(on[bent], 0.0, c))])


def rows_of_sum(y: Array, slopes: Array, on: npt.NDArray[np.bool_]) -> ErrorRows:
    """For the sum of errors, less those that do not change: y of a ReLU that is off.

    Args:
        y: (p,).
        slopes: c, (p,), in [0, 1].
        on: which rows with y > 0 take |y - v|, (p,).
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
    return _joined([first, ErrorRows(entry[bends], kink, np.where(off, 1 + c, 1 - c)[bends], np.zeros(len(kink)))])


def _joined(parts: Sequence[ErrorRows]) -> ErrorRows:
    return ErrorRows(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("entry", "kink", "up", "down")))


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a program proposes.

    Attributes:
        step: d, (k,).
        gain: how much the objective falls, by the model.
        most: no step inside the box gains more on these sides.
        both: min(e_j, f_j), (m,): above 0 where the step is on both sides of a kink.
        prefers_on: where e_j > f_j, (m,).
        programs: linear programs solved.
        timed_out: whether the time ran out.
    """

    step: Array
    gain: float
    most: float
    both: Array
    prefers_on: npt.NDArray[np.bool_]
    programs: int
    timed_out: bool


class LocalProgram:
    """The programs around one code.

    Args:
        observation: what is fitted.
        regions: the linear regions around the code; the rows of U are independent.
        norm: "l1" or "linf".
        on: for l1, which rows with y > 0 take |y - v|, (p,).
    """

    def __init__(
        self, observation: Observation, regions: AdjacentRegions, norm: str, on: npt.NDArray[np.bool_]
    ) -> None:
        self.observation, self.regions, self.norm, self.on = observation, regions, norm, on
        k, m = len(regions.u_code.T), len(regions.u)
        self.free, self.inverse = np.eye(k), np.zeros((k, 0))
        if m:
            q, r = linalg.qr(regions.u_code.T)
            self.free = q[:, m:]
            self.inverse = linalg.solve_triangular(r[:m], q[:, :m].T).T
        self.raising = self.inverse @ (np.eye(m) - regions.u_kink)
        moved = regions.v_code
        self.matrix = np.hstack([moved @ self.raising + regions.v_kink, -moved @ self.inverse, moved @ self.free])
        self.lengths = np.linalg.norm(regions.u_code, axis=1)

    def propose(self, sides: npt.NDArray[np.int_], radius: float, end: float) -> Proposal:
        """The best step with each kink held on (1), held off (-1) or on both sides (0), (m,).

        Args:
            sides: one a kink; a bound is on.
            radius: the largest |n_i|, and change of u_j per length of its gradient.
            end: of the time allowed, by ``time.perf_counter()``.

        Raises:
            SolverError: the LP solver refuses a program.
        """
        m, free = len(sides), self.free.shape[1]
        used = np.concatenate([sides >= 0, sides <= 0, np.ones(free, dtype=bool)])
        far = np.concatenate([radius * self.lengths, radius * self.lengths, np.full(free, radius)])
        now = np.concatenate([np.maximum(self.regions.u, 0), np.maximum(-self.regions.u, 0), np.full(free, radius)])
        room = np.concatenate([self.regions.largest - self.regions.u, np.full(m + free, np.inf)])
        lower, upper = -np.minimum(now, far), np.minimum(far, np.maximum(room, 0.0))
        solver = _Solver(self, np.ascontiguousarray(self.matrix[:, used]), lower[used], upper[used], end)
        gain, most = solver.largest() if self.norm == "linf" else solver.sum()
        change = np.zeros(len(used))
        change[used] = solver.h
        e, f = (now + change)[:m], (now + change)[m : 2 * m]
        step = self.raising @ change[:m] - self.inverse @ change[m : 2 * m] + self.free @ change[2 * m :]
        return Proposal(step, gain, most, np.minimum(e, f), e > f, solver.programs, solver.timed_out)


class _Solver:
    """The programs of some sides: the change of v is ``matrix @ h`` with h in a box around 0."""

    def __init__(self, local: LocalProgram, matrix: Array, lower: Array, upper: Array, end: float) -> None:
        self.local, self.matrix, self.lower, self.upper, self.end = local, matrix, lower, upper, end
        self.y, self.slopes, self.v = local.observation.y, local.observation.slopes, local.regions.v
        self.h, self.programs, self.timed_out = np.zeros(matrix.shape[1]), 0, False
        self.system: LayerSystem | None = None

    def sum(self) -> tuple[float, float]:
        """Minimise the sum of errors: its gain, and the most there is."""
        rows = rows_of_sum(self.y, self.slopes, self.local.on)
        now = float(rows.around(self.v).violation(np.zeros(len(rows.entry))).sum())
        answer = self.solved(rows)
        self.h = answer.h
        return now - answer.objective, now - answer.bound

    def largest(self) -> tuple[float, float]:
        """Minimise the largest error: its gain, and the most there is.

        The smallest cutoff at which the rows below that cutoff have no error above it. The more rows have to be on, the
        larger that error, so the cutoff is found by bisection between the y of the rows that may be off.
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
        """The largest error at h on the regions."""
        return float(self.local.observation.errors(self.v + self.matrix @ h).max())

    def solved(self, rows: ErrorRows, warm_start: Answer | None = None) -> Answer:
        norm, n = self.local.norm, len(rows.entry)
        if self.system is None or self.system.n_out != n:
            matrix = self.matrix if n == len(self.matrix) and _all_in_order(rows.entry) else self.matrix[rows.entry]
            self.system = LayerSystem(matrix, np.zeros(n), Activation("identity"), self.lower, self.upper)
        if warm_start is None:
            warm_start = Answer(np.zeros(len(self.lower)), np.inf, 0.0, LpStatus.FAILED, 0)
        answer = least_violation(self.system, rows.around(self.v), norm, self.end - time.perf_counter(), warm_start)
        self.programs += 1
        self.timed_out |= answer.status is LpStatus.LIMIT
        return answer


def _all_in_order(entry: Index) -> bool:
    return bool((entry == np.arange(len(entry))).all())


def independent(regions: AdjacentRegions, rank: npt.NDArray[np.int_]) -> Index:
    """Kinks whose rows of U are independent, ascending; those of a higher ``rank`` (m,) are preferred."""
    if not len(rank):
        return np.arange(0)
    lengths = np.linalg.norm(regions.u_code, axis=1)
    rows = np.divide(regions.u_code, lengths[:, None], out=np.zeros_like(regions.u_code), where=lengths[:, None] > 0)
    weight = 1e3**rank
    r, order = linalg.qr(rows.T * weight, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(r)) / weight[order[: min(r.shape)]]
    count = int(np.argmin(np.append(diagonal, 0.0) > _DEPENDENT))
    return np.sort(order[:count])
