"""Solving the relaxation of a node by HiGHS, warm-started from the program of the node above.

A program has a working set of rows (row generation), because most outputs of a ReLU are far from their constraints. Of
the solver's answers only the multipliers count, and the bounds that they prove are recomputed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse

from unrelu.certification._triangle_relaxation import Relaxation
from unrelu.certification.certified_chain import Signs
from unrelu.certification.proof import ProofStatus
from unrelu.certification.safe_bounds import Multipliers
from unrelu.lp.highs import LIVE, Basis, LinearProgram, LiveProgram, LpSolution
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array, Integers
from unrelu.runtime.run_control import now

# Rows violated by less, in working units, are not added. Without them, a bound is only a little weaker.
_VIOLATED = 1e-8
# A program is interrupted after this many seconds, so that the limits can be checked.
_SECONDS = 1.0


@dataclass(frozen=True)
class Limits:
    """The limits of a search.

    Attributes:
        end: end time, by :func:`~unrelu.runtime.run_control.now`.
        nodes: the most nodes.
        stop: called with the number of nodes at every node, and with -1 within long programs; True stops the search.
    """

    end: float = math.inf
    nodes: int = 50_000
    stop: Callable[[int], bool] | None = None

    def reached(self, nodes: int) -> ProofStatus | None:
        """Return the limit that stops a search after this number of nodes, if any does."""
        if self.stop is not None and self.stop(nodes):
            return ProofStatus.STOPPED
        if now() >= self.end:
            return ProofStatus.TIME_LIMIT
        return ProofStatus.NODE_LIMIT if nodes >= self.nodes else None

    def over(self) -> bool:
        """Check whether to stop in the middle of a node."""
        return now() >= self.end or (self.stop is not None and self.stop(-1))


class Solved(NamedTuple):
    """The solution of a program.

    Attributes:
        known: whether there is an optimal point below the cutoff.
        empty: whether there is no point; multiples of the multipliers then prove every bound.
        x: the optimal point, if it is known.
        basis: for a warm start.
    """

    known: bool
    empty: bool
    x: Array
    basis: Basis


class NodeProgram:
    """A relaxation that is solved for many signs of neurons."""

    def __init__(self, relaxation: Relaxation, limits: Limits) -> None:
        self.relaxation, self.limits = relaxation, limits
        # The rows of the solver, in its order.
        self._chosen: Integers = np.flatnonzero(~relaxation.lazy)
        chosen = self._chosen
        self._lo, self._hi = relaxation.sides(np.zeros(relaxation.chain.ends[-1], dtype=np.int8))
        self._live = LiveProgram(LinearProgram(
            relaxation.cost, sparse.csc_array(relaxation.matrix[chosen]), self._lo[chosen], self._hi[chosen],
            relaxation.low, relaxation.high,
        ), LIVE)  # fmt: skip

    def solve(self, signs: Signs, start: Basis | None, cutoff: float) -> tuple[Solved, Multipliers]:
        """Minimise F with some neurons decided, up to a cutoff; return the solution and the multipliers of its bound.

        ``start`` is the basis of the node above.
        """
        self._decide(signs)
        found = self._run(start, cutoff)
        known, empty = found.status is LpStatus.OPTIMAL, found.status is LpStatus.INFEASIBLE
        return Solved(known, empty, found.x, found.basis), self._multipliers(found, of_error=not empty)

    def extremes(self, signs: Signs, level: float, costs: Array) -> list[Multipliers]:
        """Minimise each of ``costs``, (C, N), over the points with largest errors up to the level.

        The result are the multipliers of the minima, 0 where a program was not solved.
        """
        self._decide(signs)
        relaxation, found = self.relaxation, []
        self._live.change_bounds(relaxation.size - 1, float(relaxation.low[-1]), level)
        for cost in costs:
            found.append(Multipliers(np.zeros(len(relaxation.chain.y)), np.zeros(relaxation.chain.ends[-1])))
            if not self.limits.over():
                self._live.change_costs(cost)
                solved = self._run(None, math.inf, primal=True)
                if solved.status is LpStatus.OPTIMAL:
                    found[-1] = self._multipliers(solved, of_error=False)
        return found

    def _decide(self, signs: Signs) -> None:
        """Give the solver's rows the sides that follow from these signs."""
        lo, hi = self.relaxation.sides(signs)
        place = np.flatnonzero(((lo != self._lo) | (hi != self._hi))[self._chosen])
        changed = self._chosen[place]
        if len(place):
            self._live.change_sides(place, lo[changed], hi[changed])
        self._lo, self._hi = lo, hi

    def _run(self, start: Basis | None, cutoff: float, primal: bool = False) -> LpSolution:
        """Solve, and add the rows that the optimum violates, until there are none. Try once more after a failure."""
        matrix, failed = self.relaxation.matrix, False
        while True:
            found = self._live.solve(start, cutoff, min(_SECONDS, max(0.0, self.limits.end - now())), primal)
            start = None
            if found.status is LpStatus.OPTIMAL:
                missing = self._lo - matrix @ found.x > _VIOLATED
                missing[self._chosen] = False
                new = np.flatnonzero(missing)
                if not len(new) or self.limits.over():
                    return found
                self._live.add_rows(matrix[new], self._lo[new], self._hi[new])
                self._chosen = np.concatenate([self._chosen, new])
            elif found.status is LpStatus.FAILED and not failed:
                failed = True
            elif found.status is not LpStatus.LIMIT or self.limits.over():
                return found

    def _multipliers(self, found: LpSolution, of_error: bool) -> Multipliers:
        """Convert the solver's multipliers to those of a bound."""
        y = np.zeros(len(self._lo))
        y[self._chosen] = found.row_dual
        # Multipliers of sides that do not exist are rounding errors.
        y = np.clip(y, np.where(np.isinf(self._hi), 0.0, -np.inf), np.where(np.isinf(self._lo), 0.0, np.inf))
        return self.relaxation.multipliers(y, of_error)
