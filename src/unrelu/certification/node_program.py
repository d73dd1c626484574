"""Solving the relaxation under decisions, from the basis of a program that differed by one of them.

A node's program has a working set of rows: most outputs of a ReLU are far below what would cost anything
(row generation). Where pivots gain nothing the costs are perturbed, and the primal simplex removes the perturbation.

Source: dual simplex with bounded multipliers, perturbed costs and a primal clean-up as in A. Koberstein, "The dual
simplex method, techniques for a fast and stable implementation", PhD thesis, Paderborn 2005.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.certification.safe_bounds import Multipliers
from unrelu.certification.triangle_relaxation import ERROR, FLOOR, OFF_SIDE, ON_SIDE, SIGN, Relaxation, RelaxationRows
from unrelu.lp.compilation import compile_simplex
from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.row_simplex import CUTOFF, LIMIT, OPTIMAL, SINGULAR, VIOLATED, dual_simplex, primal_simplex
from unrelu.runtime.streams import stream

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Signs = npt.NDArray[np.int8]
# Pivots at most; and one look at the clock for every so many numbers touched.
_PIVOTS, _CHUNK = 20_000, 2e8
# A round of pivots that gains less has stalled; then multipliers are moved by so much, so often at most.
_NOTHING, _MOVED, _ROUNDS = 1e-12, 1e-6, 3
_STALLED = -1


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes:
        end: by ``time.perf_counter()``.
        nodes: at most.
        stop: asked at every node and within long programs; called with the nodes so far, or -1. True stops.
    """

    end: float = math.inf
    nodes: int = 50_000
    stop: Callable[[int], bool] | None = None

    def reached(self, nodes: int, needed: float = 0.0) -> str | None:
        """Which limit is reached: "callback", "time", "nodes" or None; ``needed`` seconds are still to be spent."""
        if self.stop is not None and self.stop(nodes):
            return "callback"
        if time.perf_counter() + needed >= self.end:
            return "time"
        return "nodes" if nodes >= self.nodes else None

    def over(self) -> bool:
        """Whether there is nothing to be done any more, in the middle of a node."""
        return time.perf_counter() >= self.end or (self.stop is not None and self.stop(-1))


class WorkingRows:
    """A growing part of the rows, as contiguous arrays.

    At first those that are no errors, and errors with a lower side: of outputs that have to be on, and sums.
    """

    def __init__(self, rows: RelaxationRows, norms: Array) -> None:
        self._rows, self._norms = rows, norms
        self._inside = (rows.kind != ERROR) | ((rows.scale > 0) & np.isfinite(rows.lo))
        self._gather()

    def _gather(self) -> None:
        self.index: Index = np.flatnonzero(self._inside)
        self._local = np.full(len(self._inside), -1)
        self._local[self.index] = np.arange(len(self.index))
        self.matrix = np.ascontiguousarray(self._rows.matrix[self.index])
        self.norms, self.q = self._norms[self.index], self._rows.q[self.index]

    def include(self, numbers: Index) -> None:
        """Let rows take part from now on."""
        new = numbers[~self._inside[numbers]]
        if len(new):
            self._inside[new] = True
            self._gather()

    def local(self, numbers: Index) -> Index:
        """Numbers among the working rows, of rows among them and of the artificial rows behind all."""
        m = len(self._inside)
        ours = self._local[np.minimum(numbers, m - 1)]
        return np.where(numbers < m, ours, numbers - m + len(self.index))

    def everywhere(self, local: Index) -> Index:
        """The reverse."""
        m = len(self.index)
        ours = self.index[np.minimum(local, m - 1)]
        return np.where(local < m, ours, local - m + len(self._inside))

    def missing(self, x: Array, lo: Array, hi: Array) -> Index:
        """Rows left out that a point violates."""
        r = self._rows.matrix @ x
        gap = np.maximum(lo - r, r - hi)
        return np.flatnonzero((gap > 2 * VIOLATED * self._norms) & ~self._inside)


@dataclass(frozen=True, eq=False)
class NodeBasis:
    """A vertex: its basic rows, the sides at which they are tight, and the rows whose multipliers are at an end."""

    rows: npt.NDArray[np.int64]
    upper: npt.NDArray[np.bool_]
    state: npt.NDArray[np.int8]


class _Vertex:
    """A basis on its way, the multipliers y of its rows, and one more row (``ray``) where there is a contradiction."""

    def __init__(self, start: NodeBasis) -> None:
        self.rows, self.upper, self.state = start.rows.copy(), start.upper.copy(), start.state.copy()
        self.y, self.ray = np.zeros(len(start.rows)), np.array([-1.0, 0.0])


@dataclass(frozen=True, eq=False)
class Solved:
    """What became of a program.

    Attributes:
        value: its optimum, or a bound past the cutoff.
        closed: whether the bound has passed the cutoff.
        finished: whether it was solved; otherwise ``value`` is a bound that it had reached.
        x: the optimum, where not closed.
        basis: to go on from.
        multipliers: that ``value`` follows from.
    """

    value: float
    closed: bool
    finished: bool
    x: Array
    basis: NodeBasis
    multipliers: Multipliers


class NodeProgram:
    """A relaxation that is solved under many decisions; what is not finished in the limits is a bound all the same."""

    def __init__(self, relaxation: Relaxation, limits: Limits | None = None) -> None:
        compile_simplex()
        self.relaxation, self.limits = relaxation, limits or Limits()
        rows = relaxation.rows
        total = int(relaxation.chain.ends[-1])
        self._off_side, self._on_side = np.full(total, -1), np.full(total, -1)
        numbers = np.arange(len(rows.kind))
        for kind, where in ((OFF_SIDE, self._off_side), (ON_SIDE, self._on_side)):
            where[rows.neuron[rows.kind == kind]] = numbers[rows.kind == kind]
        start = relaxation.chain.ends[-2]
        outputs = rows.neuron >= start
        self._sign, self._extra = np.full(total, -1), np.full(total, -1)
        if not relaxation.delta:
            signed = (rows.kind == SIGN) & outputs
            self._sign[rows.neuron[signed]] = numbers[signed]
            extra = (rows.kind == ERROR) & outputs & (rows.p == 0)
            self._extra[rows.neuron[extra]] = numbers[extra]
        m, n = rows.matrix.shape
        self._chunk = max(20, min(2 * n + 20, int(_CHUNK / (n * (m + 2 * n)))))
        self._edges, self._x = np.zeros((n, n)), np.zeros(n)
        self._working = WorkingRows(rows, relaxation.norms)
        self._last: NodeBasis | None = None
        self._parent: tuple[NodeBasis, Array] | None = None

    def _cold(self) -> NodeBasis:
        """A dual feasible vertex: delta at its floor, if there is one, and no other row."""
        rows, n = self.relaxation.rows, self.relaxation.size
        m = len(rows.kind)
        basis, upper = m + np.arange(n), np.zeros(n, dtype=bool)
        if self.relaxation.delta:
            basis[-1] = np.flatnonzero(rows.kind == FLOOR)[0]
        return NodeBasis(basis, upper, np.zeros(m, dtype=np.int8))

    def solve(self, signs: Signs, start: NodeBasis | None = None, cutoff: float = math.inf) -> Solved:
        """Minimise F with some neurons decided, up to a cutoff; ``start`` is the solution with fewer decisions."""
        relaxation = self.relaxation
        lo, hi, p, constant = self._sides(signs)
        if start is not None and len(start.state) != len(relaxation.rows.kind):
            # Of a relaxation at another level, which had other rows.
            start = None
        basis = self._cold() if start is None else start
        vertex = _Vertex(basis)
        sides = (lo, hi, p)
        status, value = self._dual(vertex, sides, relaxation.cost, cutoff - constant, not self._recall(basis))
        if status == _STALLED:
            status, value = self._around(vertex, sides, cutoff - constant)
        if status == SINGULAR and start is not None:
            return self.solve(signs, None, cutoff)
        self._last = NodeBasis(vertex.rows, vertex.upper, vertex.state)
        return Solved(
            value + constant, status == CUTOFF, status in (OPTIMAL, CUTOFF), self._x.copy(), self._last,
            self._multipliers(vertex.rows, vertex.state, vertex.y, p, vertex.ray),
        )  # fmt: skip

    def _dual(
        self, vertex: _Vertex, sides: tuple[Array, Array, Array], cost: Array, cutoff: float, fresh: bool
    ) -> tuple[int, float]:
        """Run the dual simplex on the working rows, and let in what its optimum violates, until that is nothing."""
        (lo, hi, p), working = sides, self._working
        working.include(np.concatenate([vertex.rows[vertex.rows < len(lo)], np.flatnonzero(vertex.state)]))
        pivots, before, idle = 0, -math.inf, 0
        while True:
            index, local = working.index, working.local(vertex.rows)
            at_end = vertex.state[index]
            status, value, more = dual_simplex(
                ROUTINES, working.matrix, working.norms, lo[index], hi[index], p[index], working.q, cost, local,
                vertex.upper, at_end, self._edges, fresh, vertex.y, self._x, np.empty(len(index)), vertex.ray, cutoff,
                self._chunk,
            )  # fmt: skip
            vertex.rows, vertex.state[index] = working.everywhere(local), at_end
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

    def _around(self, vertex: _Vertex, sides: tuple[Array, Array, Array], cutoff: float) -> tuple[int, float]:
        """Where pivots gain nothing: solve with a moved objective, and go on from there with the true one.

        The multipliers of the basic rows are moved inwards by different small numbers, so that every pivot gains.
        """
        (lo, hi, _), relaxation = sides, self.relaxation
        m, rng = len(lo), stream("perturbed multipliers", len(lo))
        for _ in range(_ROUNDS):
            cost = relaxation.cost.copy()
            basic = np.flatnonzero(vertex.rows < m)
            moved = _MOVED * (0.5 + rng.random(len(basic))) * np.where(vertex.upper[basic], -1.0, 1.0)
            rows = vertex.rows[basic]
            cost += (moved / relaxation.norms[rows]) @ relaxation.rows.matrix[rows]
            far = 10.0 * (abs(cutoff) + 1.0) if math.isfinite(cutoff) else math.inf
            status, value = self._dual(vertex, sides, cost, far, False)
            if status not in (OPTIMAL, CUTOFF):
                return status if status != _STALLED else LIMIT, -math.inf
            if status == OPTIMAL:
                status = self._true_optimum(vertex, lo, hi)
                if status != OPTIMAL:
                    return status, -math.inf
            status, value = self._dual(vertex, sides, relaxation.cost, cutoff, False)
            if status != _STALLED or self.limits.over():
                break
        return LIMIT if status == _STALLED else status, value

    def _true_optimum(self, vertex: _Vertex, lo: Array, hi: Array) -> int:
        """From a feasible vertex to the optimum among the working rows."""
        index, local = self._working.index, self._working.local(vertex.rows)
        status, _, _ = primal_simplex(
            ROUTINES, self._working.matrix, self._working.norms, lo[index], hi[index], self.relaxation.cost, local,
            vertex.upper, self._edges, False, vertex.y, self._x, np.empty(len(index)), _PIVOTS,
        )  # fmt: skip
        vertex.rows = self._working.everywhere(local)
        return int(status)

    def _recall(self, basis: NodeBasis) -> bool:
        """Have the edges of a basis at hand: of the last solution, or of that which the last but one began with."""
        if basis is self._last:
            self._parent = (basis, self._edges.copy())
            return True
        if self._parent is not None and basis is self._parent[0]:
            np.copyto(self._edges, self._parent[1])
            return True
        matrix = self._basic_rows(basis)
        try:
            np.copyto(self._edges, np.linalg.inv(matrix).T)
        except np.linalg.LinAlgError:
            return False
        self._parent = (basis, self._edges.copy())
        return True

    def _basic_rows(self, basis: NodeBasis) -> Array:
        rows = self.relaxation.rows.matrix
        matrix = np.zeros((len(basis.rows), rows.shape[1]))
        real = basis.rows < len(rows)
        matrix[real] = rows[basis.rows[real]]
        matrix[~real, basis.rows[~real] - len(rows)] = 1.0
        return matrix

    def extreme(self, signs: Signs, start: NodeBasis, level: float, extra: Array, towards: Array) -> Solved | None:
        """Minimise ``extra . u + towards . t`` over the points with delta <= level; None if that failed.

        t is the code in its frame. For the largest error only. ``start`` is a vertex that satisfies everything.
        """
        relaxation, rows = self.relaxation, self.relaxation.rows
        cost = np.zeros(relaxation.size)
        cost[: len(towards)] = towards
        for (u, _), part in zip(relaxation.pre, np.split(extra, relaxation.chain.ends[1:-1]), strict=True):
            chosen = np.flatnonzero(part)
            cost += part[chosen] @ u[chosen]
        lo, hi, _, _ = self._sides(signs)
        floor = rows.kind == FLOOR
        hi[floor] = level
        fresh, number, upper = start is not self._last, start.rows.copy(), start.upper.copy()
        y = np.zeros(relaxation.size)
        status, value, pivots = LIMIT, -math.inf, 0
        while True:
            status, value, more = primal_simplex(
                ROUTINES, rows.matrix, relaxation.norms, lo, hi, cost, number, upper, self._edges, fresh, y, self._x,
                np.empty(len(rows.kind)), self._chunk,
            )  # fmt: skip
            pivots, fresh = pivots + more, False
            if self._ended(status, more, pivots):
                break
        if status != OPTIMAL:
            self._last = None
            return None
        self._last = NodeBasis(number, upper, start.state)
        multipliers = self._multipliers(number, start.state, y, rows.p, np.array([-1.0, 0.0]), extra)
        return Solved(value, False, True, self._x.copy(), self._last, multipliers)

    def _ended(self, status: int, more: int, pivots: int) -> bool:
        """Whether a kernel has stopped for good, and not to let us look at the clock."""
        paused = status == LIMIT and more >= self._chunk
        return not paused or pivots >= _PIVOTS or self.limits.over()

    def _sides(self, signs: Signs) -> tuple[Array, Array, Array, float]:
        """The rows' sides and costs under decisions, and the constant of the objective."""
        relaxation, rows = self.relaxation, self.relaxation.rows
        lo, hi, p, constant = rows.lo.copy(), rows.hi.copy(), rows.p, relaxation.constant
        on, off = np.flatnonzero(signs > 0), np.flatnonzero(signs < 0)
        for chosen in (self._on_side[on], self._off_side[off]):
            there = chosen[chosen >= 0]
            hi[there] = lo[there]
        if not (self._sign >= 0).any():
            return lo, hi, p, constant
        chain, start = relaxation.chain, int(relaxation.chain.ends[-2])
        shift = relaxation.pre[-1][1]
        p = p.copy()
        on, off = on[self._sign[on] >= 0], off[self._sign[off] >= 0]
        lo[self._sign[on]] = -shift[on - start]
        # Rows without a cost have no side, so that no vertex counts them as missed when they get one.
        lo[self._extra[on]] = chain.y[on - start] - shift[on - start]
        hi[self._sign[off]] = -shift[off - start]
        c = chain.slopes[-1]
        p[self._extra[on]] = 1 - c[on - start]
        return lo, hi, p, constant + float(((1 - c) * chain.y)[off - start].sum())

    def _multipliers(
        self,
        number: npt.NDArray[np.int64],
        state: npt.NDArray[np.int8],
        y: Array,
        p: Array,
        ray: Array,
        extra: Array | None = None,
    ) -> Multipliers:
        m, rows = len(state), self.relaxation.rows
        basic = number < m
        index, values = [number[basic]], [y[basic]]
        for side, costs in ((1, p), (-1, -rows.q)):
            at = np.flatnonzero(state == side)
            index.append(at)
            values.append(costs[at])
        if ray[0] >= 0:
            index.append(np.array([int(ray[0])]))
            values.append(ray[1:])
        return self.relaxation.multipliers(np.concatenate(index), np.concatenate(values), extra)
