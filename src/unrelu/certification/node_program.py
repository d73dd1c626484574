"""Solution of the relaxation under decisions, warm-started from a program with one decision less.

A node's program has a working set of rows (row generation): most outputs of a ReLU are far from being constrained. If
pivots gain nothing, the costs are perturbed, and the primal simplex removes the perturbation.

Source: dual simplex with bounded multipliers, perturbed costs and a primal clean-up as in A. Koberstein, "The dual
simplex method, techniques for a fast and stable implementation", PhD thesis, Paderborn 2005.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.certification._triangle_relaxation import ACTIVE, ERROR, FLOOR, INACTIVE, SIGN, Relaxation, RelaxationRows
from unrelu.certification.safe_bounds import Multipliers
from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.row_simplex import (
    CUTOFF,
    LIMIT,
    OPTIMAL,
    SINGULAR,
    VIOLATED,
    compile_simplex,
    dual_simplex,
    primal_simplex,
)
from unrelu.runtime.array_types import Array, Flags, Integers
from unrelu.runtime.streams import stream
from unrelu.runtime.work_clock import now

Signs = npt.NDArray[np.int8]
# The most pivots, and the number of operations between two checks of the clock.
_PIVOTS, _CHUNK = 20_000, 2e8
# A round of pivots that gains less has stalled. The size of the perturbations that follow, and their largest number.
_NOTHING, _MOVED, _ROUNDS = 1e-12, 1e-6, 3
_STALLED = -1


@dataclass(frozen=True)
class Limits:
    """The limits of a search.

    Attributes:
        end: end time, by :func:`~unrelu.runtime.work_clock.now`.
        nodes: the most nodes.
        stop: called with the number of nodes at every node, and with -1 within long programs; True stops the search.
    """

    end: float = math.inf
    nodes: int = 50_000
    stop: Callable[[int], bool] | None = None

    def reached(self, nodes: int, needed: float = 0.0) -> str | None:
        """The limit that is reached: "callback", "time", "nodes" or None; ``needed`` seconds are still required."""
        if self.stop is not None and self.stop(nodes):
            return "callback"
        if now() + needed >= self.end:
            return "time"
        return "nodes" if nodes >= self.nodes else None

    def over(self) -> bool:
        """Whether to stop in the middle of a node."""
        return now() >= self.end or (self.stop is not None and self.stop(-1))


class WorkingRows:
    """The working set: a growing subset of the rows, as contiguous arrays.

    It begins with all rows that are not errors, and error rows with a lower side: of outputs that have to be active,
    and of sums. ``local`` maps numbers of all rows to numbers in the working set, ``index`` the reverse. In both
    numberings, artificial rows follow, one for each unknown.
    """

    def __init__(self, rows: RelaxationRows, norms: Array) -> None:
        self._rows, self._norms = rows, norms
        self._inside = (rows.kind != ERROR) | ((rows.scale < 0) & np.isfinite(rows.lo))
        self._gather()

    def _gather(self) -> None:
        chosen, (m, n) = np.flatnonzero(self._inside), self._rows.matrix.shape
        self.chosen: Integers = chosen
        self.index: Integers = np.concatenate([chosen, m + np.arange(n)])
        self.local: Integers = np.full(m + n, -1)
        self.local[self.index] = np.arange(len(self.index))
        self.matrix = np.ascontiguousarray(self._rows.matrix[chosen])
        self.norms, self.q = self._norms[chosen], self._rows.q[chosen]

    def include(self, numbers: Integers) -> None:
        """Add rows to the working set."""
        new = numbers[~self._inside[numbers]]
        if len(new):
            self._inside[new] = True
            self._gather()

    def missing(self, x: Array, lo: Array, hi: Array) -> Integers:
        """The rows outside the working set that a point violates."""
        r = self._rows.matrix @ x
        gap = np.maximum(lo - r, r - hi)
        return np.flatnonzero((gap > 2 * VIOLATED * self._norms) & ~self._inside)


@dataclass(frozen=True, eq=False)
class Vertex:
    """A vertex and its multipliers.

    Attributes:
        rows, upper: the basic rows, and whether each is tight at its upper side, (N,).
        state: which rows have a multiplier at an end of its range, (M,).
        y: the multipliers of the basic rows, (N,).
        ray: one more row and its multiplier if the constraints are infeasible; else -1, 0.
    """

    rows: Integers
    upper: Flags
    state: npt.NDArray[np.int8]
    y: Array
    ray: Array

    def copy(self) -> Vertex:
        """A copy that can be changed."""
        return Vertex(self.rows.copy(), self.upper.copy(), self.state.copy(), self.y.copy(), np.array([-1.0, 0.0]))


@dataclass(frozen=True, eq=False)
class Solved:
    """The solution of a program.

    Attributes:
        value: the optimal value, or a bound beyond the cutoff.
        closed: whether the bound is beyond the cutoff.
        finished: whether the program was solved; otherwise ``value`` is the bound reached so far.
        x: the optimal point, if not closed.
        basis: its vertex, for a warm start.
        multipliers: the multipliers from which ``value`` follows.
    """

    value: float
    closed: bool
    finished: bool
    x: Array
    basis: Vertex
    multipliers: Multipliers


class NodeProgram:
    """A relaxation that is solved under many decisions. A program stopped by the limits still gives a valid bound."""

    def __init__(self, relaxation: Relaxation, limits: Limits | None = None) -> None:
        compile_simplex()
        self.relaxation, self.limits = relaxation, limits or Limits()
        rows = relaxation.rows
        outputs = rows.neuron >= relaxation.chain.ends[-2]
        self._inactive_side, self._active_side = (
            self._places(rows.kind == INACTIVE),
            self._places(rows.kind == ACTIVE),
        )
        self._sign = self._places((rows.kind == SIGN) & outputs)
        self._extra = self._places((rows.kind == ERROR) & (rows.p == 0))
        m, n = rows.matrix.shape
        self._chunk = max(20, min(2 * n + 20, int(_CHUNK / (n * (m + 2 * n)))))
        self._edges, self._x = np.zeros((n, n)), np.zeros(n)
        self._working = WorkingRows(rows, relaxation.norms)
        self._last: Vertex | None = None
        self._parent: tuple[Vertex, Array] | None = None

    def _places(self, chosen: Flags) -> Integers:
        """The row of each neuron among the chosen rows; -1 if it has none."""
        place = np.full(int(self.relaxation.chain.ends[-1]), -1)
        place[self.relaxation.rows.neuron[chosen]] = np.flatnonzero(chosen)
        return place

    def _cold_start(self) -> Vertex:
        """A dual feasible vertex without a row of the program, except the floor of delta, if there is one."""
        rows, n = self.relaxation.rows, self.relaxation.size
        m = len(rows.kind)
        basic = m + np.arange(n)
        if self.relaxation.delta:
            basic[-1] = np.flatnonzero(rows.kind == FLOOR)[0]
        return Vertex(basic, np.zeros(n, dtype=bool), np.zeros(m, dtype=np.int8), np.zeros(n), np.zeros(2))

    def solve(self, signs: Signs, start: Vertex | None = None, cutoff: float = math.inf) -> Solved:
        """Minimise F with some neurons decided, up to a cutoff; ``start`` is the vertex of fewer decisions."""
        lo, hi, p, constant = self._sides(signs)
        begin = start or self._cold_start()
        vertex, sides, cost = begin.copy(), (lo, hi, p), self.relaxation.cost
        status, value = self._dual(vertex, sides, cost, cutoff - constant, not self._recall(begin))
        if status == _STALLED:
            status, value = self._perturbed(vertex, sides, cutoff - constant)
        if status == SINGULAR and start is not None:
            return self.solve(signs, None, cutoff)
        return self._solved(vertex, status, value + constant, p)

    def _solved(self, vertex: Vertex, status: int, value: float, p: Array, extra: Array | None = None) -> Solved:
        """The solution that belongs to a vertex, with its multipliers."""
        basic, at_end = vertex.rows < len(p), np.flatnonzero(vertex.state)
        ray = vertex.ray[:, None] if vertex.ray[0] >= 0 else np.zeros((2, 0))
        ends = np.where(vertex.state[at_end] > 0, p[at_end], -self.relaxation.rows.q[at_end])
        index = np.concatenate([vertex.rows[basic], at_end, ray[0].astype(np.int64)])
        multipliers = self.relaxation.multipliers(index, np.concatenate([vertex.y[basic], ends, ray[1]]), extra)
        self._last = vertex
        return Solved(value, status == CUTOFF, status in (OPTIMAL, CUTOFF), self._x.copy(), vertex, multipliers)

    def _dual(
        self, vertex: Vertex, sides: tuple[Array, Array, Array], cost: Array, cutoff: float, fresh: bool
    ) -> tuple[int, float]:
        """Run the dual simplex on the working rows, and add rows that its optimum violates until there are none."""
        (lo, hi, p), working = sides, self._working
        working.include(np.concatenate([vertex.rows[vertex.rows < len(lo)], np.flatnonzero(vertex.state)]))
        pivots, before, idle = 0, -math.inf, 0
        while True:
            index, local = working.chosen, working.local[vertex.rows]
            at_end = vertex.state[index]
            status, value, more = dual_simplex(
                ROUTINES, working.matrix, working.norms, lo[index], hi[index], p[index], working.q, cost, local,
                vertex.upper, at_end, self._edges, fresh, vertex.y, self._x, np.empty(len(index)), vertex.ray, cutoff,
                self._chunk,
            )  # fmt: skip
            vertex.rows[:], vertex.state[index] = working.index[local], at_end
            pivots, fresh = pivots + more, False
            missing = working.missing(self._x, lo, hi) if status == OPTIMAL else index[:0]
            working.include(missing)
            if not len(missing) and self._ended(status, more, pivots):
                break
            idle = idle + 1 if more >= self._chunk and value <= before + _NOTHING else 0
            before = value
            if idle > 1 and self.relaxation.delta:
                return _STALLED, value
        if vertex.ray[0] >= 0:
            vertex.ray[0] = index[int(vertex.ray[0])]
        return status, value

    def _perturbed(self, vertex: Vertex, sides: tuple[Array, Array, Array], cutoff: float) -> tuple[int, float]:
        """Handle stalled pivots: solve with a perturbed objective, then continue with the true one.

        The multipliers of the basic rows are moved inwards by different small numbers, so that every pivot gains.
        """
        (lo, hi, _), relaxation, working = sides, self.relaxation, self._working
        m, rng = len(lo), stream("perturbed multipliers", len(lo))
        for _ in range(_ROUNDS):
            basic = np.flatnonzero(vertex.rows < m)
            moved = _MOVED * (0.5 + rng.random(len(basic))) * np.where(vertex.upper[basic], -1.0, 1.0)
            rows = vertex.rows[basic]
            cost = relaxation.cost + (moved / relaxation.norms[rows]) @ relaxation.rows.matrix[rows]
            far = 10.0 * (abs(cutoff) + 1.0) if math.isfinite(cutoff) else math.inf
            status, value = self._dual(vertex, sides, cost, far, False)
            if status == OPTIMAL:
                # This vertex is feasible: continue to the optimum among the working rows.
                index, local = working.chosen, working.local[vertex.rows]
                status, _, _ = primal_simplex(
                    ROUTINES, working.matrix, working.norms, lo[index], hi[index], relaxation.cost, local,
                    vertex.upper, self._edges, False, vertex.y, self._x, np.empty(len(index)), _PIVOTS,
                )  # fmt: skip
                vertex.rows[:] = working.index[local]
            elif status == CUTOFF:
                status = OPTIMAL
            if status != OPTIMAL:
                return status if status != _STALLED else LIMIT, -math.inf
            status, value = self._dual(vertex, sides, relaxation.cost, cutoff, False)
            if status != _STALLED or self.limits.over():
                break
        return LIMIT if status == _STALLED else status, value

    def _recall(self, basis: Vertex) -> bool:
        """Load the edges of a basis; False if it is singular. Those of the last solution and its parent are kept."""
        if self._parent is not None and basis is self._parent[0]:
            np.copyto(self._edges, self._parent[1])
            return True
        if basis is not self._last:
            rows, (m, n) = self.relaxation.rows.matrix, self.relaxation.rows.matrix.shape
            real = (basis.rows < m)[:, None]
            artificial = np.eye(n)[np.maximum(basis.rows - m, 0)]
            matrix = np.where(real, rows[np.minimum(basis.rows, m - 1)], artificial)
            try:
                np.copyto(self._edges, np.linalg.inv(matrix).T)
            except np.linalg.LinAlgError:
                return False
        self._parent = (basis, self._edges.copy())
        return True

    def extreme(self, signs: Signs, start: Vertex, level: float, extra: Array, towards: Array) -> Solved | None:
        """Minimise ``extra . u + towards . t`` over the points with delta <= level; None if that failed.

        For the largest error only. t is the code in its frame, and ``start`` a feasible vertex.
        """
        relaxation, rows = self.relaxation, self.relaxation.rows
        cost = np.zeros(relaxation.size)
        cost[: len(towards)] = towards
        for (u, _), part in zip(relaxation.pre, relaxation.chain.by_layer(extra), strict=True):
            chosen = np.flatnonzero(part)
            cost += part[chosen] @ u[chosen]
        lo, hi, p, _ = self._sides(signs)
        hi[rows.kind == FLOOR] = level
        vertex, fresh, pivots, ended = start.copy(), start is not self._last, 0, False
        while not ended:
            status, value, more = primal_simplex(
                ROUTINES, rows.matrix, relaxation.norms, lo, hi, cost, vertex.rows, vertex.upper, self._edges, fresh,
                vertex.y, self._x, np.empty(len(rows.kind)), self._chunk,
            )  # fmt: skip
            pivots, fresh = pivots + more, False
            ended = self._ended(status, more, pivots)
        if status != OPTIMAL:
            self._last = None
            return None
        return self._solved(vertex, status, value, p, extra)

    def _ended(self, status: int, more: int, pivots: int) -> bool:
        """Whether a kernel has ended, or the limits are reached; otherwise it only paused for a check of the clock."""
        paused = status == LIMIT and more >= self._chunk
        return not paused or pivots >= _PIVOTS or self.limits.over()

    def _sides(self, signs: Signs) -> tuple[Array, Array, Array, float]:
        """The rows' sides and costs under decisions, and the constant of the objective."""
        relaxation, rows = self.relaxation, self.relaxation.rows
        lo, hi, p = rows.lo.copy(), rows.hi.copy(), rows.p
        on, off = np.flatnonzero(signs > 0), np.flatnonzero(signs < 0)
        for chosen in (self._active_side[on], self._inactive_side[off]):
            there = chosen[chosen >= 0]
            hi[there] = lo[there]
        if relaxation.delta:
            return lo, hi, p, 0.0
        chain, shift, p = relaxation.chain, relaxation.pre[-1][1], p.copy()
        on, off = on[self._sign[on] >= 0], off[self._sign[off] >= 0]
        start = int(chain.ends[-2])
        lo[self._sign[on]] = -shift[on - start]
        hi[self._sign[off]] = -shift[off - start]
        # Rows without a cost have no side, so that no vertex counts as violating them when they get a cost.
        lo[self._extra[on]] = chain.y[on - start] - shift[on - start]
        p[self._extra[on]] = 1 - chain.slopes[-1][on - start]
        # The constant cost of inactive outputs, which is in no row.
        constant = -chain.y[(chain.y <= 0) & (chain.slopes[-1] == 0)].sum()
        return lo, hi, p, float(constant + ((1 - chain.slopes[-1]) * chain.y)[off - start].sum())
