"""Solving the relaxation under decisions, from the basis of a program that differed by one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.layer.dense import ROUTINES
from unrelu.proofs.primal import primal_simplex
from unrelu.proofs.relaxation import ABOVE, BELOW, ERROR, FLOOR, SIGN, Relaxation
from unrelu.proofs.safe_bounds import Multipliers
from unrelu.proofs.simplex import CUTOFF, OPTIMAL, SINGULAR, dual_simplex

__all__ = ["Basis", "Program", "Solved"]

Array = npt.NDArray[np.float64]
Signs = npt.NDArray[np.int8]

_PIVOTS = 5000


@dataclass(frozen=True, eq=False)
class Basis:
    """A vertex: its basic rows, the sides at which they are tight, and the rows whose multipliers are at an end."""

    rows: npt.NDArray[np.int64]
    upper: npt.NDArray[np.bool_]
    state: npt.NDArray[np.int8]


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
        pivots: basis changes.
    """

    value: float
    closed: bool
    finished: bool
    x: Array
    basis: Basis
    multipliers: Multipliers
    pivots: int


class Program:
    """A relaxation that is solved under many decisions.

    Args:
        relaxation: what is solved.
    """

    def __init__(self, relaxation: Relaxation) -> None:
        self.relaxation = relaxation
        rows = relaxation.rows
        total = int(relaxation.chain.ends[-1])
        self._below, self._above = np.full(total, -1), np.full(total, -1)
        numbers = np.arange(len(rows.kind))
        for kind, where in ((BELOW, self._below), (ABOVE, self._above)):
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
        self._edges, self._x, self._r = np.zeros((n, n)), np.zeros(n), np.zeros(m)
        self._last: Basis | None = None

    def cold(self) -> Basis:
        """A dual feasible vertex: delta at its floor, if there is one, and no other row."""
        rows, n = self.relaxation.rows, self.relaxation.size
        m = len(rows.kind)
        basis, upper = m + np.arange(n), np.zeros(n, dtype=bool)
        if self.relaxation.delta:
            basis[-1] = np.flatnonzero(rows.kind == FLOOR)[0]
        return Basis(basis, upper, np.zeros(m, dtype=np.int8))

    def solve(self, signs: Signs, start: Basis | None = None, cutoff: float = math.inf) -> Solved:
        """Minimise F with some neurons decided.

        Args:
            signs: of all neurons; those decided before the relaxation was built do not count.
            start: the solution with fewer decisions.
            cutoff: to stop at.
        """
        relaxation, rows = self.relaxation, self.relaxation.rows
        lo, hi, p, constant = self._sides(signs)
        if start is not None and len(start.state) != len(rows.kind):
            # Of a relaxation at another level, which had other rows.
            start = None
        basis = self.cold() if start is None else start
        y, ray = np.zeros(relaxation.size), np.zeros(2)
        fresh = basis is not self._last or start is None
        number, upper, state = basis.rows.copy(), basis.upper.copy(), basis.state.copy()
        status, value, pivots = dual_simplex(
            ROUTINES, rows.matrix, relaxation.norms, lo, hi, p, rows.q, relaxation.cost, number, upper, state,
            self._edges, fresh, y, self._x, self._r, ray, cutoff - constant, _PIVOTS,
        )  # fmt: skip
        if status == SINGULAR and start is not None:
            return self.solve(signs, None, cutoff)
        self._last = Basis(number, upper, state)
        return Solved(
            value + constant, status == CUTOFF, status in (OPTIMAL, CUTOFF), self._x.copy(), self._last,
            self._multipliers(number, state, y, p, ray), pivots,
        )  # fmt: skip

    def extreme(
        self, signs: Signs, start: Basis, level: float, extra: Array | None = None, towards: Array | None = None
    ) -> Solved | None:
        """Minimise ``extra . u + towards . z`` over the points with delta <= level; None if that failed.

        For the largest error only.

        Args:
            signs: of all neurons.
            start: a vertex that satisfies everything.
            level: of F.
            extra: (N,), coefficients of all pre-activations.
            towards: (k,).
        """
        relaxation, rows = self.relaxation, self.relaxation.rows
        cost = np.zeros(relaxation.size)
        if towards is not None:
            cost[: len(towards)] = towards
        if extra is not None:
            for (u, _), part in zip(relaxation.pre, np.split(extra, relaxation.chain.ends[1:-1]), strict=True):
                chosen = np.flatnonzero(part)
                cost += part[chosen] @ u[chosen]
        lo, hi, _, _ = self._sides(signs)
        floor = rows.kind == FLOOR
        hi[floor] = level
        fresh, number, upper = start is not self._last, start.rows.copy(), start.upper.copy()
        y = np.zeros(relaxation.size)
        status, value, pivots = primal_simplex(
            ROUTINES, rows.matrix, relaxation.norms, lo, hi, cost, number, upper, self._edges, fresh, y, self._x,
            self._r, _PIVOTS,
        )  # fmt: skip
        if status != OPTIMAL:
            self._last = None
            return None
        self._last = Basis(number, upper, start.state)
        multipliers = self._multipliers(number, start.state, y, rows.p, np.array([-1.0, 0.0]), extra)
        return Solved(value, False, True, self._x.copy(), self._last, multipliers, pivots)

    def _sides(self, signs: Signs) -> tuple[Array, Array, Array, float]:
        """The rows' sides and costs under decisions, and the constant of the objective."""
        relaxation, rows = self.relaxation, self.relaxation.rows
        lo, hi, p, constant = rows.lo.copy(), rows.hi.copy(), rows.p, relaxation.constant
        on, off = np.flatnonzero(signs > 0), np.flatnonzero(signs < 0)
        for chosen in (self._above[on], self._below[off]):
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
