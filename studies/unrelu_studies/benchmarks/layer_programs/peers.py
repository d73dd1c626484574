r"""The solvers that a layer program is timed against.

Both get the program shifted and scaled, h = h0 + sigma w, with the least-squares point h0 and the size sigma of its
errors: with their absolute tolerances of about 1e-7 they are wrong by up to 10% of the objective otherwise. Finding h0,
and writing the program into arrays, is a gift to them: only the call of the solver is timed. Each gets the program in
the fastest of the forms that were tried.

With u = W h and the rows of :class:`~unrelu.layerwise.Rows` (p and q are 1 for a ReLU):

* ``linprog``: ``scipy.optimize.linprog(method="highs")`` on the primal program. "linf" is written as
  :math:`\min \delta,\; W w - p \delta \le m',\; -W w - q \delta \le -\ell'` in a dense ``A_ub``. "l1" is written with
  residuals that are split into two parts, :math:`\min \sum e^+ + e^-,\; W w - p e^+ + q e^- = m'` on two-sided rows and
  :math:`W w - p e^+ \le m'` on the others, in sparse ``A_eq`` and ``A_ub``.
* ``highs``: HiGHS's dual simplex through highspy on the dual program; passing the model is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from unrelu.layerwise import LayerSystem, Rows
from unrelu.layerwise.layer_program import largest_violation, sum_of_violations
from unrelu.layerwise.one_sided_least_squares import one_sided_least_squares
from unrelu.lp.highs import LinearProgram
from unrelu.lp.highs import solve as solve_highs
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array
from unrelu_studies.kit.timing import timed

# sigma is at least this share of max|x|: where the least-squares point fits exactly there is nothing to scale by.
_SMALLEST = 1e-9


@dataclass(frozen=True, eq=False)
class Timed:
    """Seconds of one call, and the h that it found; None where the solver did not report an optimum."""

    seconds: float
    h: Array | None


def objective(system: LayerSystem, rows: Rows, norm: str, h: Array) -> float:
    """max_j e_j(h) or sum_j e_j(h) at h moved into its bounds, recomputed in units of the output."""
    errors = rows.violation(np.asarray(system.matrix @ system.inside(h)))
    return float(errors.max() if norm == "linf" else errors.sum())


@dataclass(frozen=True, eq=False)
class Scaled:
    """A layer program in w, h = h0 + sigma w; its objective is that of h divided by sigma.

    Attributes:
        system, rows, norm: the program in h.
        h0: (k,), the one-sided least-squares point.
        sigma: the largest ("linf") or mean ("l1") error at h0.
    """

    system: LayerSystem
    rows: Rows
    norm: str
    h0: Array
    sigma: float

    @classmethod
    def of(cls, system: LayerSystem, rows: Rows, norm: str) -> Scaled:
        """Shift to the least-squares point and scale by its errors."""
        h0, *_ = one_sided_least_squares(system, rows)
        errors = rows.violation(np.asarray(system.matrix @ h0))
        size = float(errors.max() if norm == "linf" else errors.mean())
        return cls(system, rows, norm, h0, max(size, _SMALLEST * float(np.abs(rows.target).max()), 1e-300))

    def point(self, w: Array) -> Array:
        """h = h0 + sigma w."""
        return np.asarray(self.h0 + self.sigma * w)

    @property
    def sides(self) -> tuple[Array, Array]:
        """The sides of the rows in w at delta = 0, (n,) each: (low - W h0) / sigma and (high - W h0) / sigma."""
        wh = np.asarray(self.system.matrix @ self.h0)
        return (self.rows.low - wh) / self.sigma, (self.rows.high - wh) / self.sigma

    @property
    def box(self) -> Array:
        """The bounds of w, (k, 2)."""
        return (np.column_stack([self.system.lower, self.system.upper]) - self.h0[:, None]) / self.sigma


def inequalities(program: Scaled) -> dict[str, Any]:
    """The arguments of linprog for "linf", with a dense ``A_ub`` only."""
    rows, matrix = program.rows, program.system.matrix
    low, high = program.sides
    up, down = np.isfinite(high), np.isfinite(low)
    over, under = rows.high_slope[up, None], rows.low_slope[down, None]
    return {
        "c": np.append(np.zeros(program.system.n_in), 1.0),
        "A_ub": np.block([[matrix[up], -over], [-matrix[down], -under]]),
        "b_ub": np.concatenate([high[up], -low[down]]),
        "bounds": np.vstack([program.box, [0.0, np.inf]]),
    }


def split(program: Scaled) -> dict[str, Any]:
    """The arguments of linprog for "l1" with the residual of a two-sided row split into its two parts, sparse.

    The variables are w, one e+ for every row with an upper side and one e- for every row with a lower one.
    """
    rows, matrix = program.rows, sparse.csr_array(program.system.matrix)
    k = program.system.n_in
    low, high = program.sides
    up, down = np.isfinite(high), np.isfinite(low)
    over = sparse.diags_array(rows.high_slope, format="csr")[:, np.flatnonzero(up)]
    under = sparse.diags_array(rows.low_slope, format="csr")[:, np.flatnonzero(down)]
    both, only_up, only_down = up & down, up & ~down, down & ~up
    equal = sparse.hstack([matrix, -over, under], format="csr")
    a_ub = sparse.vstack([equal[only_up], -equal[only_down]], format="csc")
    errors = equal.shape[1] - k
    arguments = {
        "c": np.concatenate([np.zeros(k), np.ones(errors)]),
        "bounds": np.concatenate([program.box, np.tile([0.0, np.inf], (errors, 1))]),
    }
    if both.any():
        arguments |= {"A_eq": sparse.csc_array(equal[both]), "b_eq": high[both]}
    if a_ub.shape[0]:
        arguments |= {"A_ub": a_ub, "b_ub": np.concatenate([high[only_up], -low[only_down]])}
    return arguments


def dual_program(program: Scaled) -> LinearProgram:
    """The dual program, whose row dual is w."""
    system, rows = program.system, program.rows
    r0 = (np.asarray(system.matrix @ program.h0) - rows.center) / program.sigma
    make = sum_of_violations if program.norm == "l1" else largest_violation
    lower, upper = program.box.T
    return make(system.matrix, r0, lower, upper, *rows.box)[0].dual()[0]


def _linprog(program: Scaled) -> Timed:
    arguments = inequalities(program) if program.norm == "linf" else split(program)
    result, seconds = timed(lambda: linprog(**arguments, method="highs"))
    return Timed(seconds, program.point(result.x[: program.system.n_in]) if result.status == 0 else None)


def _highs(program: Scaled) -> Timed:
    dual = dual_program(program)
    solution, seconds = timed(lambda: solve_highs(dual))
    optimal = solution.status is LpStatus.OPTIMAL
    return Timed(seconds, program.point(solution.row_dual[: program.system.n_in]) if optimal else None)


@dataclass(frozen=True)
class Peer:
    """A solver of the scaled program.

    Attributes:
        solve: seconds and point.
        note: what is timed.
    """

    solve: Callable[[Scaled], Timed]
    note: str


PEERS = {
    "linprog": Peer(
        _linprog, "linprog highs, scaled; l1: residuals split into two parts, sparse A_eq and A_ub; linf: dense A_ub"
    ),
    "highs": Peer(_highs, "scaled dual program, dual simplex, no presolve; passing the model and solving"),
}
